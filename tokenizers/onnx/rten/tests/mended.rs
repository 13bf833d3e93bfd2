//! Tests of nodes that are rewritten. The expected values are those of the standard; `tests/graphs/rewrites.rs` compares with
//! ONNX Runtime.

use super::*;

/// Returns shape and output for one image with these pixels.
fn shaped(file: &[u8], pixels: &[f32]) -> (Vec<usize>, Output) {
    opened(file).unwrap().run([1, 3, 4, 4], pixels).unwrap()
}

/// Returns the numbers of a graph for the pixels `values`, repeated.
fn numbers(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, values: &[f32]) -> Vec<f32> {
    let pixels: Vec<f32> = values.iter().copied().cycle().take(48).collect();
    match shaped(&graph(nodes, constants, DataType::FLOAT), &pixels).1 {
        Output::Values(numbers) => numbers,
        Output::Ids(_) => panic!("ids"),
    }
}

/// Returns what the first pixels become.
fn first<const N: usize>(
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    values: [f32; N],
) -> [f32; N] {
    let numbers = numbers(nodes, constants, &values);
    std::array::from_fn(|at| numbers[at])
}

fn to(input: &str, output: &str, element: DataType) -> NodeProto {
    node("Cast", &[input], output, &[int("to", element.0.into())])
}

fn constant(name: &str, attribute: AttributeProto) -> NodeProto {
    node("Constant", &[], name, &[attribute])
}

fn tensor(value: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(value),
        ..named("value", AttributeType::TENSOR)
    }
}

fn one(value: f32) -> TensorProto {
    weights("one", &[], vec![value])
}

fn truths(names: &[&str]) -> Vec<TensorProto> {
    let truth = |name: &&str| TensorProto {
        name: Some(name.to_string()),
        data_type: Some(DataType::BOOL),
        int32_data: vec![1],
        ..TensorProto::default()
    };
    names.iter().map(truth).collect()
}

fn version(file: &[u8]) -> String {
    Rten::start().version(file, &Checked::of(file, None).unwrap())
}

const TRUE: [f32; 6] = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
const FLOATS: [f32; 6] = [0.5, 0.0, -0.0, -0.001, 7.0, 256.0];

#[test]
fn every_number_but_zero_is_true() {
    let back = || to("b", "out", DataType::FLOAT);
    let cast = vec![to("images", "b", DataType::BOOL), back()];
    assert_eq!(first(cast.clone(), Vec::new(), FLOATS), TRUE);
    // Of integers, also of those that 8 bits and the digits of f32 do not hold.
    for kind in [DataType::INT64, DataType::INT32, DataType::DOUBLE] {
        let nodes = vec![
            to("images", "i", kind),
            to("i", "b", DataType::BOOL),
            back(),
        ];
        let integers = [1.0, 0.0, -0.0, -3.0, 256.0, 16_777_218.0];
        assert_eq!(first(nodes, Vec::new(), integers), TRUE);
    }
    // Like a constant, and like a comparison that has been moved.
    let like = |more: Vec<NodeProto>| {
        let like = node("CastLike", &["images", "like"], "b", &[]);
        [more, vec![like, back()]].concat()
    };
    assert_eq!(first(like(Vec::new()), truths(&["like"]), FLOATS), TRUE);
    let moved = vec![
        node("Less", &["images", "images"], "less", &[]),
        node("Flatten", &["less"], "like", &[]),
    ];
    assert_eq!(first(like(moved), Vec::new(), FLOATS), TRUE);
    // Other types stay.
    let same = like(vec![to("images", "like", DataType::INT64)]);
    let whole = first(same, Vec::new(), [0.5, 0.0, 7.0]);
    assert_eq!(whole, [0.0, 0.0, 7.0]);
    // The result is a boolean for other operators.
    let not = vec![
        to("images", "b", DataType::BOOL),
        node("Not", &["b"], "n", &[]),
        to("n", "out", DataType::FLOAT),
    ];
    assert_eq!(
        first(not, Vec::new(), FLOATS),
        TRUE.map(|truth| 1.0 - truth)
    );
}

#[test]
fn nodes_of_branches_are_rewritten() {
    let branch = |name: &str, value: NodeProto| {
        let inside = GraphProto {
            node: vec![value, to("b", "inner", DataType::FLOAT)],
            output: vec![ValueInfoProto {
                name: Some("inner".into()),
                ..ValueInfoProto::default()
            }],
            ..GraphProto::default()
        };
        AttributeProto {
            g: Some(inside),
            ..named(name, AttributeType::GRAPH)
        }
    };
    let branches = [
        branch("then_branch", to("images", "b", DataType::BOOL)),
        branch("else_branch", node("Identity", &["images"], "b", &[])),
    ];
    let nodes = vec![node("If", &["always"], "out", &branches)];
    assert_eq!(first(nodes, truths(&["always"]), FLOATS), TRUE);
}

