//! Graphs that engines compute differently: of names that are defined twice, and of values that depend on the number of images in a call.
//! External weights that are lost.

use crate::common::onnx::{
    CODES, FLOAT, Model, argmax, codes, encoder, int, message, number, scores,
};
use crate::{elsewhere, engines, ids, plain, refused, suite, targets};

/// rten took the last definition, ONNX Runtime the first or none.
#[test]
fn names_and_attributes_that_are_defined_twice_are_refused() {
    let twice = |model: Model| ids(argmax(scores(model)));
    let images = || Model::new(FLOAT, &[-1, 3, 16, 16]).weights("w", &[CODES, 3, 4, 4], &codes());
    let other: Vec<f32> = codes().iter().rev().copied().collect();
    let weights = images().weights("w", &[CODES, 3, 4, 4], &other);
    let node = images().node("Identity", &["w"], &["w"], &[]);
    let inner = message(5, [number(2, FLOAT), message(8, "w")].concat());
    let branch = [message(1, "then_branch"), message(6, inner), number(20, 5)].concat();
    let branch = plain().node("If", &["f"], &["y"], &[branch]);
    let inputs = Model::new(FLOAT, &[-1, 3, 16, 16]).input("images", FLOAT, &[-1, 3, 16, 16]);
    for (file, what) in [
        (twice(weights), "the value `w` twice"),
        (twice(node), "the value `w` twice"),
        (ids(branch), "the value `w` twice"),
        (
            ids(argmax(scores(inputs.weights(
                "w",
                &[CODES, 3, 4, 4],
                &codes(),
            )))),
            "the value `images` twice",
        ),
        (
            ids(encoder().node(
                "ArgMax",
                &["f"],
                &["ids"],
                &[int("axis", 1), int("keepdims", 0), int("keepdims", 1)],
            )),
            "the attribute `keepdims` of ArgMax twice",
        ),
    ] {
        refused(what, &suite("onnx-ids", &file, ""), &[what, "unique names"]);
    }
    // The input of a body may have the name of a value around it.
    let shape = message(2, message(1, number(1, FLOAT)));
    let input = message(11, [message(1, "f"), shape].concat());
    let looped = |body: Vec<u8>| {
        let body = [message(1, "body"), message(6, body), number(20, 5)].concat();
        ids(plain().node("Loop", &["f"], &["y"], &[body]))
    };
    targets(&suite("onnx-ids", &looped(input.clone()), ""), "rten").unwrap();
    // But no node of the body may write it.
    let node = [
        message(1, "images"),
        message(2, "f"),
        message(4, "Identity"),
    ]
    .concat();
    let file = looped([message(1, node), input].concat());
    let what = "the value `f` twice";
    refused(what, &suite("onnx-ids", &file, ""), &[what]);
    // Old files list weights among the inputs, too.
    let old = plain().input("w", FLOAT, &[CODES, 3, 4, 4]);
    targets(&suite("onnx-ids", &ids(old), ""), "rten").unwrap();
}

/// The last call of a split has fewer images.
#[test]
fn an_output_that_depends_on_the_number_of_images_is_refused() {
    let model = encoder().integers("zero", &[0]);
    let model = model.node("Shape", &["images"], &["shape"], &[]);
    let model = model.node("Gather", &["shape", "zero"], &["count"], &[]);
    let model = model.node("Cast", &["count"], &["number"], &[int("to", FLOAT)]);
    let model = model.node("Div", &["f", "number"], &["out"], &[]);
    let file = model.output("out", FLOAT, &[-1, CODES, 4, 4]).file();
    for engine in engines() {
        let found = targets(&suite("onnx", &file, ""), engine);
        match engine {
            // It gets whole batches only.
            "onnxruntime" => drop(found.unwrap()),
            _ => assert!(
                found
                    .unwrap_err()
                    .contains("the number of images in a call")
            ),
        }
        targets(&suite("onnx", &file, ", batch: 1"), engine).unwrap();
        targets(&suite("onnx-ids", &ids(plain()), ", batch: 2"), engine).unwrap();
        targets(&suite("onnx-ids", &ids(plain()), ", batch: 3"), engine).unwrap();
    }
}

#[test]
fn external_weights_that_are_lost_are_refused() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n";
    for (bytes, part) in [(&[0; 1536][..], "zero bytes"), (pointer, "git lfs pull")] {
        let bench = suite("onnx-ids", &elsewhere(&[("location", "w.data")]), "");
        std::fs::write(bench.path("w.data"), bytes).unwrap();
        refused(part, &bench, &["w.data", part]);
    }
}
