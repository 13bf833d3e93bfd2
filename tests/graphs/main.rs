//! Graphs in the forms that exporters write: both engines return the same targets, and refuse the same faults with the same message.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "onnx")]

mod batch;
#[path = "../common/mod.rs"]
mod common;
mod rewrites;
mod twice;

use common::onnx::{
    CODES, FLOAT, INT64, Model, argmax, codes, encoder, int, ints, message, number, scores, text,
};
use common::{Bench, HEAD, RECIPE, error, onnxruntime};

/// `TensorProto.DataType` of an unsupported type.
const FLOAT16: i64 = 10;

/// Returns the available engines; prints a notice if ONNX Runtime is missing.
fn engines() -> Vec<&'static str> {
    match onnxruntime() {
        true => vec!["rten", "onnxruntime"],
        false => vec!["rten"],
    }
}

/// Returns a suite with one row that uses `m.onnx`, on 16-pixel mosaics in a 4x4 grid.
fn suite(kind: &str, file: &[u8], more: &str) -> Bench {
    let model = format!("model: m.onnx, input: {{scale: zero-one}}{more}");
    let (kind, with) = match kind {
        "onnx-ids" => (kind, format!("{{{model}, codebook_size: {CODES}}}")),
        _ => (
            "continuous",
            format!("{{features: {{kind: onnx, {model}}}}}"),
        ),
    };
    let row = format!("tokenizers: [{{name: T, kind: {kind}, with: {with}}}]\n");
    let bench = Bench::new(&format!("{HEAD}{row}{RECIPE}"));
    std::fs::write(bench.path("m.onnx"), file).unwrap();
    bench
}

/// Returns the file that `tokenize` writes under an engine, or its error message.
fn targets(bench: &Bench, engine: &str) -> Result<Vec<u8>, String> {
    let args = ["tokenize", "suite.yaml", "--only", "T", "--split", "val"];
    let mut command = bench.command(&args);
    command.args(["--out", "v.npy"]).env("TESSERA_ONNX", engine);
    let output = command.output().unwrap();
    match output.status.code() {
        Some(0) => Ok(std::fs::read(bench.path("v.npy")).unwrap()),
        Some(2) => {
            let said = error(&output);
            let line = said.lines().rfind(|line| line.starts_with("error: "));
            Err(line.unwrap().to_owned())
        }
        other => panic!("{engine}: {other:?}: {}", error(&output)),
    }
}

/// Returns the graph of ids of the plain encoder.
fn plain() -> Model {
    argmax(encoder())
}

fn ids(model: Model) -> Vec<u8> {
    model.output("ids", INT64, &[-1, 4, 4]).file()
}

/// Returns the graph of ids with another output shape.
fn shaped(shape: &[i64]) -> Vec<u8> {
    let model = plain().integers("shape", shape);
    let model = model.node("Reshape", &["ids", "shape"], &["out"], &[]);
    let dims: Vec<i64> = [&[-1], &shape[1..]].concat();
    model.output("out", INT64, &dims).file()
}

