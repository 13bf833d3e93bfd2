//! The stages, one file each: `scan -> fit -> count -> {metrics, gallery}`, `fit -> pretrain -> {knn, linear_probe, fine_tune}`.
//!
//! Each file contains one type that implements [`Stage`], the stage's name and its version. The functions here
//! return the stages of a row. [`plan`](crate::plan) builds a graph from them.

pub mod common;
pub mod count;
pub mod decoded;
pub mod fine_tune;
pub mod fit;
pub mod gallery;
pub mod import;
pub mod knn;
pub mod linear_probe;
pub mod metrics;
pub mod pretrain;
pub mod random;
pub mod scan;
pub mod tokens;

use common::context::Context;
use common::stage::{Cell, Stage};

use crate::suite::Row;

pub use decoded::Decoded;

/// A stage of a graph.
pub type BoxedStage<'a> = Box<dyn Stage + 'a>;

/// Returns the stages of a row that all seeds share, in order: tokenizer and training-free metrics.
pub fn of_row<'a>(cx: &Context<'a>, row: &'a Row) -> Vec<BoxedStage<'a>> {
    let mut stages: Vec<BoxedStage<'a>> = Vec::new();
    if let Some(fit) = fit::Fit::of(cx, row) {
        stages.push(Box::new(fit));
    }
    // Without a plan the stages stay, so that the error of `fit` or `count` is in the record.
    let plan = row.tokenizer.is_some().then(|| cx.row_plan(row, None));
    if plan.is_some_and(|plan| plan.is_none_or(|plan| plan.gives_ids())) {
        let sharp_t = cx.suite.file.metrics.tcas_sharp_t;
        stages.push(Box::new(count::Count { row }));
        stages.push(Box::new(metrics::Metrics { row, sharp_t }));
        stages.push(Box::new(gallery::Pictures { row }));
    }
    stages
}

/// Returns the stage that provides the encoder of a row and a seed.
pub fn encoder<'a>(row: &'a Row, seed: u64) -> BoxedStage<'a> {
    if let Some(path) = &row.checkpoint {
        let recipe = path.as_path();
        return Box::new(Cell { row, seed, recipe });
    }
    match row
        .recipes
        .pretrain
        .as_ref()
        .filter(|_| row.is_pretrained())
    {
        Some(recipe) => Box::new(Cell { row, seed, recipe }),
        None => Box::new(Cell {
            row,
            seed,
            recipe: (),
        }),
    }
}

/// Returns the stages of a row and a seed, in order: the encoder and the evaluations of its recipes.
pub fn of_seed<'a>(row: &'a Row, seed: u64) -> Vec<BoxedStage<'a>> {
    let recipes = &row.recipes;
    let mut stages = vec![encoder(row, seed)];
    if let Some(recipe) = &recipes.knn {
        stages.push(Box::new(Cell { row, seed, recipe }));
    }
    if let Some(recipe) = &recipes.linear_probe {
        stages.push(Box::new(Cell { row, seed, recipe }));
    }
    if let Some(recipe) = &recipes.fine_tune {
        stages.push(Box::new(Cell { row, seed, recipe }));
    }
    stages
}
