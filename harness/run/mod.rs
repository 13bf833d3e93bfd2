//! A run: scan, then a walk over the graph of the suite that first looks results up and then computes; the run folder is written
//! after every stage.

mod board;
pub mod environment;
pub mod live;
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

/// Skipped images that are named on the terminal; the run folder lists all.
const NAMED: usize = 5;

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Training and evaluation too.
    All,
    /// The training-free metrics only.
    Score,
}

impl Depth {
    /// Whether a run computes a node: with [`Depth::Score`] only what the seeds of a selected row share.
    fn wants(self, node: &Node<'_>) -> bool {
        self == Self::All || (node.seed.is_none() && node.selected)
    }
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

/// Runs the suite into the folder `out`, which [`write::prepare`] has made.
///
/// # Errors
/// When the images or the suite are wrong, the store or the folder cannot be written, or the user asks to stop. A cell
/// that fails is no error: `results.csv` says why, and the others go on.
pub fn run(cx: &Context<'_>, depth: Depth, out: &Path) -> anyhow::Result<Finished> {
    let images = scanned(cx)?;
    if depth == Depth::All {
        cx.suite.check_neighbours(images.counts()[0])?;
    }
    if depth == Depth::All {
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
    // What is finished is shown even when the run ends early.
    board.write()?;
    write::report(out, &board.data, &cx.suite.file.report.tables, &[])?;
    ended?;
    let records = &board.data.records;
    Ok(Finished {
        summary: tessera_reports::summary(records),
        failed: board.failed(),
        cells: records.len(),
    })
}

/// Has the images of a suite that says `decoded_cache` read from the store, decoding them into it first where they are missing.
fn attach_decoded(walk: &mut Walk<'_>, cx: &Context<'_>, images: &Images) -> anyhow::Result<()> {
    if let Some(decoded) = Decoded::of(cx, images)
        && let Some(entry) = walk.beside(&decoded, decoded.label.clone())?
    {
        decoded.attach(&walk.inputs(), &entry)?;
    }
    Ok(())
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
    let images = scanned(cx)?;
    if depth == Depth::All {
        cx.suite.check_neighbours(images.counts()[0])?;
    }
    let graph = Graph::of(cx);
    let mut walk = Walk::new(cx, &images, &graph, |node| depth.wants(node));
    walk.pass(Mode::Lookup, &mut Ignored)?;
    let decoded = Decoded::of(cx, &images).filter(|_| walk.is_missing());
    let mut stored = None;
    if let Some(decoded) = &decoded {
        stored = cx
            .store
            .lookup(&provenance(decoded, decoded.label.clone(), &walk.inputs())?);
        // Rates are then measured on them.
        if let Some(entry) = &stored {
            decoded.attach(&walk.inputs(), entry)?;
        }
    }
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
            stages: vec![cost(decoded, stored.is_some())?],
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

/// A row, or a row and a seed: its name, why it is skipped, and its wanted nodes.
type Listed = (String, Option<String>, Vec<usize>);

/// Row by row and seed by seed, then what the rows need of others.
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

/// Scans, and has every row checked against the number of images.
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
