//! Shared by pretraining, linear probing and fine-tuning.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tessera_models::encode::Pool;
use tessera_models::{self as models, RunContext, probe};
use tessera_reports::evaluations::Evaluation;

use super::context::Context;
use crate::npy;
use crate::store::Workspace;
use crate::suite::Pooling;

/// Scales the learning rate `base_lr` from batch 256 to `batch` (linear scaling, as in MAE).
pub fn scaled(base_lr: f64, batch: usize) -> f64 {
    base_lr * batch as f64 / 256.0
}

/// Calls a training loop with checkpoints in the stage's state folder, progress and interruption.
///
/// # Errors
/// Errors of the loop.
pub fn training<T>(
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
            if !at.loss.is_finite() && at.skipped <= NOTED {
                reporter.note(&skipped_step(at));
            }
        },
        note: &|line| reporter.note(line),
        compute: cx.compute.clone(),
        interrupted: &|| stop.load(Ordering::Relaxed),
        workers: cx.workers,
    })?)
}

/// Maximum number of skipped steps with a separate note. The progress counts all.
const NOTED: usize = 5;

fn skipped_step(at: &models::Progress) -> String {
    format!(
        "step {} is skipped: its loss or gradients are not finite (loss {}); {} so far",
        at.step, at.loss, at.skipped
    )
}

/// Adds the number of skipped steps to a result, if there are any.
pub fn with_skipped(mut result: Value, history: &[models::EpochRecord]) -> Value {
    let skipped: usize = history.iter().map(|epoch| epoch.skipped_steps).sum();
    if skipped > 0 {
        result["skipped_steps"] = json!(skipped);
    }
    result
}

/// Converts a recipe's pooling.
pub fn pool(pooling: Pooling) -> Pool {
    match pooling {
        Pooling::Cls => Pool::Cls,
        Pooling::Mean => Pool::Mean,
    }
}

/// Writes the predictions of the evaluation `stage`, `[validation images, columns]`.
///
/// # Errors
/// If the file cannot be written.
pub fn predicted(
    stage: &str,
    work: &Workspace<'_>,
    classes: &[u32],
    columns: usize,
) -> anyhow::Result<()> {
    if let Some(file) = Evaluation::of_stage(stage).and_then(|e| e.predictions) {
        let rows = classes.len() / columns.max(1);
        npy::write(
            &work.out.join(file),
            &[rows, columns],
            classes.iter().copied(),
        )?;
    }
    Ok(())
}

/// Writes the predictions of the classifier that the evaluation `stage` trained, and returns the stage's result.
///
/// # Errors
/// If the file cannot be written.
pub fn evaluated(
    stage: &str,
    work: &Workspace<'_>,
    evaluation: &probe::Evaluation,
    history: &[models::EpochRecord],
) -> anyhow::Result<Value> {
    predicted(stage, work, &evaluation.predictions, evaluation.columns)?;
    let result = json!({"top1": evaluation.top1, "top5": evaluation.top5, "history": history});
    Ok(with_skipped(result, history))
}
