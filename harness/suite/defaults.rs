//! Values of fields that the user left out: those that depend on other fields, and all of them for `bench validate --resolved`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::choices::{FINETUNE_WARMUP, PROBE_WARMUP};
use super::recipe::finetune_min_lr;
use crate::registry::Registry;

/// Recipes with a warm-up, and its usual epochs; without, it is a tenth of the epochs.
const WARMUPS: [(&str, Option<f64>); 4] = [
    ("pretrain", None),
    ("linear_probe", Some(PROBE_WARMUP)),
    ("attentive_probe", Some(PROBE_WARMUP)),
    ("fine_tune", Some(FINETUNE_WARMUP)),
];

/// Returns the warm-up of a recipe with so many epochs, if the suite states none: the usual one, or a tenth of the epochs
/// if it would be more than half of them: the rate must have time to fall.
pub(super) fn warmup(recipe: &str, epochs: f64) -> Option<f64> {
    let (_, usual) = WARMUPS.iter().find(|(name, _)| *name == recipe)?;
    Some(
        usual
            .filter(|usual| epochs >= 2.0 * usual)
            .unwrap_or(epochs / 10.0),
    )
}

/// Adds fields whose values depend on other fields of `top`, the content of the suite file at `path`. Returns the recipes that got a warm-up.
pub(super) fn fill(top: &mut Value, path: &Path) -> Vec<&'static str> {
    let mut warmed = Vec::new();
    let Value::Object(top) = top else {
        return warmed;
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = stem.replace(|c| !is_name(c), "-");
    add(top, "name", json!(name.trim_start_matches('.')));
    if let Some(size) = top.get("image_size").and_then(Value::as_u64) {
        let whole = json!({"resize_shorter": size, "crop": size});
        add(top, "eval_transform", whole);
    }
    if let Some(Value::Object(pretrain)) = top.get_mut("pretrain")
        && !pretrain.contains_key("checkpoint")
    {
        add(pretrain, "weight_decay", json!(0.05));
        add(pretrain, "mask_ratio", json!(0.75));
        add(pretrain, "augment", json!("random-resized-crop"));
    }
    if let Some(Value::Object(tune)) = top.get_mut("fine_tune") {
        let number = |field: &str| tune.get(field).and_then(Value::as_f64);
        let rates = ["base_lr", "from_scratch_base_lr"]
            .into_iter()
            .filter_map(number);
        let least = rates.reduce(f64::min).zip(number("batch"));
        // The usual final rate would be above the first.
        if least.is_some_and(|(rate, batch)| rate * batch / 256.0 < finetune_min_lr()) {
            add(tune, "min_lr", json!(0));
        }
    }
    for (name, _) in WARMUPS {
        let Some(Value::Object(recipe)) = top.get_mut(name) else {
            continue;
        };
        let trains = !recipe.contains_key("checkpoint") && !recipe.contains_key("warmup_epochs");
        let epochs = recipe.get("epochs").and_then(Value::as_f64);
        if let Some(usual) = epochs
            .filter(|_| trains)
            .and_then(|epochs| warmup(name, epochs))
        {
            recipe.insert("warmup_epochs".into(), json!(usual));
            warmed.push(name);
        }
    }
    warmed
}

fn add(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.entry(key).or_insert(value);
}

/// Returns the resolved suite with the defaults of the dataset's and the tokenizers' own fields.
pub(super) fn shown(resolved: &Value, registry: &Registry) -> Value {
    let mut all = resolved.clone();
    let kind = resolved["dataset"]["kind"].as_str().unwrap_or_default();
    if let Some(factory) = registry.datasets().find(|factory| factory.kind() == kind) {
        with_defaults(&mut all["dataset"], &json!(factory.schema()));
    }
    let rows = all["tokenizers"].as_array_mut().into_iter().flatten();
    for row in rows {
        let kind = row["kind"].as_str().unwrap_or_default();
        let factory = registry.tokenizers().find(|factory| factory.kind() == kind);
        if let (Some(factory), Some(with)) = (factory, row.get_mut("with")) {
            with_defaults(with, &json!(factory.schema()));
        }
    }
    all
}

/// Adds the fields that a schema has a default for, other than nothing.
fn with_defaults(value: &mut Value, schema: &Value) {
    let Value::Object(map) = value else { return };
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        match field.get("default") {
            None | Some(Value::Null) => (),
            Some(default) => add(map, key, default.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With ten epochs the rate rose to the end.
    #[test]
    fn a_default_warm_up_is_at_most_half_of_the_training() {
        for (recipe, epochs, expected) in [
            ("linear_probe", 10.0, 1.0),
            ("linear_probe", 19.0, 1.9),
            ("attentive_probe", 20.0, 10.0),
            ("fine_tune", 5.0, 0.5),
            ("fine_tune", 10.0, 5.0),
            ("fine_tune", 100.0, 5.0),
            ("pretrain", 200.0, 20.0),
        ] {
            assert_eq!(warmup(recipe, epochs), Some(expected), "{recipe} {epochs}");
        }
    }
}
