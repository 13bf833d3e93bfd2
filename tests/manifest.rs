//! A manifest next to a graph provides fields; contradictions are refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, column};
use ring::digest::{SHA256, digest};

/// Returns a suite with a row of `kind` with `fields`, on 32-pixel mosaics in an 8x8 grid, and `vq.onnx` or `ssl.onnx` with `manifest`.
fn bench(kind: &str, fields: &str, manifest: impl Fn(&str) -> String) -> Bench {
    let bench = Bench::on_32_pixels(kind, fields);
    for (file, embedded) in [("vq", "mosaic_vq"), ("ssl", "mosaic_ssl")] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tokenizers/embedded/");
        let bytes = std::fs::read(format!("{folder}{embedded}.onnx")).unwrap();
        let digest: Vec<String> = digest(&SHA256, &bytes)
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        std::fs::write(bench.path(&format!("{file}.onnx")), &bytes).unwrap();
        if fields.contains(file) {
            let text = manifest(&digest.concat());
            std::fs::write(bench.path(&format!("{file}.yaml")), text).unwrap();
        }
    }
    bench
}

/// Returns a manifest as the exporter writes it.
fn whole(digest: &str) -> String {
    format!(
        "sha256: \"{digest}\"\nsource: \"mosaics\"\nlicence: \"MIT\"\nweights: \"vq.pt\"\n\
         input: {{side: 32, scale: zero-one}}\nkind: onnx-ids\ngrid: [8, 8]\ncodebook_size: 256\nsaw_labels: true\n\
         agreement: \"all\"\n"
    )
}

