//! A run scans the dataset and walks the graph of the suite, first to look results up, then to compute the others. It writes the run
//! folder after every stage.

mod board;
pub mod environment;
pub mod live;
pub mod nodes;
pub mod places;
mod replaced;
mod room;
mod tokens;

use std::time::Duration;

use tessera_tokenizers::{BuildContext, ImageNames, LabelsInOrder};

pub use tokens::{TokenFiles, tokenize_split};

use crate::data::{check_two_classes, said_of_single};
use crate::folder::held::RunFolder;
use crate::folder::layout::SUMS;
use crate::folder::{sums, write};
use crate::plan::graph::{Graph, Node, Part, label};
use crate::plan::walk::{Ignored, Mode, State, Walk};
use crate::stages::common::context::{Context, Images};
use crate::stages::common::limits::Limit;
use crate::stages::common::rates::{Cost, Rates};
use crate::stages::common::stage::{Stage, provenance};
use crate::stages::{Decoded, fit_seeds, scan};
use crate::suite::Row;
use board::Board;
use replaced::Replaced;
use room::check_memory;

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
    /// Returns whether a cell without the result of a node is pending; with [`Depth::Score`] only those that all seeds of a row share.
    fn covers(self, node: &Node<'_>) -> bool {
        self == Self::All || node.is_shared()
    }

    /// Returns which nodes a run computes: those of selected rows, and with [`Depth::All`] those that they need.
    fn wanted(self, graph: &Graph<'_>) -> Vec<bool> {
        let nodes = graph.nodes.iter();
        let selected: Vec<bool> = nodes.map(|n| n.selected && self.covers(n)).collect();
        match self {
            Self::All => graph.with_inputs(&selected),
            Self::Score => selected,
        }
    }
}

/// Result of a run.
#[derive(Clone, Debug)]
pub struct Finished {
    /// A table for the terminal.
    pub summary: String,
    /// Number of failed cells.
    pub failed: usize,
    /// Number of cells that lack something on which no number depends.
    pub incomplete: usize,
    /// Number of cells.
    pub cells: usize,
}

/// Runs the suite and writes into the folder `out`.
///
/// # Errors
/// If the images or the suite are invalid, the store or the folder cannot be written, or the user interrupts. A failed cell is not an
/// error: `results.csv` contains the reason, and the other cells continue.
pub fn run(cx: &Context<'_>, depth: Depth, out: &RunFolder) -> anyhow::Result<Finished> {
    let images = scanned(cx)?;
    check_images(cx, &images, depth)?;
    if depth == Depth::All {
        images.dataset.keep_for_training();
    }
    let graph = Graph::of(cx)?;
    let wanted = depth.wanted(&graph);
    let walk = || Walk::new(cx, &images, &graph, |node| wanted[node.at]);
    let replaced = Replaced::of(out.path())?;
    replaced.check_images(cx, &images.scan)?;
    replaced.check_kept(cx)?;
    replaced.check_uncomputed(cx, walk())?;
    if !replaced.earlier.costs.is_empty() {
        // What fails, starts slowly or is interrupted does so before the folder of an earlier run changes.
        let mut look = walk();
        look.pass(Mode::Lookup, &mut Ignored)?;
        check_memory(&look, cx, &images, depth == Depth::All)?;
    }
    let mut walk = walk();
    let covered = |node: &Node<'_>| depth.covers(node);
    let mut board = Board::new(cx, &images, (&graph, &covered), out)?;
    replaced.tell_leaving(cx, &graph, &board.data.records);
    walk.pass(Mode::Lookup, &mut board)?;
    board.write_about(&replaced.earlier)?;
    check_memory(&walk, cx, &images, depth == Depth::All)?;
    let mut compute = || {
        if walk.is_missing() {
            walk.attach_decoded()?;
        }
        walk.pass(Mode::Compute, &mut board)
    };
    let ended = compute();
    // Finished results are written even if the run ends early.
    let finished = finish(cx, &board, out)?;
    ended?;
    Ok(finished)
}

/// Writes results, tables and page.
fn finish(cx: &Context<'_>, board: &Board<'_>, out: &RunFolder) -> anyhow::Result<Finished> {
    board.write()?;
    // Those of an earlier report, or of a run with other `report.tables`, would show earlier numbers.
    let of_suite = &cx.suite.file.report.tables;
    let tables = write::with_present(out.path(), of_suite);
    let others = tables.iter().filter(|number| !of_suite.contains(number));
    let others: Vec<String> = others.map(u32::to_string).collect();
    if !others.is_empty() {
        cx.reporter.note(&format!(
            "tables {} of the folder are not in `report.tables` and are written again, with the rows of this run only",
            others.join(", ")
        ));
    }
    write::report(out, &board.data, &tables, &[])?;
    let records = &board.data.records;
    let list = out.explained(sums::of(out.path(), records))?;
    out.put(&out.path().join(SUMS), list.as_bytes())?;
    Ok(Finished {
        summary: tessera_reports::summary(records, &board.data.metrics_of_records().collect()),
        failed: board.failed(),
        incomplete: board.incomplete(),
        cells: records.len(),
    })
}

