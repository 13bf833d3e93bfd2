//! Tests of graphs that rten refuses.

use super::*;
use crate::onnx::onnxruntime::has_integer_products;

/// Returns the images as integers, multiplied by `factor` modulo 1024.
fn hashed(factor: TensorProto) -> Vec<u8> {
    let nodes = vec![
        node("Cast", &["images"], "i", &[int("to", 7)]),
        node("Mul", &["i", "factor"], "j", &[]),
        node("Mod", &["j", "size"], "k", &[]),
        node("Cast", &["k"], "out", &[int("to", 1)]),
    ];
    let weights = vec![factor, integers("size", &[1024])];
    graph(nodes, weights, DataType::FLOAT)
}

fn refused(file: &[u8], parts: &[&str]) {
    let said = small(file).unwrap_err();
    for part in parts {
        assert!(said.contains(part), "expected {part:?} in: {said}");
    }
}

#[test]
fn a_cubic_resize_and_pads_beside_valid_are_refused() {
    let resize = |mode: &str| {
        let nodes = vec![
            node(
                "Resize",
                &["table", "", "", "sizes"],
                "t",
                &[text("mode", mode)],
            ),
            node("Add", &["images", "t"], "out", &[]),
        ];
        let table = weights("table", &[1, 3, 7, 7], vec![0.5; 147]);
        let sizes = integers("sizes", &[1, 3, 4, 4]);
        graph(nodes, vec![table, sizes], DataType::FLOAT)
    };
    small(&resize("linear")).unwrap();
    refused(&resize("cubic"), &["Resize", "ONNX Runtime", "mode linear"]);
    let pool = |pads: &[i64]| {
        let attributes = [
            text("auto_pad", "VALID"),
            ints("kernel_shape", &[2, 2]),
            ints("strides", &[1, 1]),
            ints("pads", pads),
        ];
        let nodes = vec![node("MaxPool", &["images"], "out", &attributes)];
        graph(nodes, Vec::new(), DataType::FLOAT)
    };
    small(&pool(&[0; 4])).unwrap();
    refused(
        &pool(&[1; 4]),
        &["MaxPool", "ONNX Runtime", "remove its `pads`"],
    );
}

#[test]
fn constants_beyond_32_bits_are_refused_except_bounds_of_slices() {
    let raw = |value: i64| TensorProto {
        int64_data: Vec::new(),
        raw_data: Some(std::cell::RefCell::new(value.to_le_bytes().to_vec())),
        ..integers("factor", &[value])
    };
    small(&hashed(integers("factor", &[31]))).unwrap();
    for value in [2_654_435_761, -(1 << 40), 1 << 31] {
        let said = value.to_string();
        let parts = ["`factor`", &said, "ONNX Runtime", "32 bits"];
        refused(&hashed(integers("factor", &[value])), &parts);
        refused(&hashed(raw(value)), &parts);
    }
    let slice = |end: i64| {
        let nodes = vec![
            node("Constant", &[], "end", &[ints("value_ints", &[end])]),
            node("Slice", &["images", "start", "end", "axis"], "out", &[]),
        ];
        let weights = vec![integers("start", &[1]), integers("axis", &[1])];
        graph(nodes, weights, DataType::FLOAT)
    };
    for end in [3, i64::from(i32::MAX), 1 << 40, i64::MAX] {
        let Ok(Output::Values(found)) = small(&slice(end)) else {
            panic!("{end}");
        };
        assert_eq!(found.len(), 32, "{end}");
    }
}

#[test]
fn every_refusal_names_onnx_runtime() {
    let of = |operator: &str, attributes: &[AttributeProto]| {
        let nodes = vec![node(operator, &["images"], "out", attributes)];
        graph(nodes, Vec::new(), DataType::FLOAT)
    };
    for (operator, attributes) in [
        ("SpaceToDepth", vec![int("blocksize", 2)]),
        ("NoSuchOperator", Vec::new()),
        // Fails when it runs: there are no strides.
        (
            "MaxPool",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[1])],
        ),
    ] {
        refused(&of(operator, &attributes), &["ONNX Runtime", "pip install"]);
    }
}

/// Returns the output of a node over the images, as a graph.
fn alone(
    operator: &str,
    inputs: &[&str],
    attributes: &[AttributeProto],
    constants: Vec<TensorProto>,
) -> Vec<u8> {
    let nodes = vec![node(operator, inputs, "out", attributes)];
    graph(nodes, constants, DataType::FLOAT)
}

#[test]
fn operators_whose_results_depend_on_the_machine_are_refused() {
    for operator in ["ConvInteger", "MatMulInteger"] {
        let quantised = node("DynamicQuantizeLinear", &["images"], "q", &[]);
        let quantised = NodeProto {
            output: ["q", "s", "z"].map(Into::into).into(),
            ..quantised
        };
        let nodes = vec![
            quantised,
            node(operator, &["q", "q", "z", "z"], "i", &[]),
            node("Cast", &["i"], "out", &[int("to", 1)]),
        ];
        let file = graph(nodes, Vec::new(), DataType::FLOAT);
        refused(&file, &[operator, "ONNX Runtime", "the float graph"]);
        assert!(has_integer_products(&file, "out"));
    }
    // ONNX Runtime fuses the products between these.
    let file = alone("QuantizeLinear", &["images"], &[], Vec::new());
    assert!(has_integer_products(&file, "out"));
    for float in ["Relu", "QuickGelu"] {
        let file = alone(float, &["images"], &[], Vec::new());
        assert!(!has_integer_products(&file, "out"));
    }
}