/// Returns graphs equivalent to the plain encoder: name, file, further fields.
fn same() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut cases: Vec<(String, Vec<u8>, &str)> = Vec::new();
    for batch in [1, 7] {
        let images = Model::new(FLOAT, &[batch, 3, 16, 16]);
        let images = images.weights("w", &[CODES, 3, 4, 4], &codes());
        let model = argmax(scores(images)).output("ids", INT64, &[batch, 4, 4]);
        cases.push((format!("a batch of {batch}"), model.file(), ""));
    }
    let open = Model::new(FLOAT, &[-1, -1, -1, -1]).weights("w", &[CODES, 3, 4, 4], &codes());
    let open = argmax(scores(open)).output("ids", INT64, &[-1, -1, -1]);
    cases.push(("open dimensions".into(), open.file(), ""));
    let channel = [int("axis", 1), int("keepdims", 1)];
    let channel = encoder().node("ArgMax", &["f"], &["ids"], &channel);
    let channel = channel.output("ids", INT64, &[-1, 1, 4, 4]).file();
    cases.push(("a channel".into(), channel, ""));
    for shape in [&[-1, 16][..], &[-1, 1, 16], &[-1, 16, 1]] {
        cases.push((format!("{shape:?}"), shaped(shape), ""));
    }
    for element in [2, 3, 4, 5, 6, 7, 12, 13] {
        let model = plain().node("Cast", &["ids"], &["cast"], &[int("to", element)]);
        let model = model.integers("shape", &[-1, 16]);
        let model = model.node("Reshape", &["cast", "shape"], &["out"], &[]);
        let file = model.output("out", element, &[-1, 16]).file();
        cases.push((format!("type {element}"), file, ""));
    }
    let mut old = plain().input("w", FLOAT, &[CODES, 3, 4, 4]);
    (old.ir, old.opset) = (3, 9);
    cases.push(("weights among the inputs".into(), ids(old), ""));
    let loss = plain().node("ReduceMean", &["f"], &["loss"], &[int("keepdims", 0)]);
    let loss = loss.output("loss", FLOAT, &[]);
    cases.push(("the second output".into(), ids(loss), ", output: ids"));
    cases
}

#[test]
fn equivalent_graphs_give_the_same_ids() {
    let reference = targets(&suite("onnx-ids", &ids(plain()), ""), "rten").unwrap();
    for engine in engines() {
        let plain = targets(&suite("onnx-ids", &ids(plain()), ""), engine).unwrap();
        assert_eq!(plain, reference, "{engine}");
        for (name, file, more) in same() {
            let found = targets(&suite("onnx-ids", &file, more), engine);
            assert_eq!(found.as_ref(), Ok(&reference), "{name}, {engine}");
        }
    }
}

/// Asserts that every engine refuses with the same message, which contains all of `parts`.
fn refused(name: &str, bench: &Bench, parts: &[&str]) {
    let mut before: Option<String> = None;
    for engine in engines() {
        let said = targets(bench, engine).unwrap_err();
        for part in parts {
            assert!(
                said.contains(part),
                "{name}, {engine}: expected {part:?} in: {said}"
            );
        }
        let said = said.replace("rten 0.27.0", "ENGINE");
        let said = match said.split_once("onnxruntime 1.") {
            Some((head, tail)) => {
                format!("{head}ENGINE{}", &tail[tail.find([':', ' ']).unwrap()..])
            }
            None => said,
        };
        assert_eq!(before.get_or_insert(said.clone()), &said, "{name}");
    }
}

#[test]
fn versions_that_do_not_exist_are_refused() {
    for (ir, opset, parts) in [
        (0, 17, ["IR version 0", "1 to 14"]),
        (99, 17, ["IR version 99", "export it again"]),
        (8, 0, ["opset 0", "1 to 28"]),
        (8, 99, ["opset 99", "such as 17"]),
    ] {
        let mut model = plain();
        (model.ir, model.opset) = (ir, opset);
        refused("versions", &suite("onnx-ids", &ids(model), ""), &parts);
    }
}

