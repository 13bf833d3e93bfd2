//! The graph of a suite: every stage of every row and seed, with the stages it waits for.
//!
//! It depends on the suite and the registry, never on results, so a node has the same id on every machine.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;

use crate::stages::common::context::Context;
use crate::stages::common::stage::Artifact;
use crate::stages::{BoxedStage, encoder, fit_seeds, of_fit, of_seed};
use crate::suite::Row;

/// A stage of the graph.
pub struct Node<'a> {
    /// Its index in the graph.
    pub at: usize,
    /// `stage/row`, `stage/row/seed`, or `stage/row/fit-N` for a fit after the first, and for the first of a row whose own name ends so.
    pub id: String,
    /// Label for users, as [`label`] returns it.
    pub label: String,
    /// The row.
    pub row: &'a Row,
    /// The seed or the fit.
    pub part: Part,
    /// Whether the row is selected; otherwise a selected row needs this node, or its row is kept.
    pub selected: bool,
    /// Indices of the nodes whose results it uses.
    pub after: Vec<usize>,
    /// The stage.
    pub stage: BoxedStage<'a>,
}

/// The part of a row that a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What all seeds share, with the fit seed of this index. A row without a fitted codebook has index 0 only.
    Fit(usize),
    /// A seed of pretraining and evaluation.
    Seed(u64),
}

/// Returns the label of a part for users: `row`, `row, fit seed N` after the first, or `row, seed N`.
pub fn label(cx: &Context<'_>, row: &str, part: Part) -> String {
    match part {
        Part::Fit(0) => row.to_owned(),
        Part::Fit(fit) => format!("{row}, fit seed {}", cx.suite.fit_seeds[fit]),
        Part::Seed(seed) => format!("{row}, seed {seed}"),
    }
}

/// All nodes in the order of execution: each follows those it waits for.
pub struct Graph<'a> {
    /// The nodes.
    pub nodes: Vec<Node<'a>>,
}

/// A graph under construction. Nodes and artifacts are found by name, so time grows with the number of nodes only.
struct Builder<'c, 'a> {
    cx: &'c Context<'a>,
    nodes: Vec<Node<'a>>,
    ids: HashMap<String, usize>,
    /// The node that gives each artifact.
    providers: HashMap<Artifact<'a>, usize>,
    selected: HashSet<&'a str>,
}

impl Node<'_> {
    /// Returns whether all seeds share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.part, Part::Fit(_))
    }
}

impl<'a> Graph<'a> {
    /// Builds the graph of the rows of the run folder that are not skipped: first the stages that all seeds share (rows that need another row's
    /// encoder last), then seed by seed.
    ///
    /// # Errors
    /// If a stage needs an artifact that no stage of the suite gives: a fault of the program.
    pub fn of(cx: &Context<'a>) -> anyhow::Result<Self> {
        let shown = cx.suite.shown();
        let rows = || shown.iter().copied().filter(|row| row.skip.is_none());
        let mut graph = Builder {
            cx,
            nodes: Vec::new(),
            ids: HashMap::new(),
            providers: HashMap::new(),
            selected: cx.suite.rows.iter().map(|row| row.name.as_str()).collect(),
        };
        let (waiting, ready): (Vec<_>, Vec<_>) = rows().partition(|row| !row.after.is_empty());
        for row in ready.into_iter().chain(waiting) {
            for fit in 0..fit_seeds(cx, row).len().max(1) {
                graph.add_all(row, Part::Fit(fit), of_fit(cx, row, fit))?;
            }
        }
        for seed in &cx.suite.file.seeds {
            for row in rows() {
                graph.add_all(row, Part::Seed(*seed), of_seed(row, *seed))?;
            }
        }
        Ok(Self { nodes: graph.nodes })
    }

    /// Returns, for each node, the index of the last node that uses its result.
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            node.after.iter().for_each(|before| last[*before] = at);
        }
        last
    }

    /// Returns which nodes are `wanted` or needed, directly or indirectly, by a wanted one.
    pub fn with_inputs(&self, wanted: &[bool]) -> Vec<bool> {
        let mut needed = wanted.to_vec();
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if needed[at] {
                node.after.iter().for_each(|before| needed[*before] = true);
            }
        }
        needed
    }
}

/// Returns whether `fit/X/fit-1` could be both the second fit of `X` and the first of the row `name`, `X/fit-1`.
fn ends_as_a_fit(name: &str) -> bool {
    let seed = name.rsplit_once("/fit-").map(|(_, seed)| seed);
    seed.is_some_and(|seed| seed.parse::<u64>().is_ok())
}

impl<'a> Builder<'_, 'a> {
    fn add_all(
        &mut self,
        row: &'a Row,
        part: Part,
        stages: Vec<BoxedStage<'a>>,
    ) -> anyhow::Result<()> {
        for stage in stages {
            self.add(row, part, stage)?;
        }
        Ok(())
    }

    /// Adds a node after those it needs, unless it exists, and returns its index.
    fn add(&mut self, row: &'a Row, part: Part, stage: BoxedStage<'a>) -> anyhow::Result<usize> {
        let (cx, kind, name) = (self.cx, stage.name(), &row.name);
        let id = match part {
            Part::Fit(0) if !ends_as_a_fit(name) => format!("{kind}/{name}"),
            Part::Fit(fit) => format!("{kind}/{name}/fit-{}", cx.suite.fit_seeds[fit]),
            Part::Seed(seed) => format!("{kind}/{name}/{seed}"),
        };
        if let Some(at) = self.ids.get(&id) {
            let known = &self.nodes[*at];
            let is_same = known.row.name == *name && known.part == part;
            anyhow::ensure!(is_same, "{id}: {} has a node of this id", known.label);
            return Ok(*at);
        }
        let needs = stage.needs().into_iter();
        let after = needs.map(|need| {
            let provider = self.provider(&need);
            provider.with_context(|| format!("{id}: no stage gives {need:?}, which it needs"))
        });
        let after = after.collect::<anyhow::Result<_>>()?;
        let at = self.nodes.len();
        self.ids.insert(id.clone(), at);
        if let Some(given) = stage.gives() {
            self.providers.entry(given.of(name)).or_insert(at);
        }
        self.nodes.push(Node {
            at,
            id,
            label: label(cx, name, part),
            row,
            part,
            selected: self.selected.contains(name.as_str()),
            after,
            stage,
        });
        Ok(at)
    }

    /// Returns the index of the node that provides `need`. Adds it if necessary: another row's encoder and that row's tokenizer.
    fn provider(&mut self, need: &Artifact<'_>) -> anyhow::Result<usize> {
        let known: &HashMap<Artifact<'_>, usize> = &self.providers;
        if let Some(at) = known.get(need) {
            return Ok(*at);
        }
        let cx = self.cx;
        let row = cx.suite.row(need.row());
        let row = row.context("the suite has no such row")?;
        let (part, stages) = match *need {
            Artifact::Tokenizer(_, fit) | Artifact::Counts(_, fit) => {
                (Part::Fit(fit), of_fit(cx, row, fit))
            }
            Artifact::Encoder(_, seed) => (Part::Seed(seed), vec![encoder(row, seed)]),
        };
        let mut stages = stages.into_iter();
        let stage = stages.find(|stage| stage.gives() == Some(*need));
        self.add(row, part, stage.context("its row has no such stage")?)
    }
}
