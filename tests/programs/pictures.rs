//! Pictures of a row whose program fails after its numbers are computed.

use super::*;

/// The row was `ok` without a word.
#[test]
fn a_row_without_its_gallery_says_why() {
    // The checks of a start take four requests; counting takes six, a check after four of them three, and one at the end three.
    let each = format!("head -c {REQUEST} > /dev/null; cat ok");
    let script =
        format!("for at in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do {each}; done; exit 7");
    let bench = suite(&[shell("T", &script, ""), shell("fine", &replies("ok"), "")]);
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    let said = error(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 of 2 cells have all numbers but no pictures"),
        "{said}"
    );
    // Programs may take long to load their models.
    for line in ["program: T\n", "  program: fine: done in "] {
        assert!(said.contains(line), "{said}");
    }
    let out = bench.path("out");
    assert_eq!(column(&out, "status"), ["ok", "ok"]);
    let errors = column(&out, "error");
    assert!(errors[0].starts_with("no gallery: ") && errors[0].contains("exit status: 7"));
    assert_eq!(errors[1], "");
    assert!(!metrics(&bench, "T").is_empty());
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("no gallery: "));
    // A run of another row, and a report, know it from the store and from the folder.
    for again in [
        &["score", "suite.yaml", "--out", "out", "--only", "fine"][..],
        &["report", "out"],
    ] {
        assert!(bench.bench(again).status.success());
        assert_eq!(column(&out, "error"), errors, "{again:?}");
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("no gallery: "));
}
