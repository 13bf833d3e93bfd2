//! Finds all missing fields of a suite: of the file, of the dataset and of every row, so that one error can name them.

use serde_json::{Map, Value, json};
use tessera_tokenizers::schemars;
use tessera_tokenizers::{Config, schema};

use super::recipe::PRETRAINING;
use super::row::Entry;
use crate::registry::Registry;

/// Places, and the names of the fields that are missing there.
pub(super) type Absent = Vec<(String, Vec<String>)>;

/// Returns the fields that are missing although no schema requires them, because others stand in for them.
pub(super) fn stood_in_for(top: &Config) -> Absent {
    let Some(Value::Object(pretrain)) = top.value().get("pretrain") else {
        return Vec::new();
    };
    if pretrain.contains_key("checkpoint") {
        return Vec::new();
    }
    let mut all = Vec::new();
    if top.value().get("backbone").is_none() {
        all.push((String::new(), vec!["backbone".to_owned()]));
    }
    let absent = PRETRAINING
        .iter()
        .filter(|key| !pretrain.contains_key(**key));
    let absent: Vec<String> = absent.map(|key| (*key).to_owned()).collect();
    if !absent.is_empty() {
        all.push(("pretrain".to_owned(), absent));
    }
    all
}

/// Returns the missing fields of the dataset and of the rows, whose kinds have schemas of their own.
pub(super) fn of_kinds(top: &Config, entries: &Value, registry: &Registry) -> Absent {
    let dataset = top.value().get("dataset").unwrap_or(&Value::Null);
    let kind = dataset["kind"].as_str().unwrap_or_default();
    let factory = registry.datasets().find(|factory| factory.kind() == kind);
    let mut all = match factory {
        Some(factory) => below("dataset", &json!(factory.schema()), dataset),
        None => Vec::new(),
    };
    for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
        all.extend(of_entry(&format!("tokenizers[{index}]"), entry, registry));
    }
    all
}

fn of_entry(path: &str, entry: &Value, registry: &Registry) -> Absent {
    let mut all = below(path, &json!(schemars::schema_for!(Entry)), entry);
    let kind = entry["kind"].as_str().unwrap_or_default();
    let Some(factory) = registry.tokenizers().find(|factory| factory.kind() == kind) else {
        return all;
    };
    let none = Value::Object(Map::new());
    let with = entry.get("with").filter(|with| !with.is_null());
    let (with, at) = (with.unwrap_or(&none), format!("{path}.with"));
    all.extend(below(&at, &json!(factory.schema()), with));
    let features = &with["features"];
    let kind = features["kind"].as_str().unwrap_or_default();
    if let Some(factory) = registry.features().find(|factory| factory.kind() == kind) {
        let at = format!("{at}.features");
        all.extend(below(&at, &json!(factory.schema()), features));
    }
    swept(&mut all, path, entry);
    all
}

/// Removes the fields that `sweep` gives.
fn swept(all: &mut Absent, path: &str, entry: &Value) {
    let swept = entry["sweep"].as_object().into_iter().flatten();
    let swept: Vec<String> = swept.map(|(key, _)| format!("{path}.with.{key}")).collect();
    for (at, names) in all.iter_mut() {
        names.retain(|name| !swept.contains(&format!("{at}.{name}")));
    }
    all.retain(|(_, names)| !names.is_empty());
}

/// Returns the missing fields of a mapping at `path`; none if it has an unknown field, which may be a missing one misspelt: the error about
/// that helps more.
fn below(path: &str, schema: &Value, value: &Value) -> Absent {
    // Schemas do not have `kind` and `fetch`, which are read elsewhere.
    let is_known = |key: &String| {
        ["kind", "fetch"].contains(&&key[..]) || !schema["properties"][key].is_null()
    };
    if !value
        .as_object()
        .is_some_and(|map| map.keys().all(is_known))
    {
        return Vec::new();
    }
    let found = schema::missing(schema, value).into_iter();
    let at = |inner: String| match inner.as_str() {
        "" => path.to_owned(),
        inner => format!("{path}.{inner}"),
    };
    found.map(|(inner, names)| (at(inner), names)).collect()
}
