//! Metrics without a direction.

use super::*;

/// Noise that became perfect codes of two classes was WORSE by TCAS.
#[test]
fn tcas_above_its_null_is_not_judged() {
    let run = |tcas: f64, null: f64| {
        let mut record = record("T", 0, 60.0);
        record.tcas = Some(tcas);
        let mut side = side(vec![record], Some(0.001));
        side.metrics[0].null_mean = Some(null);
        side.metrics[0].null_se = Some(0.0001);
        side
    };
    let gate = Gate {
        named: vec!["tcas".into()],
        ..Gate::default()
    };
    let perfect = regression(&run(0.678, 0.679), &run(0.80, 0.67), &gate);
    assert_eq!(of(&perfect, "tcas").verdict, Verdict::Moved);
    assert!(!perfect.regressed());
    assert!(perfect.otherwise[0].starts_with("T: TCAS is above its null"));
    let worse = regression(&run(0.60, 0.679), &run(0.65, 0.679), &gate);
    assert_eq!(of(&worse, "tcas").verdict, Verdict::Worse);
    assert!(worse.otherwise.is_empty());
}
