//! The stages: `scan -> fit -> {count, pretrain}`, `count -> {metrics, gallery}`, `pretrain -> {knn, probe, finetune}`.
//!
//! Each is a pure function of its provenance; each file here says what that is and calls the one who can do it.

pub mod count;
pub mod decoded;
pub mod evaluate;
pub mod fit;
pub mod gallery;
pub mod pretrain;
pub mod scan;
mod sources;
pub mod targets;
pub mod tokens;
mod upstream;

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tessera_models::{self as models, RunContext};

use super::context::{Context, StageError};
use crate::store::Workspace;

/// The learning rate that `base_lr` (at batch 256) means at `batch` (MAE: linear scaling).
fn scaled(base_lr: f64, batch: usize) -> f64 {
    base_lr * batch as f64 / 256.0
}

/// Calls a training loop with checkpoints in the stage's state folder, progress and the user's wish to stop.
fn training<T>(
    cx: &Context<'_>,
    work: &Workspace<'_>,
    train: impl FnOnce(&RunContext<'_>) -> models::Result<T>,
) -> anyhow::Result<T> {
    let (reporter, stop) = (cx.reporter, cx.stop);
    Ok(train(&RunContext {
        state: Some(work.state),
        checkpoint_every: cx.checkpoint_every,
        progress: &|at| {
            let skipped = match at.skipped {
                0 => String::new(),
                count => format!(", {count} skipped"),
            };
            let note = format!("steps, loss {:.4}{skipped}", at.loss);
            reporter.progress(at.step, at.steps, &note);
            if !at.loss.is_finite() && at.skipped <= TOLD {
                reporter.note(&skipped_step(at));
            }
        },
        note: &|line| reporter.note(line),
        compute: cx.compute.clone(),
        interrupted: &|| stop.load(Ordering::Relaxed),
        workers: cx.workers,
    })?)
}

/// Skipped steps that are told one by one; the progress counts them all.
const TOLD: usize = 5;

fn skipped_step(at: &models::Progress) -> String {
    format!(
        "step {} is skipped: its loss or gradients are not finite (loss {}); {} so far",
        at.step, at.loss, at.skipped
    )
}

/// A result with the number of steps that were skipped, where there are any.
fn with_skipped(mut result: Value, history: &[models::EpochRecord]) -> Value {
    let skipped: usize = history.iter().map(|epoch| epoch.skipped_steps).sum();
    if skipped > 0 {
        result["skipped_steps"] = json!(skipped);
    }
    result
}

/// A stored result that this version cannot read: a bug, as versions are part of the key.
fn unreadable(error: serde_json::Error) -> StageError {
    StageError::Failed(format!(
        "the stored result cannot be read ({error}); remove it with `bench store gc --keep-days 0`"
    ))
}