#[test]
fn the_sign_of_zero_is_zero() {
    let sign = vec![node("Sign", &["images"], "out", &[])];
    let found = first(sign, Vec::new(), [-2.5, -0.0, 0.0, 1e-8, f32::INFINITY]);
    assert_eq!(found, [-1.0, 0.0, 0.0, 1.0, 1.0]);
    assert!(found[1].is_sign_positive());
    let integers = vec![
        to("images", "i", DataType::INT64),
        node("Sign", &["i"], "s", &[]),
        to("s", "out", DataType::FLOAT),
    ];
    let found = first(integers, Vec::new(), [-2.0, 0.0, 3.0, 16_777_218.0]);
    assert_eq!(found, [-1.0, 0.0, 1.0, 1.0]);
}

#[test]
fn softplus_does_not_overflow() {
    let softplus = vec![node("Softplus", &["images"], "out", &[])];
    let given = [-1000.0, -30.0, -1.0, 0.0, 1.0, 20.0, 89.0, 1000.0];
    let found = first(softplus, Vec::new(), given);
    for (x, found) in given.into_iter().zip(found) {
        let expected = f64::from(x).max(0.0) + (-f64::from(x).abs()).exp().ln_1p();
        let apart = (f64::from(found) - expected).abs();
        assert!(apart <= 1e-6 * expected, "{x}: {found}, {expected}");
    }
}

/// Returns the graph that repeats the three channels twice along a new axis.
fn repeated(axis: i64, between: &str) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let mut sizes = vec![1, 3, 4, 4];
    sizes.insert(axis as usize, 2);
    let nodes = vec![
        node("Unsqueeze", &["images", "axis"], "u", &[]),
        node(between, &["u"], "v", &[]),
        node("Expand", &["v", "sizes"], "e", &[]),
        node(between, &["e"], "f", &[]),
        node("Reshape", &["f", "shape"], "out", &[]),
    ];
    let constants = vec![
        integers("axis", &[axis]),
        integers("sizes", &sizes),
        integers("shape", &[-1, 6, 4, 4]),
    ];
    (nodes, constants)
}

#[test]
fn a_tile_is_not_a_repeat() {
    let pixels: Vec<f32> = (0..48_u8).map(f32::from).collect();
    for between in ["Identity", "Relu"] {
        for axis in [1, 2] {
            let (nodes, constants) = repeated(axis, between);
            let found = numbers(nodes, constants, &pixels);
            let channel = |at: usize| if axis == 1 { at % 3 } else { at / 2 };
            let expected = (0..96).map(|at| pixels[channel(at / 16) * 16 + at % 16]);
            assert_eq!(found, expected.collect::<Vec<_>>(), "{between}, {axis}");
        }
    }
}

#[test]
fn a_product_with_a_vector_has_no_last_axis() {
    let values = vec![1.0, 10.0, 100.0, 1000.0];
    let product = node("MatMul", &["images", "w"], "out", &[]);
    let floats = AttributeProto {
        floats: values.clone(),
        ..named("value_floats", AttributeType::FLOATS)
    };
    let vector = || weights("w", &[4], values.clone());
    let pixels: Vec<f32> = (0..48).map(|at| (at % 5) as f32).collect();
    for (nodes, constants) in [
        (vec![product.clone()], vec![vector()]),
        (
            vec![constant("w", tensor(vector())), product.clone()],
            Vec::new(),
        ),
        (vec![constant("w", floats), product], Vec::new()),
    ] {
        let (shape, found) = shaped(&graph(nodes, constants, DataType::FLOAT), &pixels);
        assert_eq!(shape, [1, 3, 4]);
        let rows = pixels.chunks(4);
        let dot = |row: &[f32]| row.iter().zip(&values).map(|(a, b)| a * b).sum::<f32>();
        let Output::Values(found) = found else {
            panic!("ids")
        };
        assert_eq!(found, rows.map(dot).collect::<Vec<_>>());
    }
}

