//! The forms in which rten computes nodes as the standard says. Only rten reads them, which takes operators of any opset.

use std::collections::HashMap;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, GraphProto, NodeProto, TensorProto,
};

use crate::onnx::mends::{Key, Mend, WINDOW};

/// Rewrites the nodes of `mends`, also in nested graphs. The outputs keep their names.
pub fn apply(graph: &mut GraphProto, mends: &HashMap<Key<'_>, Mend>) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            apply(inner, mends);
        }
        let output = node.output.first().map_or("", String::as_str);
        let operator = node.op_type.as_deref().unwrap_or_default();
        match mends.get(&(operator, output)).copied() {
            Some(mend) => nodes.extend(rewritten(node, mend)),
            None => nodes.push(node),
        }
    }
    graph.node = nodes;
}

fn rewritten(mut node: NodeProto, mend: Mend) -> Vec<NodeProto> {
    let output = node.output.first().cloned().unwrap_or_default();
    let input = |at: usize| node.input.get(at).cloned().unwrap_or_default();
    let (x, second) = (input(0), input(1));
    match mend {
        // Another branch has a value of the same name.
        Mend::Truth if is_cast_to_other(&node) => vec![node],
        Mend::Pick => pick(node, output),
        Mend::Truth => truth(&x, &output),
        Mend::Sign => sign(node, &x, &output),
        Mend::Softplus => softplus(node, &x, &output),
        Mend::Apart => apart(node, &output),
        Mend::Column => column(node, second, output),
        Mend::Quotient(rank) => quotient(node, &x, &second, &output, rank),
        Mend::Axis => {
            node.attribute.push(integer("axis", 1));
            vec![node]
        }
        Mend::Window(axes) => {
            let has = |a: &AttributeProto, name| a.name.as_deref() == Some(name);
            for (name, default, each) in WINDOW {
                if !node.attribute.iter().any(|a| has(a, name)) {
                    node.attribute
                        .push(integers(name, &vec![default; each * axes]));
                }
            }
            vec![node]
        }
    }
}

/// `TopK` of one element. With `select_last_index` the standard takes the last of equal numbers too, and the operator stays.
fn pick(mut node: NodeProto, output: String) -> Vec<NodeProto> {
    if number(&node, "select_last_index", 0) != 0 {
        // rten refuses the attribute, but does what it asks.
        let name = |a: &AttributeProto| a.name.as_deref() == Some("select_last_index");
        node.attribute.retain(|attribute| !name(attribute));
        return vec![node];
    }
    let largest = i64::from(node.op_type.as_deref() == Some("ArgMax"));
    let (axis, keeps) = (number(&node, "axis", 0), number(&node, "keepdims", 1) != 0);
    let kept = if keeps {
        output.clone()
    } else {
        format!("{output}/kept")
    };
    let attributes = [
        ("k", 1),
        ("axis", axis),
        ("largest", largest),
        ("sorted", 1),
    ];
    let mut nodes = vec![NodeProto {
        op_type: Some("TopK".into()),
        output: vec![format!("{output}/best"), kept.clone()],
        attribute: attributes.map(|(name, value)| integer(name, value)).into(),
        ..node
    }];
    if !keeps {
        nodes.push(with(
            new("Squeeze", &[&kept], &output),
            integers("axes", &[axis]),
        ));
    }
    nodes
}

fn is_cast_to_other(node: &NodeProto) -> bool {
    let to = number(node, "to", DataType::BOOL.0.into());
    node.op_type.as_deref() == Some("Cast") && to != i64::from(DataType::BOOL.0)
}

/// Not (x = 0). No integer but 0 becomes 0 as an f32.
fn truth(x: &str, output: &str) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let mut nodes = is_zero(x, output);
    nodes.push(new("Not", &[&name("is_zero")], output));
    nodes
}

/// |x| where x is 0, which gives 0 for both zeros, else the sign.
fn sign(node: NodeProto, x: &str, output: &str) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let mut nodes = is_zero(x, output);
    nodes.push(new("Abs", &[x], &name("zero_of_type")));
    nodes.push(NodeProto {
        output: vec![name("sign")],
        ..node
    });
    let (chosen, zero, sign) = (name("is_zero"), name("zero_of_type"), name("sign"));
    nodes.push(new("Where", &[&chosen, &zero, &sign], output));
    nodes
}

