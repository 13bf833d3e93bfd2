//! The graph of a suite for schedulers: `bench plan` lists its nodes, `bench run --node` computes one of them, on any machine that has the
//! store, and `bench run --collect` writes the run folder from the store.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use super::board::Board;
use super::replaced::{PAUSE, Replaced};
use super::room::check_memory;
use super::{Depth, Finished, check_images, finish, scanned, surveyed};
use crate::folder::held::RunFolder;
use crate::plan::graph::{Graph, Node, Part};
use crate::plan::walk::{Ignored, Mode, State, Walk};
use crate::stages::common::context::{Context, StageError};
use crate::stages::common::rates::Cost;
use crate::stages::common::stage::{Artifact, Stage};
use crate::stages::scan;

/// Time in which a plan measures rows. A sweep of hundreds of rows is not measured row by row.
const MEASURED: Duration = Duration::from_secs(4);
/// Id of the node that scans the images, and decodes them for `decoded_cache`. All others wait for it.
pub const SCAN: &str = scan::NAME;
/// Id of the last node, `bench run --collect`.
pub const COLLECT: &str = "collect";

/// A node of the plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Its id, equal on every machine: `scan`, `STAGE/ROW`, `STAGE/ROW/fit-N`, `STAGE/ROW/SEED` or `collect`.
    pub id: String,
    /// Name of the stage.
    pub stage: String,
    /// The row; `None` for `scan` and `collect`.
    pub row: Option<String>,
    /// The seed; `None` if all seeds share the node.
    pub seed: Option<u64>,
    /// Ids of the nodes that must end before this one.
    pub after: Vec<String>,
    /// Whether its result is in the store.
    pub stored: bool,
    /// Whether it makes or uses a tokenizer or an encoder, which compute on a GPU if there is one.
    pub gpu: bool,
    /// Maximum number of cooperating processes.
    pub ranks_max: usize,
    /// Its cost on this machine; `None` if it is stored.
    pub cost: Option<PlannedCost>,
    /// Fingerprint of the images, of the node `scan`. With it as `--scan`, other machines use the stored scan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// The estimated cost of a node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PlannedCost {
    /// Seconds.
    pub seconds: f64,
    /// Peak of memory, bytes.
    pub memory_bytes: f64,
    /// Bytes that it adds to the store and the run folder.
    pub disk_bytes: f64,
}

impl From<Cost> for PlannedCost {
    fn from(cost: Cost) -> Self {
        Self {
            seconds: cost.seconds,
            memory_bytes: cost.memory,
            disk_bytes: cost.disk,
        }
    }
}

/// Returns the nodes in an order in which they can be computed, and stores the scan for the machines that compute them. `costs` measures this
/// machine, to estimate their costs. Refuses a run folder `out` into which [`collect`] would not write.
///
/// # Errors
/// As for [`run`](super::run).
pub fn plan(
    cx: &Context<'_>,
    depth: Depth,
    (out, costs): (Option<&Path>, bool),
) -> anyhow::Result<Vec<PlannedNode>> {
    surveyed(cx, depth, (costs.then_some(MEASURED), false), |survey| {
        if let Some(out) = out {
            Replaced::of(out)?.check_images(cx, &survey.images.scan)?;
        }
        scan::keep(cx, survey.images)?;
        let (walk, rates) = (survey.walk, &survey.rates);
        let cost = |stage: &dyn Stage, stored: bool| {
            let rates = rates.as_ref().filter(|_| !stored);
            let cost = rates.map(|rates| stage.cost(rates)).transpose()?;
            anyhow::Ok(cost.map(PlannedCost::from))
        };
        let decoded = survey.decoded.as_ref();
        let is_scanned = decoded.is_none() || survey.is_decoded;
        let scan = PlannedNode {
            id: SCAN.into(),
            stage: SCAN.into(),
            row: None,
            seed: None,
            after: Vec::new(),
            stored: is_scanned,
            gpu: false,
            ranks_max: 1,
            cost: match decoded {
                Some(decoded) => cost(decoded, is_scanned)?,
                None => None,
            },
            fingerprint: Some(survey.images.scan.fingerprint.0.clone()),
        };
        let mut all = vec![scan.clone()];
        let needed = walk.graph.with_inputs(&walk.wanted);
        for node in stored_nodes(walk.graph).filter(|node| needed[node.at]) {
            let stored = walk.states[node.at] == State::Done;
            all.push(PlannedNode {
                id: node.id.clone(),
                stage: node.stage.name().into(),
                row: Some(node.row.name.clone()),
                seed: match node.part {
                    Part::Seed(seed) => Some(seed),
                    Part::Fit(_) => None,
                },
                after: before(walk.graph, node),
                stored,
                gpu: uses_gpu(node.stage.as_ref()),
                ranks_max: 1,
                cost: cost(node.stage.as_ref(), stored)?,
                fingerprint: None,
            });
        }
        let after = all.iter().skip(1).map(|node| node.id.clone()).collect();
        all.push(PlannedNode {
            id: COLLECT.into(),
            stage: COLLECT.into(),
            after,
            stored: false,
            cost: None,
            fingerprint: None,
            ..scan
        });
        Ok(all)
    })
}

/// Returns whether a stage makes or uses a tokenizer or an encoder. Others, such as metrics, only read counts.
fn uses_gpu(stage: &dyn Stage) -> bool {
    let needs = stage.needs();
    let mut all = stage.gives().into_iter().chain(needs);
    all.any(|artifact| matches!(artifact, Artifact::Tokenizer(..) | Artifact::Encoder(..)))
}

