//! Graphs with operators that rten computes only in another form, or not at all.

use crate::common::onnx::{CODES, FLOAT, INT64, Model, argmax, encoder, int, ints};
use crate::{engines, suite, targets};

/// `TensorProto.DataType`.
const BOOL: i64 = 9;

/// Adds ids below 8: each of three channels of `b`, 0 or 1, has a power of two.
fn bits(model: Model) -> Vec<u8> {
    let model = model.weights("powers", &[1, 3, 1, 1], &[1.0, 2.0, 4.0]);
    let model = model.node("Cast", &["b"], &["bits"], &[int("to", FLOAT)]);
    let model = model.node("Mul", &["bits", "powers"], &["terms"], &[]);
    let over = [ints("axes", &[1]), int("keepdims", 0)];
    let model = model.node("ReduceMax", &["terms"], &["sum"], &over);
    let model = model.node("Cast", &["sum"], &["ids"], &[int("to", INT64)]);
    model.output("ids", INT64, &[-1, 4, 4]).file()
}

/// Returns the first three scores of the encoder, without the negative ones, as `x`.
fn rectified() -> Model {
    let model = encoder().integers("three", &[3]).integers("zero", &[0]);
    let model = model.integers("one", &[1]);
    let model = model.node("Slice", &["f", "zero", "three", "one"], &["s"], &[]);
    model.node("Relu", &["s"], &["x"], &[])
}

/// Returns the scores of 8 codes for an encoder's three rectified scores, repeated along a new axis.
fn repeated(axis: i64) -> Model {
    let mut sizes = vec![1, 3, 4, 4];
    sizes.insert(axis as usize, 2);
    let weights: Vec<f32> = (0..CODES * 6).map(|at| ((at * 7) % 11) as f32).collect();
    let model = rectified()
        .integers("axis", &[axis])
        .integers("sizes", &sizes);
    let model = model.integers("shape", &[-1, 6, 4, 4]);
    let model = model.node("Unsqueeze", &["x", "axis"], &["u"], &[]);
    let model = model.node("Expand", &["u", "sizes"], &["e"], &[]);
    let model = model.node("Reshape", &["e", "shape"], &["r"], &[]);
    let model = model.weights("c", &[CODES, 6, 1, 1], &weights);
    let size = ints("kernel_shape", &[1, 1]);
    model.node("Conv", &["r", "c"], &["g"], &[size])
}

/// Returns a graph that exchanges the last two axes and multiplies by a vector, which ONNX Runtime 1.32 fuses wrongly.
fn turned(is_computed: bool) -> Vec<u8> {
    let model = rectified().node("Cast", &["x"], &["truth"], &[int("to", BOOL)]);
    let model = model.node("Cast", &["truth"], &["t"], &[int("to", FLOAT)]);
    let model = model
        .integers("rows", &[0, 3, 16])
        .integers("grid", &[0, 4, 4]);
    let model = model.node("Reshape", &["t", "rows"], &["r"], &[]);
    let model = model.node("Transpose", &["r"], &["l"], &[ints("perm", &[0, 2, 1])]);
    let model = model.node("Identity", &["l"], &["left"], &[]);
    let model = match is_computed {
        false => model.weights("powers", &[3], &[1.0, 2.0, 4.0]),
        true => model.weights("matrix", &[3, 1], &[1.0, 2.0, 4.0]).node(
            "Reshape",
            &["matrix", "three"],
            &["powers"],
            &[],
        ),
    };
    let model = model.node("MatMul", &["left", "powers"], &["sum"], &[]);
    let model = model.node("Reshape", &["sum", "grid"], &["s4"], &[]);
    let model = model.node("Cast", &["s4"], &["ids"], &[int("to", INT64)]);
    model.output("ids", INT64, &[-1, 4, 4]).file()
}

