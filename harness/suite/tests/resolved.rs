//! A resolved suite is read back as the same suite.

use super::*;

/// Loads the resolved text of `suite`.
fn again(suite: &Suite) -> Suite {
    let text = suite.resolved_text(&Registry::builtin()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.yaml");
    std::fs::write(&path, text).unwrap();
    Suite::load(&path, &[], &Registry::builtin()).unwrap()
}

/// The warm-up of the suite stood for that of the row, which follows from its epochs.
#[test]
fn a_row_with_epochs_of_its_own_keeps_its_warm_up() {
    for (suite_epochs, epochs) in [(1, 2), (300, 5), (5, 300)] {
        let recipe = format!(
            "pretrain: {{epochs: {suite_epochs}, batch: 4, base_lr: 0.001}}\n\
             linear_probe: {{epochs: {suite_epochs}, batch: 4, base_lr: 0.1}}\n\
             fine_tune: {{epochs: {suite_epochs}, batch: 4, base_lr: 0.001}}\n"
        );
        let own = format!("{{epochs: {epochs}}}");
        let row = format!(
            "tokenizers: [{{name: HOG, kind: continuous, with: {{features: {{kind: hog}}}}, override: \
             {{pretrain: {own}, linear_probe: {own}, fine_tune: {own}}}}}]\n"
        );
        let suite = loaded(&format!("{recipe}{row}"), &[]);
        let pretrain = suite.rows[0].recipes.pretrain.as_ref().unwrap();
        assert_eq!(pretrain.warmup_epochs, f64::from(epochs) / 10.0);
        let again = again(&suite);
        assert_eq!(json!(again.rows[0].recipes), json!(suite.rows[0].recipes));
        assert_eq!(again.resolved, suite.resolved);
    }
}

/// Fields of pretraining that nobody trains with were written and then refused.
#[test]
fn a_checkpoint_of_the_suite_is_read_back() {
    let recipe = "pretrain: {checkpoint: e.safetensors, checkpoint_prefix: module}\nknn: {k: 5}\n";
    let suite = loaded(&format!("{recipe}{ROW}"), &[]);
    let again = again(&suite);
    assert_eq!(json!(again.rows[0].recipes), json!(suite.rows[0].recipes));
    assert_eq!(again.resolved["pretrain"], suite.resolved["pretrain"]);
    assert_eq!(again.resolved["pretrain"].get("epochs"), None);
}
