//! Targets of an image that depend on chance or on the other images of a call.

use crate::common::onnx::{CODES, FLOAT, Model, argmax, codes, encoder, int, ints, message};
use crate::{engines, ids, plain, refused, suite, targets};

#[test]
fn targets_that_depend_on_random_numbers_or_other_images_are_refused() {
    let noise = encoder().node("RandomNormalLike", &["f"], &["n"], &[]);
    let noise = noise.node("Add", &["f", "n"], &["out"], &[]);
    let statistics = |axes: &[i64], keep| {
        let model = encoder().node(
            "ReduceMean",
            &["f"],
            &["m"],
            &[ints("axes", axes), int("keepdims", keep)],
        );
        model.node("Sub", &["f", "m"], &["out"], &[])
    };
    let mut training = encoder();
    for name in ["scale", "shift", "mean", "var"] {
        training = training.weights(name, &[CODES], &[1.0; CODES as usize]);
    }
    let inputs = ["f", "scale", "shift", "mean", "var"];
    let mode = [int("training_mode", 1)];
    let training = training.node("BatchNormalization", &inputs, &["out", "m", "v"], &mode);
    // Position 0 of the batch does not depend on the others.
    let first = encoder().integers("zero", &[0]);
    let first = first.node("Gather", &["f", "zero"], &["m"], &[int("axis", 0)]);
    let first = first.node("Sub", &["f", "m"], &["out"], &[]);
    let inputs = ["f", "ratio", "mode"];
    let dropout = encoder().node("Dropout", &inputs, &["out"], &[]);
    for (name, model, parts) in [
        ("noise", noise, ["RandomNormalLike", "random numbers"]),
        (
            "training",
            training,
            ["BatchNormalization in training mode", "model.eval()"],
        ),
        (
            "dropout",
            dropout,
            ["`training_mode` is an input", "model.eval()"],
        ),
        (
            "a mean over the batch",
            statistics(&[0], 1),
            ["beside it", "`batch: 1`"],
        ),
        ("less the first image", first, ["beside it", "`batch: 1`"]),
    ] {
        let file = model.output("out", FLOAT, &[-1, CODES, 4, 4]).file();
        refused(name, &suite("onnx", &file, ""), &parts);
    }
    // Statistics over the patches of an image are accepted, and statistics over a batch of one, as the message suggests.
    let output = |model: Model| model.output("out", FLOAT, &[-1, CODES, 4, 4]).file();
    for engine in engines() {
        targets(&suite("onnx", &output(statistics(&[2, 3], 1)), ""), engine).unwrap();
        targets(
            &suite("onnx", &output(statistics(&[0], 1)), ", batch: 1"),
            engine,
        )
        .unwrap();
    }
    // Nodes of nested graphs count, also inside functions.
    let branch = message(6, message(1, message(4, "RandomNormalLike")));
    let branch = message(5, [message(1, "then_branch"), branch].concat());
    let node = message(7, [message(4, "If"), branch].concat());
    let function = [message(1, "Noisy"), node, message(10, "own")].concat();
    let model = encoder().node("own/Noisy", &["f"], &["out"], &[]);
    let file = [output(model), message(25, function)].concat();
    let parts = ["RandomNormalLike", "random numbers"];
    refused("in a function", &suite("onnx", &file, ""), &parts);
    // Nodes that do not affect the output are ignored.
    let beside = plain().node("RandomNormalLike", &["f"], &["n"], &[]);
    targets(&suite("onnx-ids", &ids(beside), ""), "rten").unwrap();
}

/// Two hundredths of a mean changed no id of the image that is compared while the images beside it had the same mean.
#[test]
fn ids_that_depend_a_little_on_the_mean_of_a_batch_are_refused() {
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]).weights("w", &[CODES, 3, 4, 4], &codes());
    let model = images.weights("part", &[1], &[0.02]);
    let model = model.node("ReduceMean", &["images"], &["m"], &[ints("axes", &[0])]);
    let model = model.node("Mul", &["m", "part"], &["p"], &[]);
    let model = model.node("Add", &["images", "p"], &["x"], &[]);
    let attributes = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    let file = ids(argmax(model.node("Conv", &["x", "w"], &["f"], &attributes)));
    let parts = ["beside it", "`batch: 1`"];
    refused("a part of a mean", &suite("onnx-ids", &file, ""), &parts);
}

#[test]
fn a_graph_with_dynamic_quantisation_runs_image_by_image() {
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]).weights("w", &[CODES, 3, 4, 4], &codes());
    let quantised = images.node("DynamicQuantizeLinear", &["images"], &["q", "s", "z"], &[]);
    let model = quantised.node("DequantizeLinear", &["q", "s", "z"], &["x"], &[]);
    let attributes = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    let model = argmax(model.node("Conv", &["x", "w"], &["f"], &attributes));
    let file = ids(model);
    for engine in engines() {
        targets(&suite("onnx-ids", &file, ""), engine).unwrap();
        targets(&suite("onnx-ids", &file, ", batch: 1"), engine).unwrap();
    }
    let parts = ["found 4", "quantises dynamically", "leave `batch` out"];
    refused("batch", &suite("onnx-ids", &file, ", batch: 4"), &parts);
}
