//! Values of a graph: where each comes from, which are constants, and which are booleans.

use std::collections::{HashMap, HashSet};

use super::graph::{Node, Onnx, Tensor};

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
const INT64: i64 = 7;
const BOOL: i64 = 9;

/// Maximum number of nodes between a value and the node that determines its type. It also ends a walk in a cyclic graph.
const FARTHEST: usize = 64;

/// Operators whose outputs are booleans.
const BOOLEAN: &[&str] = &[
    "And",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Not",
    "Or",
    "Xor",
];

/// Operators whose output has the type of the first input, also if that is a boolean.
const MOVING: &[&str] = &[
    "CenterCropPad",
    "Compress",
    "Concat",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
];

/// Operators whose output may be a boolean and has the type of a value inside or of an element.
const UNKNOWN: &[&str] = &[
    "EyeLike",
    "If",
    "Loop",
    "Optional",
    "OptionalGetElement",
    "Scan",
    "SequenceAt",
    "ConcatFromSequence",
    "Unique",
];

/// The values of some nodes.
pub struct Values<'a, 'b> {
    sources: HashMap<&'a str, &'b Node<'a>>,
    constants: HashMap<&'a str, Tensor<'a>>,
    inputs: HashMap<&'a str, Option<i64>>,
}

impl<'a, 'b> Values<'a, 'b> {
    /// Collects the values of `nodes`, which `onnx` has.
    pub fn of(onnx: &'b Onnx<'a>, nodes: &[&'b Node<'a>]) -> Self {
        let outputs = |node: &&'b Node<'a>| {
            let node = *node;
            // An omitted output has an empty name.
            let named = node.outputs.iter().filter(|name| !name.is_empty());
            named.map(move |name| (*name, node))
        };
        let weights = onnx.weights();
        let weights = weights.into_iter().map(|weight| (weight.name, *weight));
        let written = nodes.iter().filter(|node| node.operator == "Constant");
        let written = written.filter_map(|node| Some((*node.outputs.first()?, constant(node)?)));
        let inputs = onnx.graph.inputs.iter();
        Self {
            sources: nodes.iter().flat_map(outputs).collect(),
            // A function may have a value with the name of a weight.
            constants: written.chain(weights).collect(),
            inputs: inputs.map(|port| (port.name, port.element)).collect(),
        }
    }

    /// Returns the node that computes the value `name`.
    pub fn source(&self, name: &str) -> Option<&'b Node<'a>> {
        self.sources.get(name).copied()
    }

    /// Returns the constant `name`.
    pub fn constant(&self, name: &str) -> Option<&Tensor<'a>> {
        self.constants.get(name)
    }

    /// Returns whether the value `name` is a boolean, `None` if that cannot be told.
    pub fn is_boolean(&self, mut name: &'a str) -> Option<bool> {
        for _ in 0..FARTHEST {
            if let Some(constant) = self.constants.get(name) {
                return Some(constant.element == BOOL);
            }
            if let Some(element) = self.inputs.get(name) {
                return element.map(|element| element == BOOL);
            }
            let node = self.sources.get(name)?;
            let at = match node.operator {
                _ if !node.domain.is_empty() => return None,
                "Cast" => return Some(node.number("to") == Some(BOOL)),
                "ConstantOfShape" => {
                    let value = node.attribute("value").and_then(|a| a.value.as_ref());
                    return Some(value.is_some_and(|value| value.element == BOOL));
                }
                // Its mask.
                "Dropout" if node.outputs.first() != Some(&name) => return Some(true),
                "CastLike" | "Where" => 1,
                "OneHot" => 2,
                operator if BOOLEAN.contains(&operator) => return Some(true),
                operator if UNKNOWN.contains(&operator) => return None,
                operator if MOVING.contains(&operator) => 0,
                _ => return Some(false),
            };
            name = node.inputs.get(at)?;
        }
        None
    }

    /// Returns the names of all values that reach an input of a node that `ends` accepts through nodes that `passes` accepts.
    pub fn before(
        &self,
        ends: impl Fn(&Node<'a>) -> bool,
        passes: impl Fn(&Node<'a>) -> bool,
    ) -> HashSet<&'a str> {
        let last = self.sources.values().filter(|node| ends(node));
        let mut wanted: Vec<&str> = last.flat_map(|node| &node.inputs).copied().collect();
        let mut found = HashSet::new();
        while let Some(name) = wanted.pop() {
            if !found.insert(name) {
                continue;
            }
            if let Some(node) = self.sources.get(name).filter(|node| passes(node)) {
                wanted.extend(&node.inputs);
            }
        }
        found
    }
}

/// Returns the tensor that a Constant holds, in one of the forms that the standard has for it.
fn constant<'a>(node: &Node<'a>) -> Option<Tensor<'a>> {
    node.attributes.iter().find_map(|attribute| {
        let bytes = attribute.float.unwrap_or_default();
        match attribute.name {
            "value" => attribute.value.as_deref().copied(),
            "value_float" => Some(Tensor::listed(FLOAT, 0, 1, bytes)),
            "value_floats" => Some(Tensor::listed(FLOAT, 1, attribute.count, attribute.floats)),
            "value_int" => Some(Tensor::listed(INT64, 0, 1, &[])),
            "value_ints" => Some(Tensor::listed(INT64, 1, attribute.count, &[])),
            _ => None,
        }
    })
}
