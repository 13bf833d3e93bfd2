//! Checks that the embedded models are those that the training scripts wrote.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use ring::digest::SHA256;
use serde_json::json;
use tessera::{BuildContext, Config, Grid, Registry};

#[test]
fn embedded_models_have_their_digests_and_are_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tokenizers/embedded");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut listed = Vec::new();
    for line in sums.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert!(bytes.len() < 1_000_000, "{name}: {} bytes", bytes.len());
        let found: String = ring::digest::digest(&SHA256, &bytes)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, digest, "{name}");
        listed.push(name.to_owned());
    }
    let mut present: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".onnx"))
        .collect();
    present.sort();
    assert_eq!(present, listed);
}

/// Returns whether the features of an embedded model report that training used labels, for a row with the field `saw_labels`.
fn saw_labels(model: &str, field: Option<bool>) -> Result<bool, String> {
    let registry = Registry::builtin();
    let build = BuildContext::alone(&registry, 32, Grid { rows: 8, cols: 8 });
    let factory = registry.features().find(|f| f.kind() == "onnx").unwrap();
    let with = json!({"model": format!("embedded:{model}"), "saw_labels": field});
    let features = factory.build(&Config::from_value(with), &build);
    let features = features.map_err(|error| error.to_string())?;
    Ok(features.facts().saw_labels)
}

#[test]
fn the_supervised_model_reports_that_it_saw_labels() {
    for (model, field, expected) in [
        ("mosaic_deit", None, true),
        ("mosaic_deit", Some(true), true),
        ("mosaic_ssl", None, false),
        ("mosaic_ssl", Some(false), false),
        ("mosaic_ssl", Some(true), true),
    ] {
        assert_eq!(saw_labels(model, field), Ok(expected), "{model} {field:?}");
    }
    let error = saw_labels("mosaic_deit", Some(false)).unwrap_err();
    assert!(
        error.contains("saw_labels") && error.contains("found false"),
        "{error}"
    );
}
