//! Invalid graphs and token files are refused with the file, the found and expected value, and the remedy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::onnx::{FLOAT, Model};
use common::{Bench, HEAD, column, error, write_ids};

/// Returns a suite with one row of the given kind and fields, on 32-pixel mosaics in an 8x8 grid.
fn suite(kind: &str, with: &str, more: &str) -> Bench {
    Bench::on_32_pixels(kind, &format!("{with}{more}"))
}

const VQ: &str = "{model: \"embedded:mosaic_vq\", codebook_size: 256, input: {scale: zero-one}}";

#[test]
fn a_file_that_is_not_a_graph_is_refused() {
    let bench = suite("onnx-ids", "{model: notes.onnx, codebook_size: 8}", "");
    std::fs::write(bench.path("notes.onnx"), b"These are notes, not a graph.").unwrap();
    bench.refused(
        &["score", "suite.yaml"],
        &["notes.onnx", "is not an ONNX graph"],
    );
}

#[test]
fn a_missing_graph_is_refused_with_where_to_get_it() {
    let bench = suite("onnx-ids", "{model: vqgan.onnx, codebook_size: 8}", "");
    bench.refused(
        &["score", "suite.yaml"],
        &["vqgan.onnx does not exist", "TESSERA_MODELS", "with.model"],
    );
}

#[test]
fn an_optional_row_with_a_missing_graph_is_skipped_with_the_reason() {
    let with = "{model: \"${TESSERA_NO_SUCH_FOLDER}/vqgan.onnx\", codebook_size: 8}";
    let pixels = "{name: P, kind: kmeans, with: {features: {kind: pixels}, k: 2, epochs: 1}}";
    let bench = suite(
        "onnx-ids",
        with,
        &format!(", optional: true}}, {}", &pixels[..pixels.len() - 1]),
    );
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert!(output.status.success(), "{}", error(&output));
    let out = bench.path("out");
    assert_eq!(column(&out, "tokenizer"), ["T", "T", "P", "P"]);
    let states = column(&out, "status");
    assert_eq!(states, ["skipped", "skipped", "ok", "ok"]);
    assert!(column(&out, "error")[0].contains("TESSERA_NO_SUCH_FOLDER"));
}

#[test]
fn a_graph_of_another_grid_is_refused() {
    let bench = suite("onnx-ids", VQ, "");
    bench.refused(
        &["score", "suite.yaml", "--set", "patch_size=8"],
        &["suite.yaml:", "with.model", "8x8", "4x4", "patch_size"],
    );
}

#[test]
fn a_graph_larger_than_the_fast_decode_size_is_refused_before_any_work() {
    let bench = suite("onnx-ids", VQ, "");
    // By default, the input is 32 pixels wide, as in the graph.
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let text = text
        .replace(
            "{kind: mosaics, seed: 3, train: 96, val: 40, size: 32}",
            "{kind: image-folder, root: ., fast_decode: true}",
        )
        .replace("image_size: 32", "image_size: 16")
        .replace("patch_size: 4", "patch_size: 2");
    std::fs::write(bench.path("suite.yaml"), &text).unwrap();
    bench.refused(
        &["validate", "suite.yaml"],
        &[
            "with.input.side",
            "32 pixels wide",
            "for 16 pixels",
            "`input: {side: 32}`",
        ],
    );
    for split in ["train", "val"] {
        for class in ["ant", "bee"].map(|class| bench.path(split).join(class)) {
            std::fs::create_dir_all(&class).unwrap();
            // No image is decoded.
            for image in 0..6 {
                std::fs::write(class.join(format!("{image}.png")), b"").unwrap();
            }
        }
    }
    let said = text.replace("input: {", "input: {side: 32, ");
    std::fs::write(bench.path("suite.yaml"), said).unwrap();
    bench.fine(&["validate", "suite.yaml"]);
    std::fs::write(bench.path("suite.yaml"), text.replace("true}", "false}")).unwrap();
    bench.fine(&["validate", "suite.yaml"]);
}

