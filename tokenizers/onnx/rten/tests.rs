//! Tests of rten with the embedded models and with graphs of a few operators.

mod mended;
mod refused;

use super::*;

use crate::onnx::embedded;
use crate::onnx::model::{Calls, Files, Model as Opening};

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

#[test]
fn the_name_has_the_version_of_the_lock_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
    let lock = std::fs::read_to_string(path).unwrap();
    let version = NAME.strip_prefix("rten ").unwrap();
    assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{version}\"")));
    for gone in ["ort-tract", "tract-core"] {
        assert!(!lock.contains(&format!("name = \"{gone}\"")), "{gone}");
    }
}

#[test]
fn a_panic_comes_back_as_an_error() {
    Rten::start();
    let error = apart(|| -> Result<(), String> { panic!("index 3 out of bounds") });
    let error = error.unwrap_err();
    assert!(
        error.contains("index 3 out of bounds") && error.contains("damaged"),
        "{error}"
    );
    assert_eq!(apart(|| Ok(5)), Ok(5));
}

/// Opens and runs the graph in `file`.
fn through(file: &[u8]) -> Result<(), String> {
    let side = Checked::of(file, None)?.side.unwrap_or(32).min(64);
    let pixels = vec![0.5; 3 * side * side];
    output(file, [1, 3, side, side], &pixels).map(drop)
}

/// Opens the graph in `file` and returns its output for `pixels`.
fn output(file: &[u8], shape: [usize; 4], pixels: &[f32]) -> Result<Output, String> {
    opened(file)?.run(shape, pixels).map(|(_, output)| output)
}

fn opened(file: &[u8]) -> Result<Box<dyn Session>, String> {
    let checked = Checked::of(file, None)?;
    let source = Source {
        bytes: file.to_vec(),
        external: Vec::new(),
        input: checked.input,
        output: checked.output,
        element: checked.element,
    };
    Rten::start().open(source, 1)
}

#[test]
fn a_damaged_graph_is_an_error_at_most() {
    let (mut tried, mut refused) = (0, 0);
    for name in ["mosaic_vq", "mosaic_ssl"] {
        let whole = embedded::model(name).unwrap().bytes;
        through(whole).unwrap();
        // Names, operators and shapes are at the two ends of the file, weights in between.
        let ends = (0..1500).chain(whole.len() - 500..whole.len());
        for (at, bit) in ends.step_by(7).zip((0..8).cycle()) {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1 << bit;
            tried += 1;
            refused += usize::from(through(&damaged).is_err());
            refused += usize::from(through(&whole[..at]).is_err());
        }
    }
    assert!(refused > tried, "{refused} of {tried}");
}

#[test]
fn ids_are_narrowed_to_the_graphs_type() {
    for (id, kind, expected) in [
        (70_000, 4, 4464),
        (-1, 4, 65_535),
        (70_000, 5, 4464),
        (40_000, 5, -25_536),
        (-1, 12, 4_294_967_295),
        (-1, 13, i64::MAX),
        (7, 13, 7),
        (-1, 7, -1),
    ] {
        assert_eq!(narrowed(id, Element::Ids(kind)), expected, "{id} {kind}");
    }
}

fn named(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind),
        ..AttributeProto::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..named(name, AttributeType::INT)
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..named(name, AttributeType::INTS)
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        s: Some(value.into()),
        ..named(name, AttributeType::STRING)
    }
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute: attributes.to_vec(),
        ..NodeProto::default()
    }
}

fn weights(name: &str, dims: &[i64], values: Vec<f32>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        float_data: values,
        ..TensorProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::INT64),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// Returns a graph of `images` `[batch, 3, 4, 4]` and `out` of the type `element`.
fn graph(nodes: Vec<NodeProto>, weights: Vec<TensorProto>, element: DataType) -> Vec<u8> {
    let port = |name: &str, element, dims: &[i64]| {
        let dim = |size: &i64| Dimension {
            dim_value: Some(*size),
            ..Dimension::default()
        };
        let tensor_type = Some(TypeProtoTensor {
            elem_type: Some(element),
            shape: (!dims.is_empty()).then(|| TensorShapeProto {
                dim: dims.iter().map(dim).collect(),
            }),
        });
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                tensor_type,
                sequence: None,
            }),
        }
    };
    let graph = GraphProto {
        node: nodes,
        initializer: weights,
        input: vec![port("images", DataType::FLOAT, &[-1, 3, 4, 4])],
        output: vec![port("out", element, &[])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto {
        domain: None,
        version: Some(17),
    };
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelProto::default()
    };
    model.write_buf().unwrap()
}

/// Returns the output for one image with the values `0, 1, .. 47` modulo 5.
fn small(file: &[u8]) -> Result<Output, String> {
    let pixels: Vec<f32> = (0..48).map(|at| (at % 5) as f32).collect();
    output(file, [1, 3, 4, 4], &pixels)
}

fn ids(file: &[u8]) -> Vec<i64> {
    match small(file).unwrap() {
        Output::Ids(ids) => ids,
        Output::Values(_) => panic!("values"),
    }
}

