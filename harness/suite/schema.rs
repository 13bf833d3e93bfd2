//! The JSON Schema of suite files, from the types and the registry that parse them.

use serde_json::{Value, json};
use tessera_tokenizers::schemars;

use super::file::SuiteFile;
use super::row::{Entry, NO_TOKENIZER};
use crate::registry::Registry;

/// Returns the Draft 2020-12 schema for editors: `bench schema > suite.schema.json`.
pub fn schema(registry: &Registry) -> Value {
    let mut root = json!(schemars::schema_for!(SuiteFile));
    let entry = json!(schemars::schema_for!(Entry));
    let datasets = registry.datasets().map(|d| json!(d.schema()));
    let features = registry.features().map(|f| json!(f.schema()));
    let tokenizers = registry.tokenizers().map(|t| json!(t.schema()));
    let all = datasets.chain(features).chain(tokenizers);
    for schema in all.chain([entry.clone()]) {
        for (name, schema) in schema["$defs"].as_object().into_iter().flatten() {
            root["$defs"][name] = schema.clone();
        }
    }
    root["title"] = json!("Tessera suite");
    root["properties"]["dataset"] = one_of(
        registry
            .datasets()
            .map(|d| with_kind(d.kind(), d.summary(), json!(d.schema()))),
    );
    root["$defs"]["features"] = one_of(
        registry
            .features()
            .map(|f| with_kind(f.kind(), f.summary(), json!(f.schema()))),
    );
    let entries = registry.tokenizers().map(|t| {
        let mut with = json!(t.schema());
        strip(&mut with);
        if with["properties"].get("features").is_some() {
            with["properties"]["features"] = json!({"$ref": "#/$defs/features"});
        }
        // Without `required`, because a field may be under `sweep:` instead.
        if let Some(map) = with.as_object_mut() {
            map.shift_remove("required");
        }
        let mut item = entry.clone();
        strip(&mut item);
        item["description"] = json!(t.summary());
        item["properties"]["kind"] = json!({"const": t.kind()});
        item["properties"]["with"] = with;
        item
    });
    let mut alone = entry.clone();
    strip(&mut alone);
    alone["description"] = json!("A checkpoint that was pretrained elsewhere.");
    alone["properties"]["kind"] = json!({"const": NO_TOKENIZER});
    root["properties"]["tokenizers"] =
        json!({"type": "array", "minItems": 1, "items": one_of(entries.chain([alone]))});
    if let Some(required) = root["required"].as_array_mut() {
        required.push(json!("tokenizers"));
    }
    root
}

fn one_of(schemas: impl Iterator<Item = Value>) -> Value {
    json!({"oneOf": schemas.collect::<Vec<_>>()})
}

/// Adds `kind` to the fields of `schema`.
fn with_kind(kind: &str, summary: &str, mut schema: Value) -> Value {
    strip(&mut schema);
    schema["description"] = json!(summary);
    schema["type"] = json!("object");
    schema["properties"]["kind"] = json!({"const": kind});
    match schema["required"].as_array_mut() {
        Some(required) => required.push(json!("kind")),
        None => schema["required"] = json!(["kind"]),
    }
    schema
}

/// Removes keys that only a whole document has.
fn strip(schema: &mut Value) {
    if let Some(map) = schema.as_object_mut() {
        for key in ["$schema", "title", "$defs"] {
            map.shift_remove(key);
        }
    }
}
