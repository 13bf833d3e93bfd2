//! Environment variables with words or numbers that they do not have.

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

/// A limit of 0 is none for the system, or the end of the process.
#[test]
fn a_limit_of_zero_is_refused() {
    let with = "{model: \"embedded:mosaic_vq\", codebook_size: 256, input: {scale: zero-one}}";
    let bench = Bench::on_32_pixels("onnx-ids", with);
    for name in ["TESSERA_ONNX_MEMORY", "TESSERA_ONNX_SECONDS"] {
        let mut command = bench.command(&["score", "suite.yaml"]);
        let output = command.env(name, "0").output().unwrap();
        let said = error(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains(&format!("{name}=0: expected a whole number")),
            "{said}"
        );
    }
}
