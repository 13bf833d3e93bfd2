//! The provenance of a stage's result, and its key.

use serde_json::{Value, json};
use tessera_tokenizers::Fingerprint;

/// Everything that determines a stage's result.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// Name of the stage.
    pub stage: &'static str,
    /// Name for people: "K-means Pixel, K=50, seed 0". Not part of the key.
    pub label: String,
    /// Config, seed, input fingerprints, stage version, numerics.
    pub inputs: Value,
}

impl Provenance {
    /// The key: BLAKE3 of the inputs' canonical JSON (keys sorted), 32 hex digits.
    pub fn key(&self) -> String {
        let text = canonical(&json!({"stage": self.stage, "inputs": self.inputs}));
        Fingerprint::of(&[text.as_bytes()]).0[..32].to_owned()
    }
}

/// JSON with sorted keys: equal values have equal texts.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let fields: Vec<String> = keys
                .iter()
                .map(|k| format!("{}:{}", Value::String((*k).clone()), canonical(&map[*k])))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}
