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