#[test]
fn the_manifest_provides_missing_fields() {
    let known = bench("onnx-ids", "{model: vq.onnx}", whole);
    known.fine(&["score", "suite.yaml", "--out", "out"]);
    let written =
        "{model: \"embedded:mosaic_vq\", codebook_size: 256, input: {side: 32, scale: zero-one}}";
    let plain = Bench::on_32_pixels("onnx-ids", written);
    plain.fine(&["score", "suite.yaml", "--out", "out"]);
    for name in ["tcas", "codebook_size", "mi", "status"] {
        let of = |bench: &Bench| column(&bench.path("out"), name);
        assert_eq!(of(&known), of(&plain), "{name}");
    }
    assert_eq!(column(&known.path("out"), "saw_labels"), ["true", "true"]);
    let about = std::fs::read_to_string(known.path("out/environment.json")).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    assert_eq!(about["models"]["T"]["licence"], "MIT");
    assert_eq!(about["models"]["T"]["source"], "mosaics");
    assert_eq!(about["models"]["T"]["sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn a_field_that_contradicts_the_manifest_is_refused() {
    for (more, parts) in [
        (
            "codebook_size: 512",
            ["with.codebook_size", "found 512", "expected 256"],
        ),
        (
            "input: {side: 64}",
            ["with.input.side", "found 64", "expected 32"],
        ),
        (
            "input: {scale: imagenet}",
            [
                "with.input.scale",
                "found \"imagenet\"",
                "expected \"zero-one\"",
            ],
        ),
        (
            "saw_labels: false",
            ["with.saw_labels", "found false", "expected true"],
        ),
    ] {
        let bench = bench("onnx-ids", &format!("{{model: vq.onnx, {more}}}"), whole);
        bench.refused(&["validate", "suite.yaml"], &parts);
        bench.refused(
            &["score", "suite.yaml"],
            &["suite.yaml:", "vq.yaml", "leave", "correct the manifest"],
        );
    }
    let same = "{model: vq.onnx, codebook_size: 256, input: {side: 32, scale: zero-one}, saw_labels: true}";
    bench("onnx-ids", same, whole).fine(&["validate", "suite.yaml"]);
}

#[test]
fn a_graph_that_does_not_match_its_manifest_is_refused() {
    let other = bench("onnx-ids", "{model: vq.onnx}", |_| whole(&"0".repeat(64)));
    other.refused(
        &["validate", "suite.yaml"],
        &[
            "vq.onnx: has SHA-256",
            "expected 000000",
            "vq.yaml",
            "fetch or export",
        ],
    );
    for (from, to, parts) in [
        (
            "grid: [8, 8]",
            "grid: [4, 4]",
            ["grid", "found [4,4]", "expected [8,8]"],
        ),
        (
            "side: 32",
            "side: 64",
            ["input.side", "found 64", "expected 32"],
        ),
        (
            "grid: [8, 8]",
            "grid: many",
            [
                "grid: found the text \"many\"",
                "expected a list",
                "vq.yaml",
            ],
        ),
        (
            "codebook_size: 256",
            "codebook_size: -256",
            ["codebook_size: found -256", "expected", "vq.yaml"],
        ),
        (
            "side: 32",
            "side: 32.5",
            ["input.side: found 32.5", "expected", "vq.yaml"],
        ),
        (
            "kind: onnx-ids",
            "kind: onnx",
            ["with.model", "kind: onnx`", "features:"],
        ),
    ] {
        let wrong = bench("onnx-ids", "{model: vq.onnx}", |digest| {
            whole(digest).replace(from, to)
        });
        wrong.refused(&["validate", "suite.yaml"], &parts);
    }
    let features = bench(
        "continuous",
        "{features: {kind: onnx, model: ssl.onnx}}",
        |digest| {
            format!(
                "sha256: \"{digest}\"\nkind: onnx\ninput: {{scale: imagenet}}\ngrid: [8, 8]\ndim: 7\n"
            )
        },
    );
    features.refused(&["validate", "suite.yaml"], &["ssl.yaml", "dim", "found 7"]);
}

#[test]
fn a_file_without_a_manifest_is_accepted() {
    // A suite may have the same file name as the model.
    let bench = bench(
        "onnx-ids",
        "{model: vq.onnx, codebook_size: 256, input: {scale: zero-one}}",
        |_| "version: 1\nname: tiny\ntokenizers: []\n".into(),
    );
    bench.fine(&["validate", "suite.yaml"]);
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let text = text.replace(", codebook_size: 256", "");
    std::fs::write(bench.path("suite.yaml"), text).unwrap();
    bench.refused(
        &["validate", "suite.yaml"],
        &["with.codebook_size", "missing", "manifest"],
    );
}

#[test]
fn both_endings_are_read_and_two_manifests_are_refused() {
    let bench = bench("onnx-ids", "{model: vq.onnx}", whole);
    let yaml = bench.path("vq.yaml");
    std::fs::rename(&yaml, bench.path("vq.yml")).unwrap();
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(column(&bench.path("out"), "saw_labels"), ["true", "true"]);
    // A suite of the same name is no manifest.
    std::fs::write(&yaml, "version: 1\nname: tiny\ntokenizers: []\n").unwrap();
    bench.fine(&["validate", "suite.yaml"]);
    std::fs::copy(bench.path("vq.yml"), &yaml).unwrap();
    let parts = ["vq.yml: is a second manifest", "vq.yaml", "remove one"];
    bench.refused(&["validate", "suite.yaml"], &parts);
    std::fs::remove_file(&yaml).unwrap();
    // They were ignored, and so was `saw_labels`.
    for other in ["vq.YAML", "vq.json", "vq.onnx.yml"] {
        std::fs::rename(bench.path("vq.yml"), bench.path(other)).unwrap();
        let parts = [other, "looks like the graph's manifest", "vq.yaml"];
        bench.refused(&["validate", "suite.yaml"], &parts);
        std::fs::rename(bench.path(other), bench.path("vq.yml")).unwrap();
    }
    // Others that have such names.
    std::fs::write(bench.path("vq.json"), "{\"sha256\": \"ab\", \"url\": 1}").unwrap();
    std::fs::write(bench.path("vq.onnx.json"), "[".repeat(1 << 15)).unwrap();
    bench.fine(&["validate", "suite.yaml"]);
    std::fs::write(bench.path("vq.yml"), "saw_labels: true\n").unwrap();
    bench.refused(&["validate", "suite.yaml"], &["vq.yml", "no `sha256`"]);
}