/// The plan of a row, or of a row and a fit or a seed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// The row; `None` for what belongs to no row.
    pub row: Option<String>,
    /// Its seed of pretraining, if it is the plan of one.
    pub seed: Option<u64>,
    /// Why the row is skipped.
    pub skipped: Option<String>,
    /// Its stages and their costs; `None` for a stored stage.
    pub stages: Vec<(&'static str, Option<Cost>)>,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Rows, fits and seeds, and at last the report.
    pub all: Vec<Planned>,
    /// Rows whose tokenizers could not be measured, so that their costs are guesses, and why.
    pub guessed: Vec<(String, String)>,
    /// What limits the stages that train.
    pub limits: Vec<Limit>,
}

/// What a plan begins with.
struct Survey<'s, 'a> {
    images: &'s Images,
    /// The graph, with the states of its nodes.
    walk: &'s Walk<'a>,
    /// The decoded cache, if missing stages need it.
    decoded: Option<Decoded>,
    /// Whether the decoded cache is stored.
    is_decoded: bool,
    /// The rates of this machine; `None` if nothing is missing, or if nobody asks for costs.
    rates: Option<Rates<'s>>,
}

/// Looks every node up, measures rows of this machine for the time `measured` if there is one, and calls `work`. Refuses a suite for which
/// this machine has too little memory if it is `here` that it will run.
fn surveyed<T>(
    cx: &Context<'_>,
    depth: Depth,
    (measured, here): (Option<Duration>, bool),
    work: impl FnOnce(&Survey<'_, '_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let images = scanned(cx)?;
    check_images(cx, &images, depth)?;
    let graph = Graph::of(cx)?;
    let wanted = depth.wanted(&graph);
    let mut walk = Walk::new(cx, &images, &graph, |node| wanted[node.at]);
    walk.pass(Mode::Lookup, &mut Ignored)?;
    if here {
        check_memory(&walk, cx, &images, depth == Depth::All)?;
    }
    let missing = walk.is_missing();
    let decoded = Decoded::of(cx, &images).filter(|_| missing);
    let is_decoded = cx
        .store
        .again(|| stored_decoded(cx, &walk, decoded.as_ref()))?;
    let rates = measured.filter(|_| missing).map(|measured| {
        let rates = Rates::new(cx, &images, depth == Depth::All)?;
        anyhow::Ok(rates.within(measured))
    });
    work(&Survey {
        images: &images,
        walk: &walk,
        decoded,
        is_decoded,
        rates: rates.transpose()?,
    })
}

/// Returns the stages of every row, fit and seed, and the estimated costs on this machine of those that are not stored.
///
/// # Errors
/// As for [`run`].
pub fn dry_run(cx: &Context<'_>, depth: Depth) -> anyhow::Result<DryRun> {
    surveyed(cx, depth, (Some(Duration::MAX), true), |survey| {
        let (walk, rates) = (survey.walk, &survey.rates);
        let cost = |stage: &dyn Stage, stored: bool| {
            let rates = rates.as_ref().filter(|_| !stored);
            let cost = rates.map(|rates| stage.cost(rates));
            anyhow::Ok((stage.name(), cost.transpose()?))
        };
        let mut all = Vec::new();
        if let Some(decoded) = &survey.decoded {
            all.push(Planned {
                name: "decoded_cache: u8".into(),
                row: None,
                seed: None,
                skipped: None,
                stages: vec![cost(decoded, survey.is_decoded)?],
            });
        }
        for (row, nodes) in listed(cx, walk) {
            let stages = nodes.into_iter().map(|at| {
                let stored = walk.states[at] == State::Done;
                cost(walk.graph.nodes[at].stage.as_ref(), stored)
            });
            let stages = stages.collect::<anyhow::Result<_>>()?;
            all.push(Planned { stages, ..row });
        }
        all.retain(|row| row.skipped.is_some() || !row.stages.is_empty());
        if let Some(rates) = rates {
            all.push(report(cx, depth, rates));
        }
        let guessed = rates.as_ref().map_or_else(Vec::new, Rates::guessed);
        let limits = rates
            .as_ref()
            .map_or_else(Vec::new, |rates| rates.limits.all());
        Ok(DryRun {
            all,
            guessed,
            limits,
        })
    })
}

/// Estimates tables, figures and page, from those of `suites/quickstart.yaml`: a figure per metric and evaluation if at least three rows
/// have ids, and for each evaluation the predictors, the losses and the classes.
fn report(cx: &Context<'_>, depth: Depth, rates: &Rates<'_>) -> Planned {
    /// Bytes of a figure (SVG and PNG), of everything on the page and in the tables, and of a row there.
    const BYTES: [f64; 3] = [215e3, 300e3, 40e3];
    /// Seconds of a figure, and bytes of memory.
    const DRAWING: (f64, f64) = (0.03, 16e6);
    let file = &cx.suite.file;
    let evaluations = match depth {
        Depth::All => file.recipes().evaluations(),
        _ => 0,
    };
    let evaluations = evaluations + usize::from(file.bag_of_tokens.is_some());
    let rows = || cx.suite.rows.iter().filter(|row| row.skip.is_none());
    let with_ids = rows().filter(|row| rates.codes(row).is_some()).count();
    let metrics = tessera_reports::Record::predictors().count();
    let metrics = if with_ids >= 3 { metrics } else { 0 };
    let figures = (evaluations * (metrics + 2)) as f64;
    let cost = Cost {
        seconds: figures * DRAWING.0,
        memory: rates.base() + DRAWING.1,
        disk: figures * BYTES[0] + BYTES[1] + BYTES[2] * rows().count() as f64,
    };
    Planned {
        name: "tables, figures and page".into(),
        row: None,
        seed: None,
        skipped: None,
        stages: vec![("report", Some(cost))],
    }
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
        Some(entry) => decoded.attach(&walk.inputs(), &entry).map(|_| true),
        None => Ok(false),
    }
}