#[test]
fn inputs_and_outputs_of_another_kind_are_refused() {
    let nhwc = Model::new(FLOAT, &[-1, 16, 16, 3]);
    let nhwc = nhwc.node("Transpose", &["images"], &["ids"], &[]);
    let half = Model::new(FLOAT16, &[-1, 3, 16, 16]).node("Shape", &["images"], &["ids"], &[]);
    let cast = |element| {
        let model = plain().node("Cast", &["ids"], &["out"], &[int("to", element)]);
        model.output("out", element, &[-1, 4, 4]).file()
    };
    for (name, file, parts) in [
        (
            "a mask",
            ids(plain().input("mask", FLOAT, &[-1, 16])),
            ["[\"images\", \"mask\"]", "expected one", "as constants"],
        ),
        (
            "channels last",
            ids(nhwc),
            ["[?, 16, 16, 3]", "[batch, 3, side, side]", "transpose"],
        ),
        ("half", ids(half), ["float16", "f32 images", "cast inside"]),
        (
            "bool",
            cast(9),
            ["`out` of type bool", "expected integers", "cast to int64"],
        ),
        (
            "double",
            cast(11),
            ["float64", "expected integers", "float32"],
        ),
        (
            "half out",
            cast(FLOAT16),
            ["float16", "expected integers", "float32"],
        ),
        (
            "flat",
            shaped(&[-1]),
            ["shape [256]", "expected 16", "batch dimension"],
        ),
        (
            "another grid",
            shaped(&[-1, 2, 8]),
            ["has 2x8 patches", "4x4", "patch_size"],
        ),
        (
            "a class token",
            {
                let pads = plain()
                    .integers("pads", &[0, 1, 0, 0])
                    .integers("shape", &[-1, 16]);
                let flat = pads.node("Reshape", &["ids", "shape"], &["flat"], &[]);
                let model = flat.node("Pad", &["flat", "pads"], &["out"], &[]);
                model.output("out", INT64, &[-1, 17]).file()
            },
            ["has 17 patches", "16 patches", "class token"],
        ),
        (
            "an output of nothing",
            plain().output("lost", INT64, &[-1, 4, 4]).file(),
            ["`lost`", "no operator", "fetch"],
        ),
        (
            "no such output",
            ids(plain()),
            ["no output `idz`", "expected one of", "\"ids\""],
        ),
        (
            "a loss first",
            {
                let loss = plain().node("ReduceMean", &["f"], &["loss"], &[int("keepdims", 0)]);
                ids(loss.output("loss", FLOAT, &[]))
            },
            ["loss", "\"ids\"", "set `output`"],
        ),
    ] {
        let more = if name == "no such output" {
            ", output: idz"
        } else {
            ""
        };
        let kind = if name == "a loss first" {
            "onnx"
        } else {
            "onnx-ids"
        };
        refused(name, &suite(kind, &file, more), &parts);
    }
}

#[test]
fn files_that_are_not_graphs_are_refused() {
    let whole = ids(plain());
    let twice = [&whole[..], &message(7, [])].concat();
    let mut deep = message(1, message(4, "Relu"));
    for _ in 0..5000 {
        deep = message(
            1,
            message(5, [message(1, "body"), message(6, deep)].concat()),
        );
    }
    let deep = [number(1, 8), message(7, deep), message(8, number(2, 17))].concat();
    let strange = encoder().node("my.ops/MyOp", &["f"], &["ids"], &[]);
    for (name, file, parts) in [
        ("empty", vec![], ["not an ONNX graph", "it is empty"]),
        (
            "a page",
            b"<html>404</html>".to_vec(),
            ["not an ONNX graph", "web page; download the file again"],
        ),
        (
            "a pointer",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            ["Git LFS", "git lfs pull"],
        ),
        (
            "cut off",
            whole[..whole.len() / 2].to_vec(),
            ["not an ONNX graph", "cut off"],
        ),
        ("two graphs", twice, ["not an ONNX graph", "2 graphs"]),
        ("nested", deep, ["not an ONNX graph", "nested graphs"]),
        (
            "another's operator",
            ids(strange),
            ["my.ops.MyOp", "no engine here"],
        ),
    ] {
        refused(name, &suite("onnx-ids", &file, ""), &parts);
    }
}

/// Returns the encoder with its weights in an external file.
fn elsewhere(place: &[(&str, &str)]) -> Vec<u8> {
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]);
    let model = images.external("w", &[CODES, 3, 4, 4], place);
    ids(argmax(scores(model)))
}