/// Returns graphs of ids: name and file.
fn rewritten() -> Vec<(&'static str, Vec<u8>)> {
    let truth = rectified().node("Cast", &["x"], &["b"], &[int("to", BOOL)]);
    let sign = rectified().node("Sign", &["x"], &["b"], &[]);
    let best = [int("axis", 1), int("keepdims", 0)];
    let of_repeated = |axis| {
        let model = repeated(axis).node("ArgMax", &["g"], &["ids"], &best);
        model.output("ids", INT64, &[-1, 4, 4]).file()
    };
    // The softplus of all scores but small ones is infinite in f32 unless it is computed with care.
    let large = encoder().weights("thousand", &[], &[1000.0]);
    let large = large.node("Mul", &["f", "thousand"], &["h"], &[]);
    let large = large.node("Softplus", &["h"], &["g"], &[]);
    let large = large.node("ArgMax", &["g"], &["ids"], &best);
    // Whole numbers, of which multiples of 41 are divided.
    let whole = rectified().weights("steps", &[], &[20.0]);
    let whole = whole.node("Mul", &["x", "steps"], &["y"], &[]);
    let whole = whole.node("Round", &["y"], &["n"], &[]);
    let whole = whole.weights("of", &[], &[41.0]);
    let whole = whole.node("Mul", &["n", "of"], &["m"], &[]);
    let whole = whole.node("Div", &["m", "of"], &["q"], &[]);
    let whole = whole.node("Floor", &["q"], &["e"], &[]);
    let whole = whole.node("Equal", &["e", "n"], &["b"], &[]);
    let bits_of_scores = rectified().node("Cast", &["x"], &["truth"], &[int("to", BOOL)]);
    let vector = bits_of_scores.node("Cast", &["truth"], &["t"], &[int("to", FLOAT)]);
    let vector = vector.weights("powers", &[3], &[1.0, 2.0, 4.0]);
    let vector = vector.node("Transpose", &["t"], &["l"], &[ints("perm", &[0, 2, 3, 1])]);
    let vector = vector.node("MatMul", &["l", "powers"], &["sum"], &[]);
    let vector = vector.node("Cast", &["sum"], &["ids"], &[int("to", INT64)]);
    vec![
        ("truth", bits(truth)),
        ("sign", bits(sign)),
        ("tile", of_repeated(1)),
        ("repeat", of_repeated(2)),
        ("softplus", large.output("ids", INT64, &[-1, 4, 4]).file()),
        ("quotient", bits(whole)),
        ("vector", vector.output("ids", INT64, &[-1, 4, 4]).file()),
        ("turned", turned(false)),
        ("turned, computed", turned(true)),
    ]
}

#[test]
fn rewritten_operators_give_the_same_ids() {
    let mut sums = Vec::new();
    for (name, file) in rewritten() {
        let bench = suite("onnx-ids", &file, "");
        let found = engines()
            .into_iter()
            .map(|engine| targets(&bench, engine).unwrap());
        let found: Vec<Vec<u8>> = found.collect();
        assert!(found.iter().all(|ids| *ids == found[0]), "{name}");
        if name == "vector" || name.starts_with("turned") {
            sums.extend(found);
        }
    }
    // The same sums in three forms, so that one engine alone is checked, too.
    assert!(sums.len() >= 3 && sums.iter().all(|ids| *ids == sums[0]));
}

#[test]
fn products_of_quantised_graphs_need_onnx_runtime() {
    let images = Model::new(FLOAT, &[-1, 3, 16, 16]);
    let quantised = images.node("DynamicQuantizeLinear", &["images"], &["q", "s", "z"], &[]);
    // One code of 3 x 4 x 4 weights of 8 bits after another.
    let raw: Vec<u8> = (0..CODES * 48)
        .map(|at| (at * at * 31 % 97) as u8)
        .collect();
    let model = quantised.tensor("w", 2, &[CODES, 3, 4, 4], &raw);
    let attributes = [ints("kernel_shape", &[4, 4]), ints("strides", &[4, 4])];
    let model = model.node("ConvInteger", &["q", "w", "z"], &["i"], &attributes);
    let model = model.node("Cast", &["i"], &["f"], &[int("to", FLOAT)]);
    let file = argmax(model).output("ids", INT64, &[-1, 4, 4]).file();
    let bench = suite("onnx-ids", &file, "");
    for engine in engines() {
        let found = targets(&bench, engine);
        match engine {
            "rten" => {
                let said = found.unwrap_err();
                for part in ["ConvInteger", "ONNX Runtime", "the float graph"] {
                    assert!(said.contains(part), "{said}");
                }
            }
            _ => drop(found.unwrap()),
        }
    }
}
