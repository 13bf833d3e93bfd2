//! What a pending cell waits for. The column `error` names it until the cell has it, whichever rows a run computes.

use std::collections::{BTreeMap, BTreeSet};

use tessera_reports::Record;

use crate::plan::graph::{Graph, Node};

/// A node that a cell lacks.
#[derive(Clone)]
struct Lacking {
    stage: &'static str,
    /// Nodes of other rows that it uses, and those rows.
    of_others: Vec<(usize, String)>,
}

/// The nodes that a cell lacks.
#[derive(Clone, Default)]
pub(super) struct Waiting {
    /// By index.
    lacking: BTreeMap<usize, Lacking>,
    /// What the record's error says of it.
    told: String,
}

impl Waiting {
    /// Adds a node of `graph`.
    pub(super) fn add(&mut self, node: &Node<'_>, graph: &Graph<'_>) {
        let before = node.after.iter().map(|before| &graph.nodes[*before]);
        let of_others = before.filter(|before| before.row.name != node.row.name);
        let of_others = of_others.map(|before| (before.at, before.row.name.clone()));
        let lacking = Lacking {
            stage: node.stage.name(),
            of_others: of_others.collect(),
        };
        self.lacking.insert(node.at, lacking);
    }

    /// Removes a node that has a result.
    pub(super) fn remove(&mut self, at: usize) {
        self.lacking.remove(&at);
    }

    /// Removes from a record what it said of waiting.
    pub(super) fn forget(&mut self, record: &mut Record) {
        if record.error == std::mem::take(&mut self.told) {
            record.error.clear();
        }
    }

    /// Marks a pending record that lacks nothing as `ok`, or says what it waits for, unless it says something else.
    pub(super) fn settle(&mut self, record: &mut Record, computed: &BTreeSet<usize>) {
        self.forget(record);
        if self.lacking.is_empty() {
            record.status = "ok".into();
        } else if record.error.is_empty() {
            self.told = self.text(computed);
            record.error.clone_from(&self.told);
        }
    }

    fn text(&self, computed: &BTreeSet<usize>) -> String {
        let (mut stages, mut rows) = (Vec::new(), Vec::new());
        for lacking in self.lacking.values() {
            let of_others = lacking.of_others.iter();
            let missing = of_others.filter(|(at, _)| !computed.contains(at));
            rows.extend(missing.map(|(_, row)| row.as_str()));
            stages.push(lacking.stage);
        }
        let all = |names: &[&str], and: &str| {
            let mut seen = BTreeSet::new();
            let names = names.iter().filter(|name| seen.insert(**name));
            names.copied().collect::<Vec<_>>().join(and)
        };
        let stages = all(&stages, ", ");
        match rows.is_empty() {
            true => format!("waits for {stages}; run the suite with this row and seed"),
            false => format!(
                "waits for the pretrained encoder of {}, then {stages}; compute it with `bench run`",
                all(&rows, " and of ")
            ),
        }
    }
}
