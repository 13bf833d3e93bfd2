//! A run scans the dataset and walks the graph of the suite, first to look results up, then to compute the others. It writes the run
//! folder after every stage.

mod board;
pub mod environment;
pub mod live;
pub mod nodes;
mod tokens;

use std::path::Path;

pub use tokens::{TokenFiles, tokenize_split};

use crate::folder::write;
use crate::plan::graph::{Graph, Node};
use crate::plan::walk::{Ignored, Mode, State, Walk};
use crate::stages::common::context::{Context, Images};
use crate::stages::common::rates::{Cost, Rates};
use crate::stages::common::stage::{Stage, provenance};
use crate::stages::{Decoded, scan};
use board::Board;

/// Maximum number of skipped images that are named on the terminal. The run folder lists all.
const NAMED: usize = 5;

/// Extent of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Metrics, training and evaluation.
    All,
    /// Training-free metrics.
    Score,
}

impl Depth {
    /// Returns whether a run computes a node; with [`Depth::Score`] only those that all seeds of a selected row share.
    fn wants(self, node: &Node<'_>) -> bool {
        self == Self::All || (node.seed.is_none() && node.selected)
    }
}

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// A table for the terminal.
    pub summary: String,
    /// Number of failed cells.
    pub failed: usize,
    /// Number of cells.
    pub cells: usize,
}

/// Runs the suite and writes into the folder `out`, which [`write::prepare`] created.
///
/// # Errors
/// If the images or the suite are invalid, the store or the folder cannot be written, or the user interrupts. A failed cell is not an
/// error: `results.csv` contains the reason, and the other cells continue.
pub fn run(cx: &Context<'_>, depth: Depth, out: &Path) -> anyhow::Result<Finished> {
    let images = scanned(cx)?;
    if depth == Depth::All {
        cx.suite.check_neighbours(images.counts()[0])?;
        images.dataset.keep_for_training();
    }
    let graph = Graph::of(cx);
    let mut walk = Walk::new(cx, &images, &graph, |node| depth.wants(node));
    let mut board = Board::new(cx, &images, &walk, out)?;
    walk.pass(Mode::Lookup, &mut board)?;
    board.write_about()?;
    if walk.is_missing() {
        attach_decoded(&mut walk, cx, &images)?;
    }
    let ended = walk.pass(Mode::Compute, &mut board);
    // Finished results are written even if the run ends early.
    let finished = finish(cx, &board, out)?;
    ended?;
    Ok(finished)
}

/// Writes results, tables and page.
fn finish(cx: &Context<'_>, board: &Board<'_>, out: &Path) -> anyhow::Result<Finished> {
    board.write()?;
    write::report(out, &board.data, &cx.suite.file.report.tables, &[])?;
    let records = &board.data.records;
    Ok(Finished {
        summary: tessera_reports::summary(records),
        failed: board.failed(),
        cells: records.len(),
    })
}

/// For suites with `decoded_cache`, decodes all images into the store unless they are stored, and reads images from there.
fn attach_decoded(walk: &mut Walk<'_>, cx: &Context<'_>, images: &Images) -> anyhow::Result<()> {
    let Some(decoded) = Decoded::of(cx, images) else {
        return Ok(());
    };
    cx.store
        .again(|| match walk.beside(&decoded, decoded.label.clone())? {
            Some(entry) => decoded.attach(&walk.inputs(), &entry),
            None => Ok(()),
        })
}

/// The plan of a row, or of a row and a seed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Why the row is skipped.
    pub skipped: Option<String>,
    /// Its stages and their costs; `None` for a stored stage.
    pub stages: Vec<(&'static str, Option<Cost>)>,
}