/// Returns the nodes with a result in the store. The others are computed again by each node that uses them.
fn stored_nodes<'g, 'a>(graph: &'g Graph<'a>) -> impl Iterator<Item = &'g Node<'a>> {
    graph.nodes.iter().filter(|node| node.stage.is_stored())
}

/// Returns the ids of the stored nodes that `node` uses, directly or through nodes that are not stored; `scan` if there are none.
fn before(graph: &Graph<'_>, node: &Node<'_>) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut open = node.after.clone();
    while let Some(at) = open.pop() {
        match &graph.nodes[at] {
            stored if stored.stage.is_stored() => _ = found.insert(at),
            other => open.extend(&other.after),
        }
    }
    match found.is_empty() {
        true => vec![SCAN.into()],
        false => found.iter().map(|at| graph.nodes[*at].id.clone()).collect(),
    }
}

/// How the computation of one node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// Its result is in the store.
    Stored,
    /// It waits for results of the nodes with these ids.
    Waits(Vec<String>),
    /// It failed, or one that it uses did.
    Failed(String),
}

/// Computes one node and stores its result, or its failure. Does not use the run folder.
///
/// # Errors
/// If there is no such node, and as for [`run`](super::run).
pub fn run_node(cx: &Context<'_>, depth: Depth, id: &str) -> anyhow::Result<NodeEnd> {
    let images = scanned(cx)?;
    check_images(cx, &images, depth)?;
    if depth == Depth::All {
        images.dataset.keep_for_training();
    }
    let graph = Graph::of(cx)?;
    let mut walk = Walk::new(cx, &images, &graph, |node| node.id == id);
    if id == SCAN {
        scan::keep(cx, &images)?;
        walk.attach_decoded()?;
        return Ok(NodeEnd::Stored);
    }
    let node = stored_nodes(&graph).find(|node| node.id == id);
    let node = node.ok_or_else(|| {
        anyhow!("--node {id:?}: the suite has no such node; `bench plan SUITE` lists them")
    })?;
    let hidden = Instant::now() + cx.store.hidden();
    loop {
        walk.pass(Mode::Inputs, &mut Ignored)?;
        if walk.states[node.at] == State::Done {
            return Ok(NodeEnd::Stored);
        }
        if missing(&walk, node).is_empty() {
            check_memory(&walk, cx, &images, depth == Depth::All)?;
            walk.attach_decoded()?;
            break;
        }
        // An input that another machine has just finished appears when this machine's cache of names expires.
        if cx.interrupted() {
            return Err(StageError::Interrupted.into());
        }
        if Instant::now() >= hidden {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    walk.pass(Mode::Compute, &mut Ignored)?;
    Ok(match &walk.states[node.at] {
        State::Done => NodeEnd::Stored,
        State::Failed(error) => NodeEnd::Failed(error.clone()),
        State::Missing => NodeEnd::Waits(missing(&walk, node)),
    })
}

/// Returns the ids of the nodes without a result that `node` uses.
fn missing(walk: &Walk<'_>, node: &Node<'_>) -> Vec<String> {
    let ids = before(walk.graph, node);
    let is_missing = |id: &String| {
        let node = walk.graph.nodes.iter().find(|node| node.id == *id);
        node.is_some_and(|node| walk.states[node.at] != State::Done)
    };
    ids.into_iter().filter(is_missing).collect()
}

/// Writes the run folder `out` from the results in the store and the recorded failures. Returns the ids of the nodes that have neither. If
/// `awaits`, looks for their results again while a cache of names may hide them.
///
/// # Errors
/// As for [`run`](super::run).
pub fn collect(
    cx: &Context<'_>,
    depth: Depth,
    (out, awaits): (&RunFolder, bool),
) -> anyhow::Result<(Finished, Vec<String>)> {
    let images = scanned(cx)?;
    let graph = Graph::of(cx)?;
    let wanted = depth.wanted(&graph);
    let walk = || Walk::new(cx, &images, &graph, |node| wanted[node.at]);
    let hidden = match awaits {
        true => cx.store.hidden(),
        false => Duration::ZERO,
    };
    let hidden = Instant::now() + hidden;
    let replaced = Replaced::of(out.path())?;
    replaced.check_images(cx, &images.scan)?;
    replaced.check_kept(cx)?;
    if replaced.lacks(cx) {
        let mut look = walk();
        look.pass(Mode::Collect, &mut Ignored)?;
        if look.is_missing() {
            replaced.check_store(cx, hidden)?;
        }
    }
    replaced.check_collected(cx, walk, hidden)?;
    let mut walk = walk();
    let covered = |node: &Node<'_>| depth.covers(node);
    let mut board = Board::new(cx, &images, (&graph, &covered), out)?;
    replaced.tell_leaving(cx, &graph, &board.data.records);
    let missing = loop {
        walk.pass(Mode::Collect, &mut board)?;
        let missing: Vec<String> = stored_nodes(&graph)
            .filter(|node| {
                let wanted = walk.wanted[node.at] && !node.stage.is_optional();
                wanted && walk.states[node.at] == State::Missing
            })
            .map(|node| node.id.clone())
            .collect();
        if missing.is_empty() || Instant::now() >= hidden {
            break missing;
        }
        if cx.interrupted() {
            return Err(StageError::Interrupted.into());
        }
        std::thread::sleep(PAUSE);
    };
    board.write_about(&replaced.earlier)?;
    Ok((finish(cx, &board, out)?, missing))
}