/// Returns the ONNX graph `output = Relu(images)`, f32 `[batch, 3, 8, 8]`.
fn relu(batch: i64) -> Vec<u8> {
    let dims = [batch, 3, 8, 8];
    let graph = Model::new(FLOAT, &dims).node("Relu", &["images"], &["output"], &[]);
    graph.output("output", FLOAT, &dims).file()
}

#[test]
fn fields_of_a_graph_out_of_range_are_refused() {
    let tokens = Model::new(FLOAT, &[-1, 3, 8, 8]).integers("shape", &[-1, 3, 64]);
    let tokens = tokens.node("Reshape", &["images", "shape"], &["t"], &[]);
    let open = Model::new(FLOAT, &[-1, 3, -1, -1]).node("Relu", &["images"], &["f"], &[]);
    let tokens = tokens.output("t", FLOAT, &[-1, 3, 64]).file();
    let open = open.output("f", FLOAT, &[-1, 3, -1, -1]).file();
    let custom = |mean: &str, std: &str| {
        format!("input: {{scale: {{custom: {{mean: {mean}, std: {std}}}}}}}")
    };
    let plain = "input: {scale: zero-one}";
    for (file, fields, parts) in [
        (
            &relu(-1),
            format!("{plain}, drop_tokens: 1"),
            ["drop_tokens: found 1", "no tokens to drop"],
        ),
        (
            &tokens,
            format!("{plain}, drop_tokens: 4"),
            ["drop_tokens: found 4", "the 3 tokens"],
        ),
        (
            &relu(-1),
            format!("{plain}, batch: 4097"),
            ["batch: found 4097", "at most 4096"],
        ),
        (
            &open,
            "input: {side: 0, scale: zero-one}".into(),
            ["input.side: found 0", "at least 1"],
        ),
        (
            &open,
            "input: {side: 16385, scale: zero-one}".into(),
            ["input.side: found 16385", "at most 16384"],
        ),
        (
            &relu(-1),
            custom("[0, 0, 0]", "[1, 0, 1]"),
            ["scale.custom.std[1]: found 0", "above 0"],
        ),
        (
            &relu(-1),
            custom("[0, 1.0e+39, 0]", "[1, 1, 1]"),
            ["scale.custom.mean[1]: found", "at most 1000"],
        ),
        (
            &relu(-1),
            custom("[123.675, 116.28, 103.53]", "[58.395, 57.12, 57.375]"),
            [
                "input.scale: found mean [123.675",
                "divide numbers of the 0..255 scale by 255",
            ],
        ),
    ] {
        let with =
            format!("{{features: {{kind: onnx, model: m.onnx, {fields}}}, k: 3, epochs: 1}}");
        let bench = suite("kmeans", &with, "");
        std::fs::write(bench.path("m.onnx"), file).unwrap();
        bench.refused(&["score", "suite.yaml"], &parts);
    }
}