/// Returns the stages of every row and seed, and the estimated costs on this machine of those that are not stored.
///
/// # Errors
/// As for [`run`].
pub fn dry_run(cx: &Context<'_>, depth: Depth) -> anyhow::Result<Vec<Planned>> {
    let images = scanned(cx)?;
    if depth == Depth::All {
        cx.suite.check_neighbours(images.counts()[0])?;
    }
    let graph = Graph::of(cx);
    let mut walk = Walk::new(cx, &images, &graph, |node| depth.wants(node));
    walk.pass(Mode::Lookup, &mut Ignored)?;
    let decoded = Decoded::of(cx, &images).filter(|_| walk.is_missing());
    let stored = cx
        .store
        .again(|| stored_decoded(cx, &walk, decoded.as_ref()))?;
    let rates = walk.is_missing();
    let rates = rates.then(|| Rates::new(cx, &images, depth == Depth::All));
    let rates = rates.transpose()?;
    let cost = |stage: &dyn Stage, stored: bool| {
        let cost = rates
            .as_ref()
            .filter(|_| !stored)
            .map(|rates| stage.cost(rates));
        anyhow::Ok((stage.name(), cost.transpose()?))
    };
    let mut all = Vec::new();
    if let Some(decoded) = &decoded {
        all.push(Planned {
            name: "decoded_cache: u8".into(),
            skipped: None,
            stages: vec![cost(decoded, stored)?],
        });
    }
    for (name, skipped, nodes) in listed(cx, &walk) {
        let stages = nodes.into_iter().map(|at| {
            let stored = walk.states[at] == State::Done;
            cost(graph.nodes[at].stage.as_ref(), stored)
        });
        all.push(Planned {
            name,
            skipped,
            stages: stages.collect::<anyhow::Result<_>>()?,
        });
    }
    all.retain(|row| row.skipped.is_some() || !row.stages.is_empty());
    Ok(all)
}

/// Attaches a stored decoded cache, so that rates are measured with it. Returns whether it is stored.
fn stored_decoded(
    cx: &Context<'_>,
    walk: &Walk<'_>,
    decoded: Option<&Decoded>,
) -> anyhow::Result<bool> {
    let Some(decoded) = decoded else {
        return Ok(false);
    };
    let provenance = provenance(decoded, decoded.label.clone(), &walk.inputs())?;
    match cx.store.lookup(&provenance)? {
        Some(entry) => decoded.attach(&walk.inputs(), &entry).map(|()| true),
        None => Ok(false),
    }
}

/// A row, or a row and a seed: its name, why it is skipped, and its wanted nodes.
type Listed = (String, Option<String>, Vec<usize>);

/// Lists rows and seeds, then the rows that they need.
fn listed(cx: &Context<'_>, walk: &Walk<'_>) -> Vec<Listed> {
    let rows = cx.suite.rows.iter().chain(&cx.suite.needed);
    let seeds = &cx.suite.file.seeds;
    let cells = rows.flat_map(|row| {
        let seeds = seeds.iter().map(|seed| Some(*seed));
        std::iter::once(None)
            .chain(seeds)
            .map(move |seed| (row, seed))
    });
    let line = |(row, seed): (&crate::suite::Row, Option<u64>)| {
        let nodes = walk.graph.nodes.iter().enumerate();
        let nodes = nodes.filter(|(at, node)| {
            let of_cell = node.row.name == row.name && node.seed == seed;
            of_cell && walk.wanted[*at] && node.stage.is_stored()
        });
        let name = match seed {
            Some(seed) => format!("{}, seed {seed}", row.name),
            None => row.name.clone(),
        };
        let skipped = row.left_out().filter(|_| seed.is_none());
        (name, skipped, nodes.map(|(at, _)| at).collect())
    };
    cells.map(line).collect()
}

/// Scans the images and checks every row with their number.
fn scanned(cx: &Context<'_>) -> anyhow::Result<Images> {
    let images = scan::scan(cx)?;
    for skipped in images.scan.skipped.iter().take(NAMED) {
        let (name, reason) = (&skipped.name, &skipped.reason);
        cx.reporter.note(&format!("skipped image {name}: {reason}"));
    }
    if images.scan.skipped.len() > NAMED {
        let all = images.scan.skipped.len();
        cx.reporter
            .note(&format!("{all} images are skipped in all"));
    }
    if let Some(absent) = images.scan.absent(&images.scan.val) {
        cx.reporter.note(&format!(
            "the val split has no images of {absent}; accuracies are over the images of the others"
        ));
    }
    cx.with_build(Some(images.counts()), |build| cx.suite.recheck_rows(build))?;
    Ok(images)
}

#[cfg(test)]
mod tests;
