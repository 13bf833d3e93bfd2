//! A run: scan, then per row fit and count, then per seed and row pretrain and evaluate; results after every stage.
//!
//! Two passes over the same graph. The first only looks things up, so that `results.csv` is complete from the start of
//! a resumed run; the second computes what is missing. Each stage is a file in `stages`, each knows its provenance,
//! and [`Context::stage`] is the one way any of them runs.

mod cell;
pub mod compare;
mod context;
pub mod environment;
pub mod estimate;
pub mod figures;
pub mod live;
pub mod output;
mod page;
pub mod reporter;
mod results;
mod stages;
mod tokens;

use std::cell::OnceCell;
use std::path::Path;

pub use context::{Context, Images, Mode, StageError};
pub use output::prepare_output;
pub use tokens::{TokenFiles, tokenize_split};

use crate::suite::Row;
use estimate::{Cost, Estimator};
use results::Board;
use stages::fit::Fitted;

/// Skipped images that are named on the terminal; the run folder lists all.
const TOLD: usize = 5;

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Training and evaluation too.
    All,
    /// The training-free metrics only.
    Score,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// A table for the terminal.
    pub summary: String,
    /// Cells that failed.
    pub failed: usize,
    /// All cells.
    pub cells: usize,
}

/// Runs the suite into the folder `out`, which [`prepare_output`] has made.
///
/// # Errors
/// When the images or the suite are wrong, the store or the folder cannot be written, or the user asks to stop. A cell
/// that fails is no error: it stands in `results.csv`, and the others go on.
pub fn run(cx: &Context<'_>, depth: Depth, out: &Path) -> anyhow::Result<Finished> {
    let images = scan(cx)?;
    if depth == Depth::All {
        images.dataset.keep_for_training();
    }
    let mut board = Board::new(cx, &images, Some(out));
    board.forget_shown();
    pass(cx, Mode::Lookup, Depth::All, &images, &mut board)?;
    output::write_about(cx, &images, out)?;
    board.write()?;
    if is_missing(cx, depth, &board) {
        stages::decoded::attach(cx, &images)?;
    }
    cx.plan(planned(cx, depth));
    let ended = pass(cx, Mode::Compute, depth, &images, &mut board);
    // What is finished is shown even when the run ends early.
    board.write()?;
    output::write_tables(
        out,
        &cx.suite.resolved,
        board.records(),
        &cx.suite.file.report.tables,
    )?;
    output::write_drawn(out, &cx.suite.resolved, board.records())?;
    ended?;
    Ok(Finished {
        summary: tessera_reports::summary(board.records()),
        failed: board.failed(),
        cells: board.records().len(),
    })
}

/// A row, or a row and seed, before it runs.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Why nothing of it is planned.
    pub skipped: Option<String>,
    /// Its stages; `None` of a stage that is stored, else what it will cost.
    pub stages: Vec<(&'static str, Option<Cost>)>,
}

/// Which stages of every row and seed are stored, and what the others would cost on this machine.
///
/// # Errors
/// As [`run`].
pub fn dry_run(cx: &Context<'_>, depth: Depth) -> anyhow::Result<Vec<Planned>> {
    let images = scan(cx)?;
    let mut board = Board::new(cx, &images, None);
    pass(cx, Mode::Lookup, depth, &images, &mut board)?;
    // Measured when the first stage that is missing asks for it.
    let estimator = OnceCell::new();
    let estimate = |row: &Row, stage| -> anyhow::Result<Cost> {
        if estimator.get().is_none() {
            let _ = estimator.set(Estimator::new(cx, &images, depth)?);
        }
        Ok(estimator
            .get()
            .map_or(Cost::default(), |e| e.stage(row, stage)))
    };
    let planned = |name: String, row: &Row, stages: Vec<&'static str>, found: &[&'static str]| {
        let stages = stages
            .into_iter()
            .map(|stage| match found.contains(&stage) {
                true => Ok((stage, None)),
                false => Ok((stage, Some(estimate(row, stage)?))),
            });
        anyhow::Ok(Planned {
            name,
            skipped: row.left_out(),
            stages: stages.collect::<anyhow::Result<_>>()?,
        })
    };
    let mut all = Vec::new();
    if is_missing(cx, depth, &board) {
        all.extend(estimate::decoded_row(cx, &images)?);
    }
    for (at, row) in cx.suite.rows.iter().enumerate() {
        if row.skip.is_some() {
            all.push(planned(row.name.clone(), row, Vec::new(), &[])?);
            continue;
        }
        all.push(planned(
            row.name.clone(),
            row,
            row_stages(cx, row),
            &board.found(at, None),
        )?);
        if depth == Depth::All {
            for (s, seed) in cx.suite.file.seeds.iter().enumerate() {
                let name = format!("{}, seed {seed}", row.name);
                let found = board.found(at, Some(s));
                all.push(planned(name, row, seed_stages(row), &found)?);
            }
        }
    }
    all.retain(|row| row.skipped.is_some() || !row.stages.is_empty());
    Ok(all)
}

/// Scans, and has every row checked against the number of images.
fn scan(cx: &Context<'_>) -> anyhow::Result<Images> {
    let images = stages::scan::scan(cx)?;
    for skipped in images.scan.skipped.iter().take(TOLD) {
        let (name, reason) = (&skipped.name, &skipped.reason);
        cx.reporter.note(&format!("skipped image {name}: {reason}"));
    }
    if images.scan.skipped.len() > TOLD {
        let all = images.scan.skipped.len();
        cx.reporter
            .note(&format!("{all} images are skipped in all"));
    }
    let counts = [images.scan.train.len(), images.scan.val.len()];
    cx.with_build(Some(counts), |build| cx.suite.recheck_rows(build))?;
    Ok(images)
}