/// Lists rows with their fits and seeds, then the rows that they need: each without its stages, and with its wanted nodes.
fn listed(cx: &Context<'_>, walk: &Walk<'_>) -> Vec<(Planned, Vec<usize>)> {
    let rows = cx.suite.rows.iter().chain(&cx.suite.needed);
    let parts = rows.flat_map(|row| {
        let fits = (0..fit_seeds(cx, row).len().max(1)).map(Part::Fit);
        let seeds = cx.suite.file.seeds.iter().map(|seed| Part::Seed(*seed));
        fits.chain(seeds).map(move |part| (row, part))
    });
    let line = |(row, part): (&Row, Part)| {
        let nodes = walk.graph.nodes.iter().enumerate();
        let nodes = nodes.filter(|(at, node)| {
            let of_part = node.row.name == row.name && node.part == part;
            of_part && walk.wanted[*at] && node.stage.is_stored()
        });
        let planned = Planned {
            name: label(cx, &row.name, part),
            row: Some(row.name.clone()),
            seed: match part {
                Part::Seed(seed) => Some(seed),
                Part::Fit(_) => None,
            },
            skipped: row.left_out().filter(|_| part == Part::Fit(0)),
            stages: Vec::new(),
        };
        (planned, nodes.map(|(at, _)| at).collect())
    };
    parts.map(line).collect()
}

/// Checks that the images suffice for training and evaluation.
fn check_images(cx: &Context<'_>, images: &Images, depth: Depth) -> anyhow::Result<()> {
    let is_all = depth == Depth::All;
    let has_accuracies = cx.suite.has_accuracies(is_all);
    if is_all || has_accuracies {
        images.scan.check_val()?;
    }
    if has_accuracies {
        check_two_classes(images.scan.single_class())?;
    }
    if !is_all {
        return Ok(());
    }
    cx.suite.check_held_out(&images.scan.train.labels)?;
    let train = images.counts()[0];
    cx.suite.check_train_size(train)?;
    for note in cx.suite.cut_batches(train) {
        cx.reporter.note(&note);
    }
    Ok(())
}

/// Scans the images and checks every row with their number.
fn scanned(cx: &Context<'_>) -> anyhow::Result<Images> {
    let images = scan::scan(cx)?;
    for line in images.scan.omitted.lines(NAMED) {
        cx.reporter.note(&line);
    }
    if let Some(repeated) = images.scan.repeated() {
        cx.reporter.note(&format!(
            "{repeated} are byte for byte in the train split too; accuracies on them measure memory"
        ));
    }
    if let Some(twice) = images.scan.twice() {
        cx.reporter.note(&format!(
            "{twice} have the bytes of an earlier one; they count twice, and others may be missing in their place"
        ));
    }
    if let Some(contradictions) = images.scan.contradictions() {
        cx.reporter.note(&format!(
            "of both splits, {contradictions} have the bytes of an image of another class; no model can name both classes, so remove one of them"
        ));
    }
    if let Some(class) = images.scan.single_class() {
        cx.reporter.note(&said_of_single(class));
    }
    if let Some((a, b)) = images.scan.look_alike() {
        cx.reporter.note(&format!(
            "the classes {a:?} and {b:?} look the same; if they are one, give their images one name"
        ));
    }
    let val = Some(&images.scan.val).filter(|val| !val.is_empty());
    if let Some(absent) = val.and_then(|val| images.scan.absent(val)) {
        cx.reporter.note(&format!(
            "the val split has no images of {absent}; accuracies are over the images of the others"
        ));
    }
    let names = |split, index| images.scan.line(split, index);
    let labels = |split, index: usize| images.dataset.labels(split)[index];
    cx.with_build(Some(images.counts()), |build| {
        let names: Option<&ImageNames<'_>> = Some(&names);
        let order: Option<&LabelsInOrder<'_>> = Some(&labels);
        cx.suite.recheck_rows(&BuildContext {
            names,
            order,
            ..*build
        })
    })?;
    Ok(images)
}

#[cfg(test)]
mod tests;
