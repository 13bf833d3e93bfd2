//! Walks a graph: looks up the result of each node, or announces, locks, computes and stores it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tessera_reports::evaluations::Evaluation;

use super::graph::{Graph, Node};
use crate::stages::Decoded;
use crate::stages::common::context::{Context, Images, StageError};
use crate::stages::common::reporter::Outcome;
use crate::stages::common::stage::{Done, Inputs, Stage, provenance};
use crate::store::{Entry, Held, StoreError, Workspace};

/// State of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No result yet.
    Missing,
    /// It has a result.
    Done,
    /// It failed, or its cell had failed before.
    Failed(String),
}

/// Receives the events of a walk.
pub trait Watch {
    /// A node has a new result.
    ///
    /// # Errors
    /// An error fails the node.
    fn done(&mut self, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        let _ = (node, done);
        Ok(())
    }

    /// A node, and therefore its cell, has failed. Evaluations of a cell may fail one after another.
    ///
    /// # Errors
    /// An error ends the walk.
    fn failed(&mut self, node: &Node<'_>, error: &str) -> anyhow::Result<()> {
        let _ = (node, error);
        Ok(())
    }

    /// A node that should be computed waits for nodes of `others` that are not computed: names of rows, at least one.
    fn waits(&mut self, node: &Node<'_>, others: &[&str]) {
        let _ = (node, others);
    }
}

/// Ignores the events of a walk.
pub struct Ignored;

impl Watch for Ignored {}

/// Whether missing results are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Looks up all stored results, so that a resumed run has them from its start. Failures are ignored, except those of optional stages.
    Lookup,
    /// As [`Mode::Lookup`], but only wanted nodes and those that they need.
    Inputs,
    /// Computes wanted nodes.
    Compute,
    /// Looks up all stored results. A wanted node without a result has failed if the store has a record of its failure.
    Collect,
}

/// A graph with the state of its nodes.
pub struct Walk<'a> {
    cx: &'a Context<'a>,
    images: &'a Images,
    /// The graph.
    pub graph: &'a Graph<'a>,
    /// State of each node.
    pub states: Vec<State>,
    /// Whether [`Mode::Compute`] computes each node.
    pub wanted: Vec<bool>,
    /// Indices of every row's nodes, in order.
    of_row: HashMap<&'a str, Vec<usize>>,
    /// Number of announced stages outside the graph.
    beside: usize,
    /// The decoded pixels that the images are read from.
    decoded: Option<Arc<Held>>,
    /// Seconds and number of computed stages by name.
    seconds: BTreeMap<&'static str, (f64, usize)>,
}

type Given<'a> = Option<Rc<Done<'a>>>;

