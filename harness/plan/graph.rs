//! The graph of a suite: every stage of every row and seed, with what it waits for.
//!
//! It depends on the suite and the registry only, never on results, so a node has the same id on every machine.

use crate::stages::common::context::Context;
use crate::stages::common::stage::Artifact;
use crate::stages::{BoxedStage, encoder, of_row, of_seed};
use crate::suite::Row;

/// A stage in its place.
pub struct Node<'a> {
    /// Its place in the graph.
    pub at: usize,
    /// `stage/row`, or `stage/row/seed`.
    pub id: String,
    /// For people: `row`, or `row, seed N`.
    pub label: String,
    /// The row.
    pub row: &'a Row,
    /// The seed; `None` of a stage that all seeds share.
    pub seed: Option<u64>,
    /// Whether the row is selected; otherwise a selected row needs this node.
    pub selected: bool,
    /// The nodes whose results it takes, by their places in the graph.
    pub after: Vec<usize>,
    /// The stage.
    pub stage: BoxedStage<'a>,
}

/// All nodes, each behind those it waits for: the order of execution.
pub struct Graph<'a> {
    /// The nodes.
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Graph<'a> {
    /// The graph of the selected rows that are not skipped: first the stages of rows (those that need another row's encoder
    /// last), then seed by seed.
    pub fn of(cx: &Context<'a>) -> Self {
        let rows = || cx.suite.rows.iter().filter(|row| row.skip.is_none());
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

    /// The place of the last node that takes each node's result.
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            node.after.iter().for_each(|before| last[*before] = at);
        }
        last
    }

    /// Which nodes are `wanted`, or given to one that is.
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

    /// Adds a node behind those it needs, unless it is there; its place.
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
        let after = needs.iter().filter_map(|need| self.giver(cx, need));
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

    /// The place of the node that gives `need`, added where it is not there yet: another row's encoder and that row's tokenizer.
    fn giver(&mut self, cx: &Context<'a>, need: &Artifact<'_>) -> Option<usize> {
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
