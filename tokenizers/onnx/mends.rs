//! Nodes that rten computes differently from the standard, and that it computes correctly in another form.
//!
//! [`mends`] decides, and `prepare` rewrites. The decision needs only the structure of a file, so the version in a key of stored
//! results ([`version`]) changes for the graphs that are rewritten, and for no others.

use std::collections::{BTreeSet, HashMap};

use super::graph::{Node, Onnx, Tensor};
use super::values::Values;

/// Numbers of `TensorProto.DataType`.
const FLOATS: &[i64] = &[1, 10, 11, 16];
const BOOL: i64 = 9;

/// Maximum rank of a constant number; exporters write 0 or 1.
const MOST_AXES: usize = 8;

/// Maximum number of removed nodes between two nodes of a pattern.
const FARTHEST: usize = 64;

/// The form in which rten computes a node correctly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// `ArgMax` and `ArgMin`, of whose equal numbers rten takes the last and the standard the first.
    Pick,
    /// A cast to a boolean: rten keeps an integer as it is and cuts a fraction off, so that 0.5 is false.
    Truth,
    /// The sign of a floating-point zero, which is 1 in rten.
    Sign,
    /// The logarithm of 1 + exp(x), which overflows.
    Softplus,
    /// A node that rten would fuse with its neighbours although the fused operator does something else.
    Apart,
    /// A product with a constant vector on the right. rten keeps the axis of length 1 if the left side has three axes or more.
    Column,
    /// A quotient by a constant number of this rank: rten multiplies by the rounded reciprocal.
    Quotient(usize),
    /// A quantisation without `axis`, which is 1; rten takes the last.
    Axis,
    /// A window over so many axes without attributes for each. rten takes the defaults of a convolution from `kernel_shape`, which may be left out
    /// too, and needs the `strides` of pooling.
    Window(usize),
}

/// A node, by its operator and its first output.
pub type Key<'a> = (&'a str, &'a str);

/// Returns the nodes that compute `output` and that must be rewritten.
pub fn mends<'a>(onnx: &Onnx<'a>, output: &'a str) -> HashMap<Key<'a>, Mend> {
    let nodes = onnx.reached(output);
    let values = Values::of(onnx, &nodes);
    let steps = values.before(is_step, is_smooth);
    let fused = fused(&nodes, &values);
    let standard = nodes.iter().filter(|node| node.domain.is_empty());
    let found = standard.filter_map(|node| {
        let output = *node.outputs.first()?;
        let input = |at: usize| node.inputs.get(at).copied().unwrap_or_default();
        let mend = match node.operator {
            "ArgMax" | "ArgMin" => Some(Mend::Pick),
            "Cast" | "CastLike" => truth(node, &values),
            "Sign" => Some(Mend::Sign),
            "Softplus" => Some(Mend::Softplus),
            "MatMul" if values.constant(input(1)).is_some_and(|w| w.rank == 1) => {
                Some(Mend::Column)
            }
            "Expand" | "MatMul" if fused.contains(output) => Some(Mend::Apart),
            "Div" if steps.contains(output) => values.constant(input(1)).and_then(quotient),
            "QuantizeLinear" | "DequantizeLinear" => axis(node, &values),
            "Conv" | "ConvInteger" | "ConvTranspose" if lacks_defaults(node) => {
                let weights = values.constant(input(1));
                weights
                    .and_then(|w| w.rank.checked_sub(2))
                    .map(Mend::Window)
            }
            "MaxPool" | "AveragePool" if node.attribute("strides").is_none() => {
                let window = node.attribute("kernel_shape");
                window.map(|window| Mend::Window(window.ints.len()))
            }
            _ => None,
        };
        Some(((node.operator, output), mend?))
    });
    found.collect()
}

/// Returns whether `output` may depend on a product of a value whose last two axes have just been exchanged, with a vector. Everything but a
/// constant of more axes counts as a vector.
pub fn has_turned_product<'a>(onnx: &Onnx<'a>, output: &'a str) -> bool {
    let nodes = onnx.reached(output);
    let values = Values::of(onnx, &nodes);
    let is_matrix = |name: &&str| values.constant(name).is_some_and(|w| w.rank > 1);
    nodes.iter().any(|node| {
        node.operator == "MatMul"
            && !node.inputs.get(1).is_some_and(is_matrix)
            && node
                .inputs
                .first()
                .is_some_and(|left| is_turned(left, &values))
    })
}

fn is_turned<'a>(name: &'a str, values: &Values<'a, '_>) -> bool {
    let Some(node) = plain(name, values).filter(|node| node.operator == "Transpose") else {
        return false;
    };
    // Without `perm`, all axes are reversed; there may be two.
    let axes = node
        .attribute("perm")
        .map_or(&[1, 0][..], |perm| &perm.ints);
    let count = axes.len() as i64;
    let turned = (0..count - 2).chain([count - 1, count - 2]);
    count > 1 && axes.iter().copied().eq(turned)
}

/// Returns a text that depends on which operators of a graph are rewritten, empty if none is.
pub fn version<'a>(onnx: &Onnx<'a>, output: &'a str) -> String {
    let found = mends(onnx, output);
    let picks = found.values().any(|mend| *mend == Mend::Pick);
    let others = found.iter().filter(|(_, mend)| **mend != Mend::Pick);
    let others: BTreeSet<&str> = others.map(|((operator, _), _)| *operator).collect();
    let mut text = String::new();
    if picks {
        text.push_str(", first of equal numbers");
    }
    if !others.is_empty() {
        text.push_str(", rewritten");
    }
    for operator in others {
        text.push_str(&format!(" {operator}"));
    }
    text
}