impl<'a> Walk<'a> {
    /// Creates a walk that computes the nodes that `wants` selects.
    pub fn new(
        cx: &'a Context<'a>,
        images: &'a Images,
        graph: &'a Graph<'a>,
        wants: impl Fn(&Node<'_>) -> bool,
    ) -> Self {
        let mut of_row: HashMap<_, Vec<usize>> = HashMap::new();
        for node in &graph.nodes {
            of_row.entry(&*node.row.name).or_default().push(node.at);
        }
        Self {
            cx,
            images,
            graph,
            states: vec![State::Missing; graph.nodes.len()],
            wanted: graph.nodes.iter().map(wants).collect(),
            of_row,
            beside: 0,
            decoded: None,
            seconds: BTreeMap::new(),
        }
    }

    /// Returns whether a wanted result is missing.
    pub fn is_missing(&self) -> bool {
        let mut counted = self.counted(0, self.states.len());
        counted.any(|at| self.states[at] != State::Done)
    }

    /// Returns the wanted nodes in `from..to` whose results are stored.
    fn counted(&self, from: usize, to: usize) -> impl Iterator<Item = usize> {
        (from..to).filter(|at| self.wanted[*at] && self.graph.nodes[*at].stage.is_stored())
    }

    /// Visits every node once, and again if an entry turns out to be damaged, because the store removes it.
    ///
    /// # Errors
    /// If the user interrupts, the store is unusable, or `watch` ends the walk.
    pub fn pass(&mut self, mode: Mode, watch: &mut dyn Watch) -> anyhow::Result<()> {
        let mut repeats = false;
        self.cx.store.again(|| {
            // What was damaged may be the decoded pixels.
            if std::mem::replace(&mut repeats, true) && self.decoded.is_some() {
                self.attach_decoded()?;
            }
            self.once(mode, watch)
        })
    }

    /// For suites with `decoded_cache`, decodes all images into the store unless they are stored, and reads images from there.
    ///
    /// # Errors
    /// If an image cannot be decoded or the file cannot be written.
    pub fn attach_decoded(&mut self) -> anyhow::Result<()> {
        let Some(decoded) = Decoded::of(self.cx, self.images) else {
            return Ok(());
        };
        self.cx.store.again(|| {
            let entry = self.beside(&decoded, decoded.label.clone())?;
            let entry = entry.map(|entry| decoded.attach(&self.inputs(), &entry));
            self.decoded = entry.transpose()?;
            Ok(())
        })
    }

    /// Visits every node once. Drops the product of a node after its last use.
    fn once(&mut self, mode: Mode, watch: &mut dyn Watch) -> anyhow::Result<()> {
        let graph = self.graph;
        let last_uses = graph.last_uses();
        let needed = graph.with_inputs(&self.wanted);
        let mut given: Vec<Given<'a>> = vec![None; graph.nodes.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            if matches!(mode, Mode::Lookup | Mode::Collect) || needed[at] {
                let done = self.step(at, mode, &given, watch)?;
                given[at] = done.filter(|_| last_uses[at] > at).map(Rc::new);
            }
            for before in node.after.iter().filter(|before| last_uses[**before] == at) {
                given[*before] = None;
            }
        }
        Ok(())
    }

    /// Visits a node unless its cell has failed. Returns its result, if it has one.
    fn step(
        &mut self,
        at: usize,
        mode: Mode,
        given: &[Given<'a>],
        watch: &mut dyn Watch,
    ) -> anyhow::Result<Option<Done<'a>>> {
        if let Some(error) = self.failure_of_cell(at) {
            self.states[at] = State::Failed(error);
            return Ok(None);
        }
        let damaged = self.cx.store.damaged();
        match self.visit(at, mode, given, watch) {
            Ok(done) => return Ok(done),
            Err(StageError::Failed(error)) if self.cx.store.damaged() > damaged => {
                anyhow::bail!(error)
            }
            Err(StageError::Failed(error))
                if self.wanted[at] && matches!(mode, Mode::Compute | Mode::Collect) =>
            {
                self.fail(at, error, watch)?;
            }
            Err(StageError::Failed(error)) if mode == Mode::Compute => {
                self.states[at] = State::Failed(error);
            }
            // It may be computed later in the run. If it is not, what it lacks is known.
            Err(StageError::Failed(error))
                if mode == Mode::Lookup && self.graph.nodes[at].stage.is_optional() =>
            {
                watch.failed(&self.graph.nodes[at], &error)?;
            }
            Err(StageError::Failed(_)) => (),
            Err(other) => return Err(other.into()),
        }
        Ok(None)
    }

    /// Visits a node and returns its result, if it has one.
    fn visit(
        &mut self,
        at: usize,
        mode: Mode,
        given: &[Given<'a>],
        watch: &mut dyn Watch,
    ) -> Result<Option<Done<'a>>, StageError> {
        let node = &self.graph.nodes[at];
        let computes = mode == Mode::Compute && self.wanted[at];
        if let Some(error) = self.failure_of_input(at) {
            return Err(StageError::Failed(error));
        }
        let missing = node.after.iter().filter(|before| given[**before].is_none());
        let missing: Vec<&Node<'_>> = missing.map(|at| &self.graph.nodes[*at]).collect();
        if !missing.is_empty() {
            let names = missing.iter().map(|before| before.row.name.as_str());
            let others: Vec<&str> = names.filter(|name| *name != node.row.name).collect();
            if computes && !others.is_empty() {
                watch.waits(node, &others);
            }
            return Ok(None);
        }
        let given = node
            .after
            .iter()
            .filter_map(|before| given[*before].clone());
        let on = Inputs {
            cx: self.cx,
            images: self.images,
            given: given.collect(),
        };
        let stage = node.stage.as_ref();
        let entry = match stage.is_stored() {
            true => match self.entry((stage, node.label.clone()), &on, Some(at), computes)? {
                None if mode == Mode::Collect || (mode == Mode::Lookup && stage.is_optional()) => {
                    return self.recorded_failure(stage, node, &on, mode).map(|()| None);
                }
                None => return Ok(None),
                found => found,
            },
            false => None,
        };
        let damaged = self.cx.store.damaged();
        let product = match &entry {
            Some(entry) => stage.product(&on, entry),
            None => stage.build(&on),
        };
        let product = product.inspect_err(|error| {
            // A computation has its own line, this has none.
            if let StageError::Failed(error) = error
                && matches!(mode, Mode::Compute | Mode::Collect)
                && self.cx.store.damaged() == damaged
            {
                let (name, label) = (stage.name(), &node.label);
                let line = format!("  {name}: {label}: FAILED: {error}");
                self.cx.reporter.note(&line);
            }
        })?;
        let done = Done { entry, product };
        if self.states[at] != State::Done {
            let written = watch.done(node, &done);
            // A run folder that cannot be written fails the cell, except for an optional stage.
            written.map_err(|error| StageError::Failed(format!("{error:#}")))?;
            self.states[at] = State::Done;
        }
        Ok(Some(done))
    }

    fn failure(&self, at: usize) -> Option<&String> {
        match &self.states[at] {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns why an earlier stage of a node's cell or row has failed, which ends the cell. A failed evaluation does not: no other uses it.
    fn failure_of_cell(&self, at: usize) -> Option<String> {
        let node = &self.graph.nodes[at];
        let of_row = self.of_row.get(&*node.row.name)?.iter();
        let mut before = of_row.copied().take_while(|other| *other < at);
        before.find_map(|other| {
            let other = &self.graph.nodes[other];
            let same_cell = other.is_shared() || other.part == node.part;
            let stage = other.stage.as_ref();
            let evaluates = Evaluation::of_stage(stage.name()).is_some();
            let counts = same_cell && !stage.is_optional() && !evaluates;
            self.failure(other.at).filter(|_| counts).cloned()
        })
    }

    /// Returns why a row that a node waits for has failed.
    fn failure_of_input(&self, at: usize) -> Option<String> {
        let mut before = self.graph.nodes[at].after.iter();
        before.find_map(|other| {
            let name = &self.graph.nodes[*other].row.name;
            Some(format!("row {name:?}: {}", self.failure(*other)?))
        })
    }

    fn fail(&mut self, at: usize, error: String, watch: &mut dyn Watch) -> anyhow::Result<()> {
        let node = &self.graph.nodes[at];
        if node.stage.is_optional() {
            let (stage, row) = (node.stage.name(), &node.row.name);
            self.cx
                .reporter
                .note(&format!("no {stage} of {row}: {error}"));
        }
        watch.failed(node, &error)?;
        self.states[at] = State::Failed(error);
        Ok(())
    }

    /// Returns the entry of a stage outside the graph, computed if it is missing.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn beside(
        &mut self,
        stage: &dyn Stage,
        label: String,
    ) -> Result<Option<Entry>, StageError> {
        let on = self.inputs();
        self.entry((stage, label), &on, None, true)
    }

    /// Returns the inputs of a stage that needs only images.
    pub fn inputs(&self) -> Inputs<'a> {
        Inputs {
            cx: self.cx,
            images: self.images,
            given: Vec::new(),
        }
    }

    /// Looks a stage's entry up, or announces, locks, computes and stores it. `at` is its index in the graph.
    fn entry(
        &mut self,
        (stage, label): (&dyn Stage, String),
        on: &Inputs<'_>,
        at: Option<usize>,
        computes: bool,
    ) -> Result<Option<Entry>, StageError> {
        let (cx, provenance) = (self.cx, provenance(stage, label, on)?);
        if let Some(entry) = cx.store.lookup(&provenance)? {
            // Once: later passes look up again.
            if !computes && at.is_none_or(|at| self.states[at] != State::Done) {
                let (stage, label, key) = (provenance.stage, &provenance.label, provenance.key());
                let line = format!("  {stage}: {label}: stored in {stage}/{key}");
                cx.reporter.detail(&line);
            }
            return Ok(Some(entry));
        }
        if !computes {
            return Ok(None);
        }
        if cx.interrupted() {
            return Err(StageError::Interrupted);
        }
        let label = format!("{}: {}", provenance.stage, provenance.label);
        self.beside += usize::from(at.is_none());
        let (index, total, left) = self.position(at);
        cx.reporter.begin(&label, index, total, left);
        let (start, damaged) = (Instant::now(), cx.store.damaged());
        let run = |work: &Workspace<'_>| {
            let result = stage.run(on, work)?;
            // A checkpoint that was replaced meanwhile would be stored under the key of the earlier one.
            anyhow::ensure!(
                stage.provenance(on)? == provenance.inputs,
                "a file that the stage read has changed since the run began; run the same command again"
            );
            Ok(result)
        };
        let result = cx.store.get_or(&provenance, &|| cx.interrupted(), run);
        let result = result.map_err(StageError::from);
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(_) => {
                cx.store.forget_failure(&provenance)?;
                cx.reporter.end(&label, seconds, Outcome::Done);
            }
            Err(error) => {
                let text = error.to_string();
                let outcome = match error {
                    StageError::Interrupted => Outcome::Interrupted,
                    // The pass is repeated.
                    _ if cx.store.damaged() > damaged => Outcome::Damaged(&text),
                    StageError::Failed(error) => {
                        note_unrecorded(cx, cx.store.record_failure(&provenance, error));
                        Outcome::Failed(&text)
                    }
                    _ => Outcome::Failed(&text),
                };
                cx.reporter.end(&label, seconds, outcome);
            }
        }
        let (sum, count) = self.seconds.entry(stage.name()).or_default();
        (*sum, *count) = (*sum + seconds, *count + 1);
        result.map(Some)
    }

    /// Returns the failure that the store has recorded for a node, as an error.
    fn recorded_failure(
        &self,
        stage: &dyn Stage,
        node: &Node<'_>,
        on: &Inputs<'_>,
        mode: Mode,
    ) -> Result<(), StageError> {
        let provenance = provenance(stage, node.label.clone(), on)?;
        match self.cx.store.failure(&provenance)? {
            // In the words of the run in which it failed.
            Some(failed) if mode == Mode::Lookup => Err(StageError::Failed(failed.error)),
            Some(failed) => Err(StageError::Failed(failed.to_string())),
            None => Ok(()),
        }
    }

    /// Returns the index of a stage from 1, the number of stages, and the seconds left if every kind of missing stage was timed.
    fn position(&self, at: Option<usize>) -> (usize, usize, Option<f64>) {
        let all = self.graph.nodes.len();
        let mut missing =
            (self.counted(at.unwrap_or(0), all)).filter(|at| self.states[*at] == State::Missing);
        let left = missing.try_fold(0.0, |left, at| {
            let (sum, count) = self.seconds.get(self.graph.nodes[at].stage.name())?;
            Some(left + sum / *count as f64)
        });
        let before = at.map_or(0, |at| 1 + self.counted(0, at).count());
        let total = self.beside + self.counted(0, all).count();
        (self.beside + before, total, left)
    }
}

/// Says that a failure is not in the store. The other rows go on: the record only tells later calls that look results up.
fn note_unrecorded(cx: &Context<'_>, recorded: Result<(), StoreError>) {
    if let Err(error) = recorded {
        let note = format!(
            "{error}; the failure of the stage is not recorded, so later calls count it as not computed"
        );
        cx.reporter.note(&note);
    }
}
