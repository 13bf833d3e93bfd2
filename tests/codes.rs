//! Codes of several groups from other programs: `groups:` of `onnx-ids`, `token-file` and `python`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::onnx::{largest, largest_in_groups};
use common::programs::{PYTHON, python};
use common::{Bench, HEAD, RECIPE, column, error, metrics};

/// Returns a suite of rows on mosaics of 16 pixels in a 4x4 grid, with `mine.py`, `g.onnx` and `c.onnx` beside it.
fn suite(rows: &[String]) -> Bench {
    let rows: String = rows.iter().map(|row| format!("  - {row}\n")).collect();
    let head = HEAD.replace("seeds: [0, 1]", "seeds: [0]");
    let bench = Bench::new(&format!("{head}tokenizers:\n{rows}{RECIPE}"));
    std::fs::write(bench.path("mine.py"), PYTHON).unwrap();
    std::fs::write(bench.path("g.onnx"), largest()).unwrap();
    std::fs::write(bench.path("c.onnx"), largest_in_groups()).unwrap();
    bench
}

/// The joint code of two groups is the id of another graph.
#[test]
fn codes_of_a_function_a_graph_and_a_file_have_the_numbers_of_their_joint_code() {
    let groups = "groups: [2, 4]";
    let mut rows = vec![
        "{name: ids, kind: onnx-ids, with: {model: g.onnx, codebook_size: 8, input: {scale: zero-one}}}".into(),
        format!("{{name: graph, kind: onnx-ids, with: {{model: c.onnx, {groups}, input: {{scale: zero-one}}}}}}"),
        format!("{{name: file, kind: token-file, with: {{train: graph.npy, {groups}}}}}"),
    ];
    if python() {
        rows.push(format!(
            "{{name: codes, kind: python, with: {{callable: \"mine:codes\", {groups}}}}}"
        ));
    }
    let bench = suite(&rows);
    let written = [
        "tokenize",
        "suite.yaml",
        "--only",
        "graph",
        "--split",
        "train",
        "--out",
        "graph.npy",
    ];
    bench.fine(&written);
    let header = std::fs::read(bench.path("graph.npy")).unwrap();
    assert!(String::from_utf8_lossy(&header[..128]).contains("96, 16, 2"));
    bench.fine(&[
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--set",
        "pretrain.augment=fixed-view",
    ]);
    let all: Vec<_> = ["ids", "graph", "file", "codes"]
        .map(|row| metrics(&bench, row))
        .into();
    let [ids, graph, file, codes] = &all[..] else {
        unreachable!()
    };
    // Lines of groups end in the group.
    let joint = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.ends_with(','))
            .cloned()
            .collect()
    };
    assert!(!ids.is_empty() && joint(ids) == *ids);
    assert_eq!(graph.len(), 3 * ids.len());
    assert_eq!(joint(graph), *ids);
    assert_eq!(file, graph);
    if python() {
        assert_eq!(codes, graph);
    }
    let losses = column(&bench.path("out"), "pretrain_loss");
    assert!(
        losses[1..]
            .iter()
            .all(|loss| *loss == losses[1] && *loss != losses[0]),
        "{losses:?}"
    );
}

#[test]
fn codes_of_other_groups_are_refused_with_the_remedy() {
    let refused = |with: &str, parts: &[&str]| {
        let rows = [format!(
            "{{name: T, kind: onnx-ids, with: {{model: c.onnx, {with}, input: {{scale: zero-one}}}}}}"
        )];
        let bench = suite(&rows);
        bench.refused(&["score", "suite.yaml"], parts);
    };
    refused(
        "groups: [2, 2, 2]",
        &["with.groups", "found 3 groups", "[4, 4, 2]"],
    );
    refused(
        "groups: [2, 4], codebook_size: 8",
        &["with.groups", "beside `codebook_size`"],
    );
    refused("codebook_size: 8", &["with.model", "4x4x2"]);
    let rows = ["{name: T, kind: onnx-ids, with: {model: c.onnx, groups: [2, 3], input: {scale: zero-one}}}".to_owned()];
    let bench = suite(&rows);
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let errors = column(&bench.path("out"), "error");
    assert!(
        errors[0].contains("id 3 of group 1, which is not in 0..3; correct groups"),
        "{errors:?}"
    );
}