/// The attributes of a window that rten counts, and their defaults for each axis (two paddings per axis).
pub const WINDOW: [(&str, i64, usize); 3] =
    [("strides", 1, 1), ("dilations", 1, 1), ("pads", 0, 2)];

fn lacks_defaults(node: &Node<'_>) -> bool {
    let has = |name: &str| node.attribute(name).is_some();
    !has("kernel_shape") && WINDOW.iter().any(|(name, ..)| !has(name))
}

fn truth<'a>(node: &Node<'a>, values: &Values<'a, '_>) -> Option<Mend> {
    let is_wanted = match node.operator {
        "Cast" => node.number("to") == Some(BOOL),
        _ => values.is_boolean(node.inputs.get(1)?) == Some(true),
    };
    let is_given = values.is_boolean(node.inputs.first()?) == Some(true);
    (is_wanted && !is_given).then_some(Mend::Truth)
}

/// Returns the mend of a division by `divisor`, unless its reciprocal is exact.
fn quotient(divisor: &Tensor<'_>) -> Option<Mend> {
    // Of powers of two: the bits behind sign and exponent are 0.
    let is_exact = |number: f32| number.to_bits() << 9 == 0;
    let exact = divisor
        .floats()
        .is_some_and(|n| n.iter().all(|n| is_exact(*n)));
    let is_number = divisor.count == 1 && divisor.rank <= MOST_AXES;
    let applies = is_number && FLOATS.contains(&divisor.element) && !exact;
    applies.then_some(Mend::Quotient(divisor.rank))
}

fn axis(node: &Node<'_>, values: &Values<'_, '_>) -> Option<Mend> {
    let scale = node.inputs.get(1)?;
    let one = values.constant(scale).is_some_and(|scale| scale.count <= 1);
    let source = values.source(scale);
    let one = one || source.is_some_and(|node| node.operator == "DynamicQuantizeLinear");
    (node.attribute("axis").is_none() && !one).then_some(Mend::Axis)
}

/// Returns whether a tiny change of an input may change the output by a whole step.
fn is_step(node: &Node<'_>) -> bool {
    const STEPS: &[&str] = &[
        "CastLike",
        "Ceil",
        "DynamicQuantizeLinear",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Mod",
        "QuantizeLinear",
        "Round",
        "Sign",
    ];
    let to = node.number("to").unwrap_or_default();
    STEPS.contains(&node.operator) || (node.operator == "Cast" && !FLOATS.contains(&to))
}

/// Returns whether both engines compute the node exactly alike from equal inputs: arithmetic and moves.
fn is_smooth(node: &Node<'_>) -> bool {
    const SMOOTH: &[&str] = &[
        "Abs",
        "Add",
        "Cast",
        "Clip",
        "Concat",
        "DepthToSpace",
        "Div",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Identity",
        "LeakyRelu",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ];
    SMOOTH.contains(&node.operator) && !is_step(node)
}

/// Returns the outputs that rten would fuse wrongly with their neighbours.
///
/// `Unsqueeze`, `Expand` and `Reshape` become a `RepeatInterleave` if one axis grows, although they tile if the new axis precedes
/// that axis. `MatMul` and `Add` of a constant vector become one operator that panics if the vector is not as long as a row of the
/// product.
fn fused<'a>(nodes: &[&Node<'a>], values: &Values<'a, '_>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for node in nodes {
        match node.operator {
            "Reshape" => found.extend(tiled(node, values)),
            "Add" => found.extend(biased(node, values)),
            _ => (),
        }
    }
    found
}

fn tiled<'a>(reshape: &Node<'a>, values: &Values<'a, '_>) -> Option<&'a str> {
    let expand = plain(reshape.inputs.first()?, values)?;
    let inner = plain(expand.inputs.first()?, values)?;
    let matches = expand.operator == "Expand" && inner.operator == "Unsqueeze";
    matches.then_some(*expand.outputs.first()?)
}

/// Returns the source of a value, behind nodes that rten may remove because they change nothing.
fn plain<'a, 'b>(mut name: &'a str, values: &Values<'a, 'b>) -> Option<&'b Node<'a>> {
    const REMOVED: &[&str] = &[
        "Add", "Cast", "CastLike", "Div", "Dropout", "Identity", "Mul", "Sub",
    ];
    for _ in 0..FARTHEST {
        let node = values.source(name)?;
        if !REMOVED.contains(&node.operator) {
            return Some(node);
        }
        let mut inputs = node.inputs.iter();
        name = inputs.find(|name| values.constant(name).is_none())?;
    }
    None
}

fn biased<'a>(add: &Node<'a>, values: &Values<'a, '_>) -> Option<&'a str> {
    let mut inputs = add.inputs.iter();
    let bias = inputs.find_map(|name| values.constant(name))?;
    let product = add
        .inputs
        .iter()
        .find_map(|name| values.source(name).filter(|n| n.operator == "MatMul"))?;
    let row = values
        .constant(product.inputs.get(1)?)
        .map(|weights| weights.last);
    // Of an unknown row only a bias of one number is likely to be shorter.
    let fits = row.map_or(bias.count > 1, |row| row == bias.count);
    (bias.rank == 1 && !fits).then_some(*product.outputs.first()?)
}
