//! Metrics without a direction.

use super::*;

/// Noise that became perfect codes of two classes was WORSE by TCAS.
#[test]
fn tcas_that_contradicts_pnmi_above_its_null_is_not_judged() {
    let run = |[tcas, null]: [f64; 2], [pnmi, random]: [f64; 2]| {
        let mut record = record("T", 0, 60.0);
        record.tcas = Some(tcas);
        record.pnmi = Some(pnmi);
        let mut side = side(vec![record], Some(0.001));
        let mut of_pnmi = side.metrics[0].clone();
        of_pnmi.metric = "pnmi".into();
        of_pnmi.value = Some(pnmi);
        side.metrics.push(of_pnmi);
        for (row, null) in side.metrics.iter_mut().zip([null, random]) {
            row.null_mean = Some(null);
            row.null_se = Some(0.0001);
        }
        side
    };
    let noise = run([0.678, 0.679], [0.028, 0.028]);
    let perfect = run([0.80, 0.67], [1.0, 0.03]);
    let by = |names: &[&str]| Gate {
        named: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Gate::default()
    };
    for (old, new) in [(&noise, &perfect), (&perfect, &noise)] {
        let found = regression(old, new, &by(&["tcas"]));
        assert_eq!(of(&found, "tcas").verdict, Verdict::NoOrder);
        assert!(!found.regressed() && found.verdict() == CANNOT_TELL);
        assert!(
            found
                .text(false)
                .contains("note: T: TCAS and PNMI contradict")
        );
        // Other metrics are judged.
        let worse = old.records[0].pnmi > new.records[0].pnmi;
        let found = regression(old, new, &Gate::default());
        assert_eq!(found.regressed(), worse);
    }
    // Codes that lose everything: TCAS rises above its null, and PNMI falls.
    let oracle = run([0.0, 0.816], [1.0, 0.02]);
    let lost = run([0.82, 0.70], [0.0, 0.148]);
    let found = regression(&oracle, &lost, &by(&["tcas"]));
    assert_eq!(of(&found, "tcas").verdict, Verdict::Worse);
    assert!(found.notes.is_empty());
}