#[test]
fn external_weights_are_read_and_are_part_of_the_key() {
    let weights: Vec<u8> = codes().iter().flat_map(|v| v.to_le_bytes()).collect();
    let size = weights.len().to_string();
    let reference = targets(&suite("onnx-ids", &ids(plain()), ""), "rten").unwrap();
    for engine in engines() {
        for (path, place, before) in [
            ("m.onnx.data", vec![("offset", "0"), ("length", &*size)], 0),
            ("w.bin", vec![], 0),
            ("onnx__Conv_1", vec![("offset", "3"), ("length", &*size)], 3),
            (
                "weights/w.data",
                vec![("offset", "16"), ("length", &*size)],
                16,
            ),
        ] {
            let place = [&[("location", path)], &place[..]].concat();
            let bench = suite("onnx-ids", &elsewhere(&place), "");
            let file = bench.path(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, [&vec![0; before], &weights[..]].concat()).unwrap();
            assert_eq!(targets(&bench, engine).as_ref(), Ok(&reference), "{path}");
            // Other weights give another tokenizer.
            let other: Vec<u8> = weights.iter().rev().copied().collect();
            let other: Vec<u8> = other
                .chunks_exact(4)
                .flat_map(|b| [0, 0, b[2], 0x3f])
                .collect();
            std::fs::write(&file, [&vec![0; before], &other[..]].concat()).unwrap();
            assert_ne!(targets(&bench, engine).unwrap(), reference, "{path}");
        }
    }
}

#[test]
fn external_weights_that_are_missing_or_in_another_folder_are_refused() {
    for (place, parts) in [
        (vec![("location", "lost.data")], ["lost.data", "beside it"]),
        (vec![("location", "../w.data")], ["../w.data", "own folder"]),
        (
            vec![("location", "/etc/hostname")],
            ["/etc/hostname", "own folder"],
        ),
        (vec![("location", "")], ["\"\"", "own folder"]),
        (
            vec![("location", "short.data"), ("length", "1536")],
            ["short.data", "expected 1536"],
        ),
        (
            vec![("location", "short.data"), ("offset", "many")],
            ["offset", "expected a number"],
        ),
    ] {
        let bench = suite("onnx-ids", &elsewhere(&place), "");
        std::fs::write(bench.path("short.data"), [0; 64]).unwrap();
        refused("weights", &bench, &parts);
    }
}

#[test]
fn graphs_that_rten_computes_differently_need_onnx_runtime() {
    let softmax = |axis: &[Vec<u8>]| {
        let mut model = encoder().node("Softmax", &["f"], &["out"], axis);
        model.opset = 11;
        model
    };
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]).weights("w", &[CODES, 3, 4, 4], &codes());
    let strides = [
        text("auto_pad", "SAME_LOWER"),
        ints("kernel_shape", &[4, 4]),
        ints("strides", &[4, 4]),
    ];
    let lower = images.node("Conv", &["images", "w"], &["out"], &strides);
    for (model, operator) in [
        (softmax(&[]), "Softmax of opset 11"),
        (softmax(&[int("axis", 2)]), "Softmax of opset 11"),
        (softmax(&[int("axis", -2)]), "Softmax of opset 11"),
        (lower, "Conv of opset 17"),
    ] {
        let file = model.output("out", FLOAT, &[-1, CODES, 4, 4]).file();
        for engine in engines() {
            match (engine, targets(&suite("onnx", &file, ""), engine)) {
                ("rten", Err(said)) => assert!(
                    said.contains(operator) && said.contains("ONNX Runtime"),
                    "{said}"
                ),
                ("onnxruntime", Ok(_)) => (),
                (_, other) => panic!("{engine}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_graph_without_a_manifest_needs_a_scale() {
    let bench = suite("onnx-ids", &ids(plain()), "");
    let path = bench.path("suite.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(", input: {scale: zero-one}", "")).unwrap();
    refused(
        "scale",
        &bench,
        &["with.input.scale", "missing", "zero-one", "dvae", "custom"],
    );
    let own = "{model: \"embedded:mosaic_vq\", codebook_size: 256, input: {scale: imagenet}}";
    let own = Bench::on_32_pixels("onnx-ids", own);
    own.refused(
        &["validate", "suite.yaml"],
        &["with.input.scale", "zero-one", "leave `scale` out"],
    );
}
