//! The graph of a suite: every stage of every row and seed, with the stages it waits for.
//!
//! It depends on the suite and the registry, never on results, so a node has the same id on every machine.

use crate::stages::common::context::Context;
use crate::stages::common::stage::Artifact;
use crate::stages::{BoxedStage, encoder, of_row, of_seed};
use crate::suite::Row;

/// A stage of the graph.
pub struct Node<'a> {
    /// Its index in the graph.
    pub at: usize,
    /// `stage/row`, or `stage/row/seed`.
    pub id: String,
    /// Label for users: `row`, or `row, seed N`.
    pub label: String,
    /// The row.
    pub row: &'a Row,
    /// The seed; `None` for a stage that all seeds share.
    pub seed: Option<u64>,
    /// Whether the row is selected; otherwise a selected row needs this node, or its row is kept.
    pub selected: bool,
    /// Indices of the nodes whose results it uses.
    pub after: Vec<usize>,
    /// The stage.
    pub stage: BoxedStage<'a>,
}

/// All nodes in the order of execution: each follows those it waits for.
pub struct Graph<'a> {
    /// The nodes.
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Graph<'a> {
    /// Builds the graph of the selected and kept rows that are not skipped: first the stages that all seeds share (rows that need another row's
    /// encoder last), then seed by seed.
    pub fn of(cx: &Context<'a>) -> Self {
        let rows = || cx.suite.rows.iter().chain(&cx.suite.kept);
        let rows = || rows().filter(|row| row.skip.is_none());
        let mut graph = Self { nodes: Vec::new() };
        let (waiting, ready): (Vec<_>, Vec<_>) = rows().partition(|row| !row.after.is_empty());
        for row in ready.into_iter().chain(waiting) {
            graph.add_all(cx, row, None, of_row(cx, row));
        }
        for seed in &cx.suite.file.seeds {
            for row in rows() {
                graph.add_all(cx, row, Some(*seed), of_seed(row, *seed));
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

    fn add_all(
        &mut self,
        cx: &Context<'a>,
        row: &'a Row,
        seed: Option<u64>,
        stages: Vec<BoxedStage<'a>>,
    ) {
        for stage in stages {
            self.add(cx, row, seed, stage);
        }
    }

    /// Adds a node after those it needs, unless it exists, and returns its index.
    fn add(
        &mut self,
        cx: &Context<'a>,
        row: &'a Row,
        seed: Option<u64>,
        stage: BoxedStage<'a>,
    ) -> usize {
        let (kind, name) = (stage.name(), &row.name);
        let (id, label) = match seed {
            Some(seed) => (
                format!("{kind}/{name}/{seed}"),
                format!("{name}, seed {seed}"),
            ),
            None => (format!("{kind}/{name}"), name.clone()),
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
            label,
            row,
            seed,
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
        let (row, seed, stages) = match *need {
            Artifact::Tokenizer(name) | Artifact::Counts(name) => {
                let row = cx.suite.row(name)?;
                (row, None, of_row(cx, row))
            }
            Artifact::Encoder(name, seed) => {
                let row = cx.suite.row(name)?;
                (row, Some(seed), vec![encoder(row, seed)])
            }
        };
        let mut stages = stages.into_iter();
        let stage = stages.find(|stage| stage.gives() == Some(*need))?;
        Some(self.add(cx, row, seed, stage))
    }
}