fn is_zero(x: &str, output: &str) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let (number, zero) = (name("number"), name("zero"));
    let to = integer("to", DataType::FLOAT.0.into());
    let value = TensorProto {
        data_type: Some(DataType::FLOAT),
        float_data: vec![0.0],
        ..TensorProto::default()
    };
    vec![
        with(new("Cast", &[x], &number), to),
        with(new("Constant", &[], &zero), tensor(value)),
        new("Equal", &[&number, &zero], &name("is_zero")),
    ]
}

/// max(x, 0) + softplus(-|x|), which is as exact near 0 and does not overflow.
fn softplus(node: NodeProto, x: &str, output: &str) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let (size, below) = (name("size"), name("below"));
    let (above, rest) = (name("above"), name("rest"));
    vec![
        new("Relu", &[x], &above),
        new("Abs", &[x], &size),
        new("Neg", &[&size], &below),
        NodeProto {
            input: vec![below],
            output: vec![rest.clone()],
            ..node
        },
        new("Add", &[&above, &rest], output),
    ]
}

/// The node and a `Concat` of its output alone, which no fusion passes.
fn apart(mut node: NodeProto, output: &str) -> Vec<NodeProto> {
    let alone = format!("{output}/alone");
    node.output = vec![alone.clone()];
    let concat = with(new("Concat", &[&alone], output), integer("axis", 0));
    vec![node, concat]
}

/// The product with a matrix of one column, without its last axis.
fn column(mut node: NodeProto, vector: String, output: String) -> Vec<NodeProto> {
    let (matrix, kept) = (format!("{output}/matrix"), format!("{output}/kept"));
    let first = with(
        new("Unsqueeze", &[&vector], &matrix),
        integers("axes", &[1]),
    );
    node.input.truncate(1);
    node.input.push(matrix);
    node.output = vec![kept.clone()];
    let last = new("Squeeze", &[&kept], &output);
    vec![first, node, with(last, integers("axes", &[-1]))]
}

/// The quotient by two copies of the number, of which the first is taken: rten divides by a tensor of two numbers.
fn quotient(
    mut node: NodeProto,
    x: &str,
    divisor: &str,
    output: &str,
    rank: usize,
) -> Vec<NodeProto> {
    let name = |part: &str| format!("{output}/{part}");
    let one = [("one", vec![1]), ("two", [vec![1; rank], vec![2]].concat())];
    let shape = |(part, sizes): (&str, Vec<i64>)| {
        let value = TensorProto {
            dims: vec![sizes.len() as i64],
            ..long(sizes)
        };
        with(new("Constant", &[], &name(part)), tensor(value))
    };
    let mut nodes: Vec<NodeProto> = one.map(shape).into();
    let zero = with(new("Constant", &[], &name("first")), tensor(long(vec![0])));
    node.input = vec![name("images"), name("divisors")];
    node.output = vec![name("quotients")];
    let gather = new("Gather", &[&name("quotients"), &name("first")], output);
    nodes.extend([
        zero,
        new("Reshape", &[divisor, &name("one")], &name("divisor")),
        new(
            "Expand",
            &[&name("divisor"), &name("two")],
            &name("divisors"),
        ),
        with(
            new("Unsqueeze", &[x], &name("images")),
            integers("axes", &[-1]),
        ),
        node,
        with(gather, integer("axis", -1)),
    ]);
    nodes
}

fn new(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

/// A 64-bit number without dimensions.
fn long(values: Vec<i64>) -> TensorProto {
    TensorProto {
        data_type: Some(DataType::INT64),
        int64_data: values,
        ..TensorProto::default()
    }
}

fn number(node: &NodeProto, name: &str, default: i64) -> i64 {
    let mut attributes = node.attribute.iter();
    let found = attributes.find(|a| a.name.as_deref() == Some(name));
    found.and_then(|a| a.i).unwrap_or(default)
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind),
        ..AttributeProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, AttributeType::INT)
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, AttributeType::INTS)
    }
}

fn tensor(value: TensorProto) -> AttributeProto {
    AttributeProto {
        t: Some(value),
        ..attribute("value", AttributeType::TENSOR)
    }
}
