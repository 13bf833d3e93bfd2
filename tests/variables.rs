//! Environment variables with words that they do not have.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, error};

#[test]
fn misspelt_words_are_refused_and_never_taken_for_others() {
    let bench = Bench::whole();
    let run = |name: &str, value: &str| {
        let mut command = bench.command(&["validate", "suite.yaml"]);
        let output = command.env(name, value).output().unwrap();
        (output.status.code(), error(&output))
    };
    for (name, value, expected) in [
        ("TESSERA_AMX", "OFF", "expected on or off"),
        ("TESSERA_AMX", "0", "expected on or off"),
        ("TESSERA_CUDA_GRAPH", "yes", "expected on or off"),
        (
            "TESSERA_GPU_DEFAULTS",
            "pool,steam",
            "found \"steam\", expected a list of stream, events",
        ),
    ] {
        let (status, said) = run(name, value);
        assert_eq!(status, Some(2), "{said}");
        let found = format!("{name}={value}: ");
        assert!(said.contains(&found) && said.contains(expected), "{said}");
    }
    for (name, value) in [
        ("TESSERA_AMX", "on"),
        ("TESSERA_AMX", "off"),
        ("TESSERA_AMX", ""),
        ("TESSERA_CUDA_GRAPH", "off"),
        ("TESSERA_GPU_DEFAULTS", "pool,graph"),
    ] {
        let (status, said) = run(name, value);
        assert_eq!(status, Some(0), "{name}={value}: {said}");
    }
}
