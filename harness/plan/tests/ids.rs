//! Ids of nodes.

use super::*;

/// Such a row had the codebook of the other row, because their nodes had one id.
#[test]
fn a_row_whose_name_ends_like_a_fit_has_nodes_of_its_own() {
    let row = |name: &str, k: usize| {
        format!(
            "  - {{name: {name}, kind: kmeans, with: {{features: {{kind: pixels}}, k: {k}, epochs: 2, batch: 32}}}}\n"
        )
    };
    let rows = [row("K", 5), row("K/fit-1", 3), row("K/fit-1/fit-0", 4)].concat();
    let text = format!(
        "{}{rows}{FIXED}fit_seeds: [0, 1]\n",
        &HEAD[..HEAD.find("  - ").unwrap()]
    );
    with_suite(&text, &Setting::default(), |cx, images| {
        let graph = Graph::of(cx).unwrap();
        let ids: BTreeSet<&str> = graph.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids.len(), graph.nodes.len());
        let fits = graph.nodes.iter().filter(|node| node.stage.name() == "fit");
        let mut of_row: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        fits.for_each(|node| of_row.entry(&node.row.name).or_default().push(&node.id));
        assert_eq!(of_row["K"], ["fit/K", "fit/K/fit-1"]);
        assert_eq!(
            of_row["K/fit-1"],
            ["fit/K/fit-1/fit-0", "fit/K/fit-1/fit-1"]
        );
        assert_eq!(of_row["K/fit-1/fit-0"].len(), 2);
        let found = compute(cx, images, |node| {
            matches!(node.stage.name(), "fit" | "count")
        });
        for (id, k) in [("count/K/fit-1", 5), ("count/K/fit-1/fit-0", 3)] {
            assert_eq!(found.entries[id].result["codebook_size"], k, "{id}");
        }
    });
}