#[test]
fn a_bias_need_not_be_as_long_as_a_row() {
    for (columns, bias) in [
        (1, vec![1.0, 2.0, 3.0]),
        (2, vec![5.0]),
        (2, vec![1.0, 2.0]),
    ] {
        let nodes = vec![
            node("MatMul", &["images", "w"], "m", &[]),
            node("Add", &["bias", "m"], "out", &[]),
        ];
        let constants = vec![
            weights("w", &[4, columns], vec![1.0; 4 * columns as usize]),
            weights("bias", &[bias.len() as i64], bias.clone()),
        ];
        let file = graph(nodes, constants, DataType::FLOAT);
        let (shape, found) = shaped(&file, &[1.0; 48]);
        let row = bias.len().max(columns as usize);
        assert_eq!(shape, [1, 3, 4, row]);
        let expected = (0..12 * row).map(|at| 4.0 + bias[at % row % bias.len()]);
        let Output::Values(found) = found else {
            panic!("ids")
        };
        assert_eq!(found, expected.collect::<Vec<_>>());
        // Only a bias that does not fit is kept apart.
        let is_kept = version(&file).contains("MatMul");
        assert_eq!(is_kept, bias.len() != columns as usize);
    }
}

#[test]
fn a_quotient_is_exact_where_it_is_cut_off() {
    let values = [41.0, 82.0, 40.0, -41.0, 3.0 * 41.0];
    let floor = |between: &[&str]| {
        let mut nodes = vec![node("Div", &["images", "one"], "q", &[])];
        let mut last = "q";
        for operator in between {
            nodes.push(node(operator, &[last], operator, &[]));
            last = operator;
        }
        [nodes, vec![node("Floor", &[last], "out", &[])]].concat()
    };
    for between in [&[][..], &["Identity"], &["Neg", "Abs"]] {
        for dims in [&[][..], &[1], &[1, 1, 1]] {
            let divisor = weights("one", dims, vec![41.0]);
            let found = first(floor(between), vec![divisor], values);
            let sign = if between.contains(&"Abs") { 1.0 } else { -1.0 };
            assert_eq!(found, [1.0, 2.0, 0.0, sign, 3.0]);
        }
    }
    let double = TensorProto {
        data_type: Some(DataType::DOUBLE),
        double_data: vec![41.0],
        float_data: Vec::new(),
        ..one(0.0)
    };
    assert_eq!(first(floor(&[]), vec![double], values)[0], 1.0);
    let float = AttributeProto {
        f: Some(41.0),
        ..named("value_float", AttributeType::FLOAT)
    };
    let nodes = [vec![constant("one", float)], floor(&[])].concat();
    assert_eq!(first(nodes, Vec::new(), values)[0], 1.0);
    // A quotient of a single number, and of a number without axes.
    for keeps in [0, 1] {
        let mut nodes = floor(&[]);
        nodes[0].input[0] = "most".into();
        let most = node("ReduceMax", &["images"], "most", &[int("keepdims", keeps)]);
        nodes.insert(0, most);
        assert_eq!(numbers(nodes, vec![one(41.0)], &[40.0, 41.0]), [1.0]);
    }
}

#[test]
fn quantisation_has_the_second_axis_by_default() {
    // Both the second and the last axis have four elements.
    let nodes = |more: &[AttributeProto]| {
        let shape = node("Reshape", &["images", "shape"], "x", &[]);
        let quantise = node("QuantizeLinear", &["x", "scale", "point"], "q", more);
        let restore = node("DequantizeLinear", &["q", "scale", "point"], "out", more);
        vec![shape, quantise, restore]
    };
    let point = TensorProto {
        name: Some("point".into()),
        dims: vec![4],
        data_type: Some(DataType::UINT8),
        int32_data: vec![0; 4],
        ..TensorProto::default()
    };
    let constants = vec![
        integers("shape", &[-1, 4, 3, 4]),
        weights("scale", &[4], vec![1.0, 2.0, 4.0, 8.0]),
        point,
    ];
    let pixels: Vec<f32> = (0..48_u8).map(f32::from).collect();
    let expected = |axis: usize| {
        let stride = if axis == 1 { 12 } else { 1 };
        let scale = |at: usize| [1.0, 2.0, 4.0, 8.0][at / stride % 4];
        let rounded = (0..48).map(|at| (pixels[at] / scale(at)).round_ties_even() * scale(at));
        rounded.collect::<Vec<f32>>()
    };
    for (more, axis) in [
        (vec![], 1),
        (vec![int("axis", 1)], 1),
        (vec![int("axis", -1)], 3),
    ] {
        let found = numbers(nodes(&more), constants.clone(), &pixels);
        assert_eq!(found, expected(axis), "{more:?}");
    }
}

