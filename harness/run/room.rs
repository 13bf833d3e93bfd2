//! Refuses a run that needs more memory than this machine has, before it asks for any.

use anyhow::bail;
use tessera_tokenizers::memory;

use crate::plan::walk::{State, Walk};
use crate::stages::common::context::{Context, Images};
use crate::stages::common::rates::Rates;

/// Part of an estimate that a run needs at least: estimates are within 30 % of what was measured (BENCHMARKS.md).
const LEAST: f64 = 0.7;

/// Checks the memory of every stage of `walk` that is to be computed, estimated from shapes. On a GPU, a batch is divided into parts that fit.
///
/// # Errors
/// The row, the stage, the estimate, the memory of the machine and the remedy.
pub fn check_memory(
    walk: &Walk<'_>,
    cx: &Context<'_>,
    images: &Images,
    trains: bool,
) -> anyhow::Result<()> {
    let Some(limit) = memory::limit().filter(|_| !cx.compute.device().is_cuda()) else {
        return Ok(());
    };
    let rates = Rates::unmeasured(cx, images, trains)?;
    for node in &walk.graph.nodes {
        let computes = walk.wanted[node.at] && walk.states[node.at] == State::Missing;
        if !computes || !node.stage.is_stored() {
            continue;
        }
        let needed = node.stage.cost(&rates)?.memory;
        if LEAST * needed > limit as f64 {
            let [needed, limit] = [needed, limit as f64].map(|bytes| bytes / 1e9);
            bail!(
                "{}: row {:?}: {} needs about {needed:.1} GB of memory, and this process may use {limit:.1} GB; choose smaller numbers for image_size, \
                 patch_size, batch or the codebook, fewer --threads, or a machine with more memory",
                cx.suite.path.display(),
                node.row.name,
                node.stage.name()
            );
        }
    }
    Ok(())
}