#[test]
fn an_engine_that_cannot_be_had_is_an_error_with_the_remedy() {
    for (engine, library, parts) in [
        (
            "tract",
            "",
            ["rten has replaced tract", "TESSERA_ONNX=rten"],
        ),
        (
            "",
            "no/libonnxruntime.so",
            [
                "ORT_DYLIB_PATH=no/libonnxruntime.so does not load",
                "unset it",
            ],
        ),
    ] {
        let bench = suite("onnx-ids", VQ, "");
        let mut command = bench.command(&["validate", "suite.yaml"]);
        command
            .env("TESSERA_ONNX", engine)
            .env("ORT_DYLIB_PATH", library);
        let output = command.output().unwrap();
        let said = error(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in parts {
            assert!(said.contains(part), "expected {part:?} in: {said}");
        }
    }
}

#[test]
fn a_graph_with_a_fixed_batch_is_called_with_it() {
    let with =
        "{features: {kind: onnx, model: relu.onnx, input: {scale: zero-one}}, k: 3, epochs: 1}";
    let bench = suite("kmeans", with, "");
    std::fs::write(bench.path("relu.onnx"), relu(3)).unwrap();
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(column(&bench.path("out"), "status"), ["ok", "ok"]);
    let bench = suite(
        "kmeans",
        &with.replace("relu.onnx", "relu.onnx, batch: 4"),
        "",
    );
    std::fs::write(bench.path("relu.onnx"), relu(3)).unwrap();
    bench.refused(
        &["validate", "suite.yaml"],
        &[
            "with.features.batch",
            "found 4",
            "3 images at a time",
            "leave `batch` out",
        ],
    );
}

#[test]
fn a_batch_or_thread_count_of_zero_is_refused() {
    for field in ["batch", "threads"] {
        let bench = suite(
            "onnx-ids",
            &VQ.replace("256", &format!("256, {field}: 0")),
            "",
        );
        bench.refused(
            &["validate", "suite.yaml"],
            &[&format!("with.{field}"), "found 0", "at least 1"],
        );
    }
}

#[test]
fn ids_outside_the_codebook_fail_the_cell() {
    let bench = suite("onnx-ids", &VQ.replace("256", "3"), "");
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let errors = column(&bench.path("out"), "error");
    assert!(errors[0].contains("not in 0..3"), "{errors:?}");
    assert!(errors[0].contains("with.codebook_size"), "{errors:?}");
}

/// The store may be full: its record of a failure is no result.
#[test]
fn a_failure_that_cannot_be_recorded_does_not_end_the_other_rows() {
    let pixels = "{name: P, kind: kmeans, with: {features: {kind: pixels}, k: 2, epochs: 1}}";
    let more = format!("}}, {}", &pixels[..pixels.len() - 1]);
    let bench = suite("onnx-ids", &VQ.replace("256", "3"), &more);
    let args = ["score", "suite.yaml", "--out", "out", "--store", "store"];
    std::fs::create_dir(bench.path("store")).unwrap();
    std::fs::write(bench.path("store/.failed"), "").unwrap();
    let output = bench.bench(&args);
    let said = error(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let note = "the failure of the stage is not recorded";
    assert!(said.contains(note) && said.contains("--store"), "{said}");
    let states = column(&bench.path("out"), "status");
    assert_eq!(states, ["failed", "failed", "ok", "ok"]);
}

#[test]
fn ids_are_refused_as_features_and_features_as_ids() {
    let bench = suite(
        "continuous",
        "{features: {kind: onnx, model: \"embedded:mosaic_vq\"}}",
        "",
    );
    bench.refused(&["score", "suite.yaml"], &["integers", "onnx-ids"]);
    let bench = suite(
        "onnx-ids",
        "{model: \"embedded:mosaic_ssl\", codebook_size: 8}",
        "",
    );
    bench.refused(&["score", "suite.yaml"], &["f32", "argmax"]);
}

#[test]
fn a_token_file_of_the_wrong_length_is_refused() {
    let bench = suite("token-file", "{train: ids.npy, codebook_size: 8}", "");
    write_ids(&bench.path("ids.npy"), 95, 64, |at| at as u32 % 8);
    bench.refused(
        &["score", "suite.yaml"],
        &["ids.npy", "95 rows", "96 images", "with.train"],
    );
    write_ids(&bench.path("ids.npy"), 96, 49, |at| at as u32 % 8);
    bench.refused(
        &["score", "suite.yaml"],
        &["ids.npy", "[96, 49]", "[images, 64]"],
    );
    write_ids(&bench.path("ids.npy"), 96, 64, |at| at as u32 % 9);
    bench.refused(&["score", "suite.yaml"], &["ids.npy", "id 8", "0..8"]);
    let whole = std::fs::read(bench.path("ids.npy")).unwrap();
    std::fs::write(bench.path("ids.npy"), &whole[..whole.len() - 6]).unwrap();
    bench.refused(&["score", "suite.yaml"], &["ids.npy", "is truncated"]);
}

#[test]
fn ids_may_be_bytes_with_a_sign() {
    let bench = suite("token-file", "{train: ids.npy, codebook_size: 8}", "");
    let header = "{'descr': '|i1', 'fortran_order': False, 'shape': (96, 64), }";
    let header = format!("{header:<117}\n");
    let length = (header.len() as u16).to_le_bytes();
    let ids: Vec<u8> = (0..96 * 64).map(|at| (at % 8) as u8).collect();
    let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &ids].concat();
    std::fs::write(bench.path("ids.npy"), file).unwrap();
    bench.fine(&["score", "suite.yaml"]);
}

#[test]
fn a_token_file_cannot_be_trained_on_random_crops() {
    let bench = suite("token-file", "{train: ids.npy, codebook_size: 8}", "");
    write_ids(&bench.path("ids.npy"), 96, 64, |at| at as u32 % 8);
    bench.refused(
        &["run", "suite.yaml"],
        &["token-file", "random crops", "augment: fixed-view"],
    );
    bench.fine(&[
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--set",
        "pretrain.augment=fixed-view",
    ]);
    assert_eq!(column(&bench.path("out"), "status"), ["ok", "ok"]);
}

#[test]
fn ids_of_a_class_token_are_refused_with_the_remedy() {
    let bench = suite("token-file", "{train: ids.npy, codebook_size: 4}", "");
    write_ids(&bench.path("ids.npy"), 96, 65, |at| at as u32 % 4);
    let parts = [
        "ids.npy",
        "[96, 65]",
        "[images, 64]",
        "cut off the class token",
    ];
    bench.refused(&["score", "suite.yaml"], &parts);
}

/// Arguments that write the ids of the row `T`.
fn tokenize(out: &str) -> [&str; 6] {
    let of_train = "--split=train";
    ["tokenize", "suite.yaml", "--only=T", of_train, "--out", out]
}

/// They were overwritten, also those that no argument names.
#[test]
fn files_that_tokenize_has_not_written_stay() {
    let vq = suite("onnx-ids", VQ, "");
    for (name, out) in [
        ("suite.yaml", "suite.yaml"),
        ("ids.labels.npy", "ids.npy"),
        ("other.files.txt", "other.npy"),
    ] {
        let path = vq.path(name);
        if name != "suite.yaml" {
            std::fs::write(&path, "mine").unwrap();
        }
        let before = std::fs::read(&path).unwrap();
        vq.refused(&tokenize(out), &[name, "name another file with --out"]);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    // Its own files are written again, also if a call has ended before the ids.
    vq.fine(&tokenize("new.npy"));
    vq.fine(&tokenize("new.npy"));
    std::fs::remove_file(vq.path("new.npy")).unwrap();
    vq.fine(&tokenize("new.npy"));
}

#[test]
fn a_token_file_row_reads_the_output_of_tokenize() {
    let vq = suite("onnx-ids", VQ, "");
    vq.fine(&tokenize("ids.npy"));
    vq.fine(&["score", "suite.yaml", "--out", "out"]);
    let file = suite("token-file", "{train: ids.npy, codebook_size: 256}", "");
    std::fs::copy(vq.path("ids.npy"), file.path("ids.npy")).unwrap();
    file.fine(&["score", "suite.yaml", "--out", "out"]);
    for name in ["tcas", "pnmi", "perplexity"] {
        assert_eq!(
            column(&vq.path("out"), name),
            column(&file.path("out"), name),
            "{name}"
        );
    }
    // The names beside it are those of this dataset's images, in their order.
    std::fs::copy(vq.path("ids.files.txt"), file.path("ids.files.txt")).unwrap();
    file.fine(&["score", "suite.yaml", "--out", "out"]);
    let names = std::fs::read_to_string(vq.path("ids.files.txt")).unwrap();
    let mut lines: Vec<&str> = names.lines().collect();
    lines.swap(1, 2);
    let found = format!(
        "ids.files.txt:2: found {:?}, expected {:?}",
        lines[1], lines[2]
    );
    let remedy = "order of `bench tokenize`";
    for (text, part) in [
        (lines.join("\n"), found.as_str()),
        (names.clone() + "more\n", "files.txt:97: found \"more\""),
    ] {
        std::fs::write(file.path("ids.files.txt"), text).unwrap();
        let parts = ["suite.yaml:", "with.train", part, remedy];
        file.refused(&["score", "suite.yaml", "--out", "out"], &parts);
    }
    // Without names, labels beside the ids still show another order.
    std::fs::remove_file(file.path("ids.files.txt")).unwrap();
    std::fs::copy(vq.path("ids.labels.npy"), file.path("ids.labels.npy")).unwrap();
    file.fine(&["score", "suite.yaml", "--out", "out"]);
    let labels = file.path("ids.labels.npy");
    let mut bytes = std::fs::read(&labels).unwrap();
    let length = bytes.len();
    let [first, last] = [length - 96 * 4, length - 4];
    (0..4).for_each(|byte| bytes.swap(first + byte, last + byte));
    std::fs::write(&labels, bytes).unwrap();
    let part = "ids.labels.npy: found label 5 of image 0, expected 0";
    let parts = ["suite.yaml:", "with.train", part, remedy];
    file.refused(&["score", "suite.yaml", "--out", "out"], &parts);
    common::write_ids(&labels, 95, 1, |_| 0);
    let parts = ["found 95 labels, expected 96", remedy];
    file.refused(&["score", "suite.yaml", "--out", "out"], &parts);
    common::write_ids(&labels, 96, 1, |_| u32::MAX);
    let part = "found a label below 0 or above 2^32 - 2 of image 0, expected";
    file.refused(&["score", "suite.yaml", "--out", "out"], &[part, remedy]);
    // A disk that is not there.
    for name in ["ids.labels.npy", "ids.files.txt"] {
        let path = file.path(name);
        let _ = std::fs::remove_file(&labels);
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        file.refused(
            &["score", "suite.yaml", "--out", "out"],
            &[name, "which does not exist"],
        );
        std::fs::remove_file(&path).unwrap();
    }
}

/// `bench validate` found it fine, and a run refused it after the scan of all images.
#[test]
fn more_codes_than_patches_are_refused_before_any_work() {
    let row = "{name: K, kind: kmeans, with: {features: {kind: pixels}, k: 1537, epochs: 1}}";
    let bench = Bench::new(&format!("{HEAD}tokenizers: [{row}]\n"));
    let parts = ["with.k: found 1537", "only 1536 patches"];
    bench.refused(&["validate", "suite.yaml"], &parts);
    bench.fine(&[
        "validate",
        "suite.yaml",
        "--set",
        "tokenizers[0].with.k=1536",
    ]);
}

/// They had no effect, and the table printed them as the row's recipe.
#[test]
fn overrides_without_effect_are_refused() {
    let row = "{name: T, kind: continuous, with: {features: {kind: pixels}}}";
    let recipe = "pretrain: {checkpoint: e.safetensors}\nknn: {k: 5}\n";
    let bench = Bench::new(&format!("{HEAD}tokenizers: [{row}]\n{recipe}"));
    let own = "tokenizers[0].override={pretrain: {mask_ratio: 0.6}}";
    let field = "tokenizers[0].override.pretrain.mask_ratio";
    bench.refused(
        &["validate", "suite.yaml", "--set", own],
        &[field, "no effect with `checkpoint`"],
    );
    let bench = Bench::whole();
    let own = "tokenizers[0].override={fine_tune: {from_scratch_base_lr: 0.1}}";
    let field = "tokenizers[0].override.fine_tune.from_scratch_base_lr";
    bench.refused(
        &["validate", "suite.yaml", "--set", own],
        &[field, "no effect on this row"],
    );
}
