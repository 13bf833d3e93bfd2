//! Recipes whose trainings have too few steps.

use super::*;

/// A single step with warm-up has rate 0. It was noticed only when its stage began, after the trainings before it.
#[test]
fn a_training_of_one_step_with_warm_up_is_refused_before_anything_runs() {
    let suite = loaded(
        &format!(
            "pretrain: {{epochs: 2, batch: 4, base_lr: 0.1}}
linear_probe: {{epochs: 1, batch: 50, base_lr: 0.1}}
{ROW}"
        ),
        &[],
    );
    suite.check_train_size(100).unwrap();
    let error = suite.check_train_size(99).unwrap_err().to_string();
    for part in [
        "linear_probe: row ",
        "batch 50, 1 epoch and 0.1 epochs",
        "99 train images",
    ] {
        assert!(error.contains(part), "{error}");
    }

    // A row that does not pretrain has no such step, and a tenth is held out to choose among rates.
    let pretrain = "pretrain: {epochs: 1, batch: 50, base_lr: 0.1}\n";
    let none = "baselines: [no-pretraining]\ntokenizers: []\n";
    let probe = "linear_probe: {epochs: 1, batch: 46, base_lr: [0.1, 0.2]}\n";
    loaded(&format!("{pretrain}{none}"), &[])
        .check_train_size(50)
        .unwrap();
    let pretrains = loaded(&format!("{pretrain}{ROW}"), &[]);
    assert!(pretrains.check_train_size(50).is_err());
    let chooses = loaded(&format!("{pretrain}{probe}{ROW}"), &[]);
    let error = chooses.check_train_size(100).unwrap_err().to_string();
    assert!(error.contains("90 train images"), "{error}");
}

#[test]
fn a_batch_above_the_train_split_is_said_once_per_recipe() {
    let recipe = "{epochs: 9, batch: 200, base_lr: 0.1}";
    // Those of the probes were cut without a word.
    let tuned = "fine_tune: {epochs: 9, batch: 300, base_lr: 0.1}
linear_probe: {epochs: 9, batch: 260, base_lr: [0.1, 0.2]}
attentive_probe: {epochs: 9, batch: 270, base_lr: 0.1}\n";
    let rows = "baselines: [no-pretraining]
tokenizers:
  - {name: A, kind: continuous, with: {features: {kind: pixels}}}
  - {name: B, kind: continuous, with: {features: {kind: pixels, normalize: per-patch}}}
  - {name: C, kind: continuous, with: {features: {kind: pixels}}, override: {pretrain: {batch: 250}}}
";
    let suite = loaded(&format!("pretrain: {recipe}\n{tuned}{rows}"), &[]);
    assert!(suite.cut_batches(300).is_empty());
    let notes: Vec<String> = suite.cut_batches(100).into_iter().collect();
    let found = [
        "attentive_probe.batch: found 270",
        "fine_tune.batch: found 300",
        "linear_probe.batch: found 260",
        "pretrain.batch: found 200",
        "pretrain.batch: found 250",
    ];
    assert_eq!(notes.len(), found.len(), "{notes:?}");
    for (note, part) in notes.iter().zip(found) {
        assert!(note.contains(part) && note.contains("used 100"), "{note}");
    }
}
