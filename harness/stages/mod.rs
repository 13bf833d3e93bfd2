//! The stages, one file each: `scan -> fit -> count -> {metrics, gallery, bag}`, `fit -> pretrain -> {knn, linear_probe, attentive, fine_tune}`.
//!
//! Each file contains one type that implements [`Stage`], the stage's name and its version. The functions here
//! return the stages of a row. [`plan`](crate::plan) builds a graph from them.

pub mod attentive;
pub mod bag;
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
use tessera_tokenizers::Plan;

pub use decoded::Decoded;

/// A stage of a graph.
pub type BoxedStage<'a> = Box<dyn Stage + 'a>;

/// Returns the stages of a row and a fit that all seeds share, in order: tokenizer and training-free metrics. Fits after the first
/// have no pictures.
pub fn of_fit<'a>(cx: &Context<'a>, row: &'a Row, fit: usize) -> Vec<BoxedStage<'a>> {
    let mut stages: Vec<BoxedStage<'a>> = Vec::new();
    if let Some(fit) = fit::Fit::of(cx, row, fit) {
        stages.push(Box::new(fit));
    }
    let plan = cx.row_plan(row, None);
    if may_give_ids(row, plan.as_ref()) {
        let sharp_t = cx.suite.file.metrics.tcas_sharp_t;
        stages.push(Box::new(count::Count { row, fit }));
        stages.push(Box::new(metrics::Metrics { row, fit, sharp_t }));
        if fit == 0 && may_have_joint_ids(plan.as_ref()) {
            stages.push(Box::new(gallery::Pictures { row }));
            if let Some(recipe) = &row.recipes.bag_of_tokens {
                stages.push(Box::new(bag::Bag { row, recipe }));
            }
        }
    }
    stages
}

/// Returns whether a row has counts and metrics. Without a plan it has, so that the error of `fit` or `count` is in the record.
fn may_give_ids(row: &Row, plan: Option<&Plan>) -> bool {
    row.tokenizer.is_some() && plan.is_none_or(Plan::gives_ids)
}

/// Returns whether every patch has one id, or codes with a joint code; without a plan it may.
fn may_have_joint_ids(plan: Option<&Plan>) -> bool {
    let target = plan.and_then(|plan| plan.target);
    target.is_none_or(|target| target.codebook_size().is_some())
}

/// Returns the seeds with which a row is fitted; none if it learns nothing. Without metrics nothing needs a second fit.
pub fn fit_seeds<'a>(cx: &Context<'a>, row: &'a Row) -> &'a [u64] {
    let seeds = &cx.suite.fit_seeds;
    let count = match fit::Fit::of(cx, row, 0).is_some_and(|fit| fit.is_stored()) {
        false => 0,
        true if may_give_ids(row, cx.row_plan(row, None).as_ref()) => seeds.len(),
        true => 1,
    };
    &seeds[..count]
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
    if let Some(recipe) = &recipes.attentive_probe {
        stages.push(Box::new(Cell { row, seed, recipe }));
    }
    if let Some(recipe) = &recipes.fine_tune {
        stages.push(Box::new(Cell { row, seed, recipe }));
    }
    stages
}
