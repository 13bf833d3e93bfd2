//! The embedded models are the ones that the training scripts wrote.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use sha2::{Digest, Sha256};

#[test]
fn embedded_models_have_their_digests_and_are_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tokenizers/embedded");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut listed = Vec::new();
    for line in sums.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert!(bytes.len() < 1_000_000, "{name}: {} bytes", bytes.len());
        let found: String = Sha256::digest(&bytes)
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