/// Once over the graph.
fn pass(
    cx: &Context<'_>,
    mode: Mode,
    depth: Depth,
    images: &Images,
    board: &mut Board<'_>,
) -> anyhow::Result<()> {
    let fitted = score_rows(cx, mode, depth, images, board)?;
    if depth == Depth::Score {
        return Ok(());
    }
    for (s, seed) in cx.suite.file.seeds.iter().enumerate() {
        for (at, row) in cx.suite.rows.iter().enumerate() {
            let ready = row.tokenizer.is_none() || fitted[at].is_some();
            if row.skip.is_some() || !ready {
                continue;
            }
            let cell = cell::Cell {
                cx,
                images,
                row,
                seed: *seed,
            };
            let whole = cell.train(mode, fitted[at].as_ref(), &mut |piece| {
                board.trained(at, s, piece)
            });
            if board.settle(at, Some(s), mode, whole)? == Some(true) {
                board.done(at, Some(s))?;
            }
        }
    }
    Ok(())
}

/// Scores every row, those that need the encoder of another row last; their tokenizers, where there are any.
fn score_rows(
    cx: &Context<'_>,
    mode: Mode,
    depth: Depth,
    images: &Images,
    board: &mut Board<'_>,
) -> anyhow::Result<Vec<Option<Fitted>>> {
    let rows = &cx.suite.rows;
    let (waiting, ready): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).partition(|at| !rows[*at].after.is_empty());
    let mut all = vec![None; rows.len()];
    for at in ready.into_iter().chain(waiting) {
        let row = &rows[at];
        if row.skip.is_some() {
            continue;
        }
        let mut waits = false;
        if row.tokenizer.is_some() {
            let scored = cell::score(cx, mode, images, row, &mut |piece| board.scored(at, piece));
            let settled = board.settle(at, None, mode, scored)?;
            // A row that failed has said so.
            waits = matches!(settled, Some(None));
            all[at] = settled.flatten();
        }
        if depth == Depth::Score && mode == Mode::Compute {
            match waits {
                true => tell_waiting(cx, row),
                false => board.done(at, None)?,
            }
        }
    }
    Ok(all)
}

fn tell_waiting(cx: &Context<'_>, row: &Row) {
    let after = Vec::from_iter(row.after.iter().map(String::as_str)).join(", ");
    let name = &row.name;
    cx.reporter.note(&format!(
        "{name} is left pending: it needs the pretrained encoder of {after}, which `bench run` makes"
    ));
}

/// Whether a stage of a cell has no result yet.
fn is_missing(cx: &Context<'_>, depth: Depth, board: &Board<'_>) -> bool {
    let lacks = |found: Vec<&str>, stages: Vec<&str>| stages.iter().any(|s| !found.contains(s));
    let rows = cx.suite.rows.iter().enumerate();
    rows.filter(|(_, row)| row.skip.is_none()).any(|(at, row)| {
        let seeds = match depth {
            Depth::All => 0..cx.suite.file.seeds.len(),
            Depth::Score => 0..0,
        };
        lacks(board.found(at, None), row_stages(cx, row))
            || seeds
                .into_iter()
                .any(|s| lacks(board.found(at, Some(s)), seed_stages(row)))
    })
}

/// The stages of all cells, for "3 of 40".
fn planned(cx: &Context<'_>, depth: Depth) -> Vec<&'static str> {
    let rows = || cx.suite.rows.iter().filter(|row| row.skip.is_none());
    let mut stages: Vec<&'static str> = rows().flat_map(|row| row_stages(cx, row)).collect();
    if depth == Depth::All {
        for _ in &cx.suite.file.seeds {
            stages.extend(rows().flat_map(seed_stages));
        }
        // Looked up once more when these rows are fitted.
        stages.extend(rows().flat_map(|row| upstream_stages(cx, row)));
    }
    stages
}

/// Stages of a row that all seeds share.
fn row_stages(cx: &Context<'_>, row: &Row) -> Vec<&'static str> {
    let Some(plan) = cx.row_plan(row, None) else {
        return Vec::new();
    };
    let mut stages = Vec::new();
    if plan.fit.is_some() {
        stages.push("fit");
    }
    if plan.gives_ids() {
        stages.extend(["count", "metrics", "gallery"]);
    }
    stages
}

/// Stages of the rows that `row` waits for, and of those that they wait for.
fn upstream_stages(cx: &Context<'_>, row: &Row) -> Vec<&'static str> {
    let needed = row.after.iter().filter_map(|name| cx.suite.row(name));
    let stages = needed.flat_map(|row| {
        let fit = row_stages(cx, row).into_iter().filter(|s| *s == "fit");
        let made = seed_stages(row)
            .into_iter()
            .filter(|s| ["import", "pretrain"].contains(s));
        let further = upstream_stages(cx, row);
        fit.chain(made).chain(further).collect::<Vec<_>>()
    });
    stages.collect()
}

fn seed_stages(row: &Row) -> Vec<&'static str> {
    let recipes = &row.recipes;
    let mut stages = Vec::new();
    if row.checkpoint.is_some() {
        stages.push("import");
    }
    if row.is_pretrained() {
        stages.push("pretrain");
    }
    if recipes.knn.is_some() {
        stages.push("knn");
    }
    if recipes.linear_probe.is_some() {
        stages.push("probe");
    }
    if recipes.fine_tune.is_some() {
        stages.push("finetune");
    }
    stages
}