#[test]
fn operators_without_a_right_form_are_refused() {
    let parts = |operator: &'static str| [operator, "ONNX Runtime", "install it, or export"];
    let cast = alone("BitCast", &["images"], &[int("to", 6)], Vec::new());
    refused(&cast, &parts("BitCast"));
    let boxes = alone("NonMaxSuppression", &["images", "images"], &[], Vec::new());
    refused(&boxes, &parts("NonMaxSuppression"));
    // The type of a branch's output is not known.
    let inner = GraphProto {
        node: vec![node("Identity", &["images"], "inner", &[])],
        output: vec![ValueInfoProto {
            name: Some("inner".into()),
            ..ValueInfoProto::default()
        }],
        ..GraphProto::default()
    };
    let branch = |name: &str| AttributeProto {
        g: Some(inner.clone()),
        ..named(name, AttributeType::GRAPH)
    };
    let branches = [branch("then_branch"), branch("else_branch")];
    let nodes = vec![
        node("Less", &["one", "two"], "less", &[]),
        node("If", &["less"], "like", &branches),
        node("CastLike", &["images", "like"], "out", &[]),
    ];
    let bounds = vec![
        weights("one", &[], vec![1.0]),
        weights("two", &[], vec![2.0]),
    ];
    refused(&graph(nodes, bounds, DataType::FLOAT), &parts("CastLike"));
}

/// A product with computed weights and a bias that is not as long as its row: rten panics, and the error says how to go on.
#[test]
fn a_panic_names_onnx_runtime() {
    let nodes = vec![
        node("Slice", &["images", "zero", "end", "last"], "w", &[]),
        node("MatMul", &["images", "w"], "m", &[]),
        node("Add", &["m", "bias"], "out", &[]),
    ];
    let constants = vec![
        integers("zero", &[0]),
        integers("end", &[1]),
        integers("last", &[3]),
        weights("bias", &[3], vec![1.0, 2.0, 3.0]),
    ];
    let file = graph(nodes, constants, DataType::FLOAT);
    refused(&file, &["rten panicked", "ONNX Runtime", "pip install"]);
}

#[test]
fn reductions_of_no_axes_are_refused() {
    for operator in ["ReduceMean", "ReduceL2"] {
        let of = |attributes: &[AttributeProto], axes: Option<&[i64]>| {
            let inputs: &[&str] = if axes.is_some() {
                &["images", "axes"]
            } else {
                &["images"]
            };
            let axes = axes.map(|axes| integers("axes", axes));
            alone(operator, inputs, attributes, axes.into_iter().collect())
        };
        let keeps = [int("noop_with_empty_axes", 1)];
        small(&of(&[], None)).unwrap();
        small(&of(&keeps, Some(&[1]))).unwrap();
        let parts = [operator, "ONNX Runtime", "noop_with_empty_axes"];
        refused(&of(&keeps, None), &parts);
        refused(&of(&keeps, Some(&[])), &parts);
    }
}

#[test]
fn a_resize_that_picks_other_pixels_is_refused() {
    let resize = |scale: f32, transform: &str, nearest: &str, is_constant: bool| {
        let attributes = [
            text("mode", "nearest"),
            text("coordinate_transformation_mode", transform),
            text("nearest_mode", nearest),
        ];
        let values = weights("scales", &[4], vec![1.0, 1.0, scale, scale]);
        let resize = node("Resize", &["images", "", "scales"], "out", &attributes);
        let value = AttributeProto {
            t: Some(values.clone()),
            ..named("value", AttributeType::TENSOR)
        };
        let (nodes, constants) = match is_constant {
            true => (
                vec![node("Constant", &[], "scales", &[value]), resize],
                Vec::new(),
            ),
            false => (vec![resize], vec![values]),
        };
        graph(nodes, constants, DataType::FLOAT)
    };
    for is_constant in [false, true] {
        for scale in [2.0, 3.0, 4.0, 0.5, 1.5] {
            small(&resize(scale, "asymmetric", "floor", is_constant)).unwrap();
        }
        let parts = ["Resize", "ONNX Runtime", "reciprocal"];
        for scale in [1.7, 2.2, 41.0] {
            refused(&resize(scale, "asymmetric", "floor", is_constant), &parts);
        }
        let other = resize(1.75, "half_pixel", "round_prefer_floor", is_constant);
        refused(&other, &parts);
    }
    // Scales in the form of a list of numbers, whose place in the file is not always one piece.
    let listed = AttributeProto {
        floats: vec![1.0, 1.0, 1.7, 1.7],
        ..named("value_floats", AttributeType::FLOATS)
    };
    let nearest = [text("mode", "nearest"), text("nearest_mode", "floor")];
    let nodes = vec![
        node("Constant", &[], "scales", &[listed]),
        node("Resize", &["images", "", "scales"], "out", &nearest),
    ];
    refused(
        &graph(nodes, Vec::new(), DataType::FLOAT),
        &["Resize", "reciprocal"],
    );
    // The sizes decide, not the scale.
    small(&resize(1.7, "align_corners", "floor", false)).unwrap();
}