/// Returns `operator` over the 12 values of a row of all channels, as a graph; `before` computes `f` from `images`.
fn best(operator: &str, before: NodeProto, weights: Vec<TensorProto>, more: &[i64]) -> Vec<u8> {
    let names = ["axis", "keepdims", "select_last_index"];
    let attributes: Vec<AttributeProto> = names
        .iter()
        .zip(more)
        .map(|(name, value)| int(name, *value))
        .collect();
    let nodes = vec![before, node(operator, &["f"], "out", &attributes)];
    graph(nodes, weights, DataType::INT64)
}

#[test]
fn the_first_of_equal_numbers_wins() {
    let same = || node("Identity", &["images"], "f", &[]);
    let nothing = || node("Mul", &["images", "zero"], "f", &[]);
    let zero = || vec![weights("zero", &[1], vec![0.0])];
    for operator in ["ArgMax", "ArgMin"] {
        // All numbers are equal.
        for axis in [1, 2, 3, -1] {
            let found = ids(&best(operator, nothing(), zero(), &[axis, 0]));
            assert!(
                found.iter().all(|id| *id == 0),
                "{operator}, {axis}: {found:?}"
            );
        }
        assert_eq!(ids(&best(operator, nothing(), zero(), &[1])).len(), 16);
    }
    // The last index, as the node asks.
    let last = ids(&best("ArgMax", nothing(), zero(), &[1, 0, 1]));
    assert!(last.iter().all(|id| *id == 2), "{last:?}");
    // Rounded scores have ties, as those of graphs with 8 bits.
    let half = vec![weights("half", &[1], vec![0.5])];
    let nodes = vec![
        node("Mul", &["images", "half"], "h", &[]),
        node("Floor", &["h"], "f", &[]),
        node(
            "ArgMax",
            &["f"],
            "out",
            &[int("axis", 1), int("keepdims", 0)],
        ),
    ];
    let found = ids(&graph(nodes, half, DataType::INT64));
    let score = |channel: usize, at: usize| (channel * 16 + at) % 5 / 2;
    let expected = (0..16).map(|at| {
        let best = (0..3).map(|channel| score(channel, at)).max();
        (0..3)
            .position(|channel| Some(score(channel, at)) == best)
            .unwrap() as i64
    });
    assert_eq!(found, expected.collect::<Vec<_>>());
    // Without ties nothing changes.
    let found = ids(&best("ArgMin", same(), Vec::new(), &[1, 0]));
    let value = |channel: usize, at: usize| (channel * 16 + at) % 5;
    let expected = (0..16).map(|at| (0..3).min_by_key(|c| value(*c, at)).unwrap() as i64);
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn a_codebook_with_every_code_twice_uses_the_first_of_each() {
    let code = |at: usize| ((at % 4 * 31 + at % 4 * at % 4 * 17) % 13) as f32 - 6.0;
    let codes: Vec<f32> = (0..24).map(|at| code(at / 3 + at % 3)).collect();
    let twice = vec![weights(
        "w",
        &[16, 3, 1, 1],
        [codes.clone(), codes].concat(),
    )];
    let conv = node(
        "Conv",
        &["images", "w"],
        "f",
        &[ints("kernel_shape", &[1, 1])],
    );
    let found = ids(&best("ArgMax", conv, twice, &[1, 0]));
    assert!(found.iter().all(|id| *id < 8), "{found:?}");
}

/// Probes a graph with calls of `batch` images.
fn probed(file: &[u8], batch: usize) -> Result<(), String> {
    let files = Files {
        graph: file.to_vec(),
        external: Vec::new(),
    };
    let checked = Checked::of(file, None).unwrap();
    let calls = Calls { batch, threads: 1 };
    let opened = Opening::open("m.onnx".as_ref(), files, &checked, &Rten::start(), calls);
    let found = opened.unwrap().probe(4);
    found.map(drop).map_err(|error| error.to_string())
}

#[test]
fn outputs_that_depend_on_the_place_in_the_batch_are_refused() {
    let values: Vec<f32> = (0..192).map(|at| (at * 7 % 31) as f32).collect();
    let place = vec![weights("place", &[4, 3, 4, 4], values)];
    let place = graph(
        vec![node("Add", &["images", "place"], "out", &[])],
        place,
        DataType::FLOAT,
    );
    let said = probed(&place, 4).unwrap_err();
    assert!(said.contains("its place in the batch"), "{said}");
    // An image mixed with the one after the next.
    let nodes = vec![
        node("Slice", &["images", "two", "end", "zero"], "a", &[]),
        node("Slice", &["images", "zero", "two", "zero"], "b", &[]),
        node("Concat", &["a", "b"], "c", &[int("axis", 0)]),
        node("Add", &["images", "c"], "out", &[]),
    ];
    let bounds = vec![
        integers("zero", &[0]),
        integers("two", &[2]),
        integers("end", &[i64::MAX]),
    ];
    let mixed = graph(nodes, bounds, DataType::FLOAT);
    for batch in [3, 4, 16] {
        let said = probed(&mixed, batch).unwrap_err();
        assert!(said.contains("beside it"), "{batch}: {said}");
    }
    let alone = graph(
        vec![node("Neg", &["images"], "out", &[])],
        Vec::new(),
        DataType::FLOAT,
    );
    for batch in [1, 2, 3, 16] {
        probed(&alone, batch).unwrap();
    }
}
