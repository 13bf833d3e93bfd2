//! What tables say of metrics near and above their nulls.

use super::*;

/// Statements depend on errors and nulls: a small distance with a small error is not chance, a large one with a large error may be.
#[test]
fn footnotes_on_chance_come_from_errors() {
    let record = Record {
        n_classes: 1000,
        tcas: Some(0.79),
        pnmi: Some(0.02),
        ..records().pop().unwrap()
    };
    let row = |metric: &str, value: f64, null: f64, se: f64| MetricRow {
        tokenizer: record.tokenizer.clone(),
        seed: record.seed,
        metric: metric.into(),
        value: Some(value),
        se: Some(se * (20.0_f64 / 21.0).sqrt()),
        null_mean: Some(null),
        // Permuted labels deviate by `se`.
        null_se: Some(se / 21.0_f64.sqrt()),
        ..MetricRow::default()
    };
    let notes = |tcas: MetricRow, pnmi: MetricRow| {
        let cx = TableContext {
            metrics: Metrics::from_iter([(&record, vec![tcas, pnmi])]),
            ..TableContext::default()
        };
        render(2, std::slice::from_ref(&record), &cx)
            .unwrap()
            .markdown
    };
    // 50 errors below the null by 0.01: two patches per code and class say nothing else.
    let clear = notes(
        row("tcas", 0.79, 0.80, 0.0002),
        row("pnmi", 0.02, 0.01, 0.0001),
    );
    assert!(!clear.contains("may be chance"), "{clear}");
    let unclear = notes(
        row("tcas", 0.79, 0.89, 0.06),
        row("pnmi", 0.02, 0.03, 0.0001),
    );
    for part in [
        "TCAS is not shown to be below its null, so that it may be chance: permuted labels are as far from it with p of at least 0.025 (distance ± standard error): K-means Pixel, K=50 (0.100 ± 0.060).",
        "PNMI is not shown to be above its null, so that it may be chance: permuted labels are as far from it with p of at least 0.025 (distance ± standard error): K-means Pixel, K=50 (\u{2212}0.010 ± 0.000",
    ] {
        assert!(unclear.contains(part), "{unclear}");
    }
    // Perfect codes of two classes of 120 and 15 images "may be chance".
    let perfect = notes(
        row("tcas", 0.79, 0.68, 0.002),
        row("pnmi", 0.02, 0.01, 0.0001),
    );
    let said = "so a lower TCAS is not better";
    assert!(
        perfect.contains(said) && !perfect.contains("may be chance"),
        "{perfect}"
    );
    // Without information, TCAS above its null tells nothing else.
    let none = notes(
        row("tcas", 0.79, 0.68, 0.002),
        row("pnmi", 0.02, 0.02, 0.0001),
    );
    assert!(
        !none.contains(said) && none.contains("TCAS is not shown to be below"),
        "{none}"
    );
}
