//! Groups of nodes that one job array of Slurm computes.
//!
//! A dependency on a whole array (`afterok:17`) would end every row when one row fails. `aftercorr:17` lets task i wait for task i of
//! array 17 only. So the task of a node is the number of its row, and the nodes of a group wait for nodes of the same row in the same
//! groups. Nodes of other rows are waited for one by one (`afterok:17_3`).

use std::collections::HashMap;

use crate::run::nodes::PlannedNode;

/// Rows of an array. Slurm's default `MaxArraySize` of 1001 allows the tasks 0 to 1000.
const ROWS: usize = 1000;

/// Nodes of one stage with equal dependencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Name of the stage.
    pub stage: String,
    /// The task of each node in the array, and the node's index in the plan.
    pub tasks: Vec<(usize, usize)>,
    /// Groups whose node of the same row each node waits for.
    pub rows: Vec<usize>,
    /// Nodes that all wait for: their groups and tasks.
    pub single: Vec<(usize, usize)>,
}

/// Stage, fit or seed, block of rows, and dependencies of a node.
type Key<'a> = (&'a str, &'a str, usize, Vec<usize>, Vec<(usize, usize)>);

/// Groups the nodes that are not stored, without `collect`. Each group follows those that it waits for.
pub(super) fn groups(nodes: &[PlannedNode]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_key: HashMap<Key<'_>, usize> = HashMap::new();
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    // The group and the task of a node, by its id.
    let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut row_of: HashMap<&str, Option<&str>> = HashMap::new();
    let pending = nodes.iter().enumerate().take(nodes.len().saturating_sub(1));
    for (index, node) in pending.filter(|(_, node)| !node.stored) {
        let row = node.row.as_deref();
        let count = numbers.len();
        let number = row.map_or(0, |row| *numbers.entry(row).or_insert(count));
        let (mut same, mut single) = (Vec::new(), Vec::new());
        for before in &node.after {
            let Some(place) = places.get(before.as_str()) else {
                continue;
            };
            match row.is_some() && row_of[before.as_str()] == row {
                true => same.push(place.0),
                false => single.push(*place),
            }
        }
        same.sort_unstable();
        single.sort_unstable();
        let task = number % ROWS;
        let key = (node.stage.as_str(), part(node), number / ROWS, same, single);
        let (rows, single) = (key.3.clone(), key.4.clone());
        let at = *by_key.entry(key).or_insert_with(|| {
            let stage = node.stage.clone();
            let tasks = Vec::new();
            groups.push(Group {
                stage,
                tasks,
                rows,
                single,
            });
            groups.len() - 1
        });
        groups[at].tasks.push((task, index));
        places.insert(&node.id, (at, task));
        row_of.insert(&node.id, row);
    }
    groups
}

/// Returns what follows the row in a node's id: `/SEED`, `/fit-N` or nothing.
fn part(node: &PlannedNode) -> &str {
    let row = node.row.as_deref().unwrap_or_default();
    let start = node.stage.len() + 1 + row.len();
    node.id.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(stage: &str, row: &str, part: &str, after: &[&str]) -> PlannedNode {
        PlannedNode {
            fingerprint: None,
            id: format!("{stage}/{row}{part}"),
            stage: stage.into(),
            row: Some(row.into()),
            seed: None,
            after: after.iter().map(|id| (*id).to_owned()).collect(),
            stored: false,
            gpu: false,
            ranks_max: 1,
            cost: None,
        }
    }

    fn end() -> PlannedNode {
        node("collect", "", "", &[])
    }

    #[test]
    fn nodes_of_a_stage_and_a_seed_form_an_array_whose_tasks_are_rows() {
        let nodes = [
            node("fit", "A", "", &["scan"]),
            node("fit", "B", "", &["scan"]),
            node("pretrain", "A", "/0", &["fit/A"]),
            node("pretrain", "B", "/0", &["fit/B"]),
            node("pretrain", "A", "/1", &["fit/A"]),
            end(),
        ];
        let groups = groups(&nodes);
        let tasks: Vec<_> = groups.iter().map(|g| g.tasks.clone()).collect();
        assert_eq!(
            tasks,
            [vec![(0, 0), (1, 1)], vec![(0, 2), (1, 3)], vec![(0, 4)]]
        );
        assert_eq!(groups[1].rows, [0]);
        assert_eq!(groups[2].rows, [0]);
    }

    #[test]
    fn a_row_whose_input_is_stored_or_belongs_to_another_row_is_a_group_of_its_own() {
        let mut nodes = vec![
            node("fit", "A", "", &["scan"]),
            node("fit", "B", "", &["scan"]),
            node("pretrain", "A", "/0", &["fit/A"]),
            node("pretrain", "B", "/0", &["fit/B"]),
            node("fit", "C", "", &["pretrain/B/0"]),
            node("fit", "D", "", &["pretrain/B/0"]),
            end(),
        ];
        nodes[0].stored = true;
        let groups = groups(&nodes);
        let found: Vec<_> = groups
            .iter()
            .map(|g| (g.tasks.clone(), g.rows.clone(), g.single.clone()))
            .collect();
        assert_eq!(
            found,
            [
                (vec![(0, 1)], vec![], vec![]),
                (vec![(1, 2)], vec![], vec![]),
                (vec![(0, 3)], vec![0], vec![]),
                (vec![(2, 4), (3, 5)], vec![], vec![(2, 0)]),
            ]
        );
    }

    #[test]
    fn arrays_stay_below_the_usual_limit_of_slurm() {
        let row = |i: usize| node("fit", &format!("R{i}"), "", &[]);
        let mut nodes: Vec<_> = (0..2001).map(row).collect();
        nodes.push(end());
        let groups = groups(&nodes);
        let sizes: Vec<_> = groups.iter().map(|g| g.tasks.len()).collect();
        assert_eq!(sizes, [1000, 1000, 1]);
        assert_eq!(groups[1].tasks[999], (999, 1999));
    }
}
