//! The graph of a suite: every stage of every row and seed, with the stages it waits for.
//!
//! It depends on the suite and the registry, never on results, so a node has the same id on every machine.

use crate::stages::common::context::Context;
use crate::stages::common::stage::Artifact;
use crate::stages::{BoxedStage, encoder, fit_seeds, of_fit, of_seed};
use crate::suite::Row;

/// A stage of the graph.
pub struct Node<'a> {
    /// Its index in the graph.
    pub at: usize,
    /// `stage/row`, `stage/row/seed`, or `stage/row/fit-N` for a fit after the first.
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

impl Node<'_> {
    /// Returns whether all seeds share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.part, Part::Fit(_))
    }
}

impl<'a> Graph<'a> {
    /// Builds the graph of the rows of the run folder that are not skipped: first the stages that all seeds share (rows that need another row's
    /// encoder last), then seed by seed.
    pub fn of(cx: &Context<'a>) -> Self {
        let shown = cx.suite.shown();
        let rows = || shown.iter().copied().filter(|row| row.skip.is_none());
        let mut graph = Self { nodes: Vec::new() };
        let (waiting, ready): (Vec<_>, Vec<_>) = rows().partition(|row| !row.after.is_empty());
        for row in ready.into_iter().chain(waiting) {
            for fit in 0..fit_seeds(cx, row).len().max(1) {
                graph.add_all(cx, row, Part::Fit(fit), of_fit(cx, row, fit));
            }
        }
        for seed in &cx.suite.file.seeds {
            for row in rows() {
                graph.add_all(cx, row, Part::Seed(*seed), of_seed(row, *seed));
            }
        }
        graph
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

    fn add_all(&mut self, cx: &Context<'a>, row: &'a Row, part: Part, stages: Vec<BoxedStage<'a>>) {
        for stage in stages {
            self.add(cx, row, part, stage);
        }
    }

    /// Adds a node after those it needs, unless it exists, and returns its index.
    fn add(&mut self, cx: &Context<'a>, row: &'a Row, part: Part, stage: BoxedStage<'a>) -> usize {
        let (kind, name) = (stage.name(), &row.name);
        let id = match part {
            Part::Fit(0) => format!("{kind}/{name}"),
            Part::Fit(fit) => format!("{kind}/{name}/fit-{}", cx.suite.fit_seeds[fit]),
            Part::Seed(seed) => format!("{kind}/{name}/{seed}"),
        };
        if let Some(at) = self.nodes.iter().position(|node| node.id == id) {
            return at;
        }
        let needs = stage.needs();
        let after = needs.iter().filter_map(|need| self.provider(cx, need));
        let after = after.collect();
        let at = self.nodes.len();
        self.nodes.push(Node {
            at,
            id,
            label: label(cx, name, part),
            row,
            part,
            selected: cx.suite.rows.iter().any(|other| other.name == row.name),
            after,
            stage,
        });
        at
    }

    /// Returns the index of the node that provides `need`. Adds it if necessary: another row's encoder and that row's tokenizer.
    fn provider(&mut self, cx: &Context<'a>, need: &Artifact<'_>) -> Option<usize> {
        let gives = |node: &Node<'_>| node.stage.gives() == Some(*need);
        if let Some(at) = self.nodes.iter().position(gives) {
            return Some(at);
        }
        let (row, part, stages) = match *need {
            Artifact::Tokenizer(name, fit) | Artifact::Counts(name, fit) => {
                let row = cx.suite.row(name)?;
                (row, Part::Fit(fit), of_fit(cx, row, fit))
            }
            Artifact::Encoder(name, seed) => {
                let row = cx.suite.row(name)?;
                (row, Part::Seed(seed), vec![encoder(row, seed)])
            }
        };
        let mut stages = stages.into_iter();
        let stage = stages.find(|stage| stage.gives() == Some(*need))?;
        Some(self.add(cx, row, part, stage))
    }
}