#[test]
fn the_key_changes_only_for_graphs_that_are_rewritten() {
    for name in ["vq", "vqgan", "perceptual", "ssl", "deit"] {
        let file = embedded::model(&format!("mosaic_{name}")).unwrap().bytes;
        let picks = !["ssl", "deit"].contains(&name);
        let expected = if picks {
            ", first of equal numbers"
        } else {
            ""
        };
        assert_eq!(version(file), expected, "{name}");
    }
    let of = |nodes, constants| version(&graph(nodes, constants, DataType::FLOAT));
    let divided = |divisor: f32, then: &str| {
        let nodes = vec![
            node("Div", &["images", "one"], "q", &[]),
            node(then, &["q"], "out", &[]),
        ];
        of(nodes, vec![one(divisor)])
    };
    assert_eq!(divided(41.0, "Floor"), ", rewritten Div");
    // The reciprocal of 8 is exact, and no step follows.
    assert_eq!(divided(8.0, "Floor"), "");
    assert_eq!(divided(41.0, "Softmax"), "");
    let several = vec![
        node("Sign", &["images"], "s", &[]),
        to("s", "b", DataType::BOOL),
        to("b", "f", DataType::FLOAT),
        node("ArgMax", &["f"], "a", &[]),
        to("a", "out", DataType::FLOAT),
    ];
    let expected = ", first of equal numbers, rewritten Cast Sign";
    assert_eq!(of(several, Vec::new()), expected);
    // A comparison is a boolean already, and nodes that do not affect the output do not count.
    let plain = vec![
        node("Less", &["images", "images"], "l", &[]),
        to("l", "b", DataType::BOOL),
        to("b", "out", DataType::FLOAT),
        node("Sign", &["images"], "unused", &[]),
    ];
    assert_eq!(of(plain, Vec::new()), "");
}

/// `kernel_shape` may be left out, and so may the other attributes: rten refused such a graph.
#[test]
fn a_convolution_has_the_defaults_of_the_standard() {
    let pixels: Vec<f32> = (0..48_u8).map(f32::from).collect();
    // One output is the first channel, the other twice the second one, a row and a column further.
    let mut kernel = vec![0.0; 24];
    (kernel[0], kernel[12 + 4 + 3]) = (1.0, 2.0);
    let convolution = |attributes: &[AttributeProto]| {
        let nodes = vec![node("Conv", &["images", "w"], "out", attributes)];
        let weights = weights("w", &[2, 3, 2, 2], kernel.clone());
        graph(nodes, vec![weights], DataType::FLOAT)
    };
    let of = |stride: usize| -> Vec<f32> {
        let places = (0..3).step_by(stride);
        let places: Vec<usize> = places
            .clone()
            .flat_map(|y| places.clone().map(move |x| 4 * y + x))
            .collect();
        let first = places.iter().map(|at| pixels[*at]);
        let second = places.iter().map(|at| 2.0 * pixels[16 + at + 5]);
        first.chain(second).collect()
    };
    let ints = |name: &str, values: &[i64]| AttributeProto {
        ints: values.to_vec(),
        ..named(name, AttributeType::INTS)
    };
    let (strides, dilations) = (ints("strides", &[2, 2]), ints("dilations", &[1, 1]));
    for (attributes, stride, side) in [
        (vec![], 1, 3),
        (vec![strides.clone()], 2, 2),
        (vec![strides, dilations.clone()], 2, 2),
        (vec![dilations, ints("pads", &[0; 4])], 1, 3),
    ] {
        let file = convolution(&attributes);
        assert!(version(&file).contains("rewritten Conv"));
        let (shape, output) = shaped(&file, &pixels);
        assert_eq!(shape, [1, 2, side, side]);
        let Output::Values(found) = output else {
            panic!("ids")
        };
        assert_eq!(found, of(stride), "{attributes:?}");
    }
    // The steps of pooling are 1.
    let window = [ints("kernel_shape", &[2, 2])];
    for (operator, first) in [("MaxPool", 5.0), ("AveragePool", 2.5)] {
        let nodes = vec![node(operator, &["images"], "out", &window)];
        let (shape, output) = shaped(&graph(nodes, Vec::new(), DataType::FLOAT), &pixels);
        assert_eq!(shape, [1, 3, 3, 3]);
        assert!(matches!(output, Output::Values(found) if found[..2] == [first, first + 1.0]));
    }
    let plain = convolution(&[ints("kernel_shape", &[2, 2])]);
    assert!(!version(&plain).contains("rewritten"));
    let nodes = vec![node("ConvTranspose", &["images", "w"], "out", &[])];
    let kernel = weights("w", &[3, 1, 2, 2], [vec![1.0], vec![0.0; 11]].concat());
    let (shape, _) = shaped(&graph(nodes, vec![kernel], DataType::FLOAT), &pixels);
    assert_eq!(shape, [1, 1, 5, 5]);
}
