//! Graphs that rten silently computes differently from the standard, and that no rewrite mends.

use std::collections::HashSet;

use super::graph::{Node, Onnx, Tensor};
use super::values::Values;

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;

/// Remedy for a resize to the nearest pixel.
const NEAREST: &str =
    "export it with mode linear, or with a scale whose reciprocal is exact, such as 2";

/// Maximum number of scales of a graph; real ones have a few.
const MOST_SCALES: usize = 256;

/// Number of positions along an axis for which a Resize is checked; images have fewer pixels.
const POSITIONS: u16 = 4096;

/// Refuses the graph if rten misreads a node that computes `output`.
///
/// # Errors
/// The operator, and the remedy.
pub fn checked<'a>(onnx: &Onnx<'a>, output: &'a str) -> Result<(), String> {
    let nodes = onnx.reached(output);
    let values = Values::of(onnx, &nodes);
    let opset = onnx.opsets.iter().find(|(domain, _)| domain.is_empty());
    let opset = opset.map_or(i64::MAX, |(_, version)| *version);
    let misread = nodes
        .iter()
        .find_map(|node| Some((*node, misread(node, opset, &values)?)));
    match misread.or_else(|| Some((straying(&nodes, &values)?, NEAREST))) {
        None => Ok(()),
        Some((node, remedy)) => Err(format!(
            "only ONNX Runtime computes this graph's {} of opset {opset} correctly; install it, or {remedy}",
            node.operator
        )),
    }
}

/// Returns the remedy if rten misreads the node.
///
/// - It reads `SAME_LOWER` as `SAME_UPPER`, pads in spite of `VALID`, and resizes `cubic` as `linear`.
/// - Before opset 13 a softmax flattens all axes from `axis` on, but rten takes `axis` alone. Both agree on the last axis, which is
///   recognised only if it is -1, because the rank is not known.
/// - Products of 8-bit integers: ConvInteger pads with another value than the zero point. Both products saturate at 16 bits on
///   processors without VNNI, so results depend on the machine, which no key of a stored result contains.
/// - ReduceMean and ReduceL2 of no axes, which `noop_with_empty_axes` leaves as they are.
/// - BitCast and NonMaxSuppression.
/// - CastLike gives no booleans; [`super::mends`] mends those whose type is known.
fn misread<'a>(node: &Node<'a>, opset: i64, values: &Values<'a, '_>) -> Option<&'static str> {
    let text = |name: &str| node.attribute(name).and_then(|a| a.text);
    let pads = node.attribute("pads").is_some_and(|pads| pads.nonzero);
    let flattens = ["Softmax", "LogSoftmax", "Hardmax"].contains(&node.operator) && opset < 13;
    if text("auto_pad") == Some(b"SAME_LOWER") {
        return Some("convert the graph to explicit padding");
    }
    if text("auto_pad") == Some(b"VALID") && pads {
        return Some("remove its `pads`, which `auto_pad: VALID` overrides");
    }
    if flattens && node.number("axis").unwrap_or(1) != -1 {
        return Some("convert the graph to opset 13 or newer");
    }
    match node.operator {
        "ConvInteger" | "MatMulInteger" | "DynamicQuantizeLSTM" => {
            Some("export the float graph, without quantisation")
        }
        "Resize" if text("mode") == Some(b"cubic") => {
            Some("export it with mode linear, or with the resized table as a constant")
        }
        "ReduceMean" | "ReduceL2" if keeps_all(node, values) => {
            Some("export it without `noop_with_empty_axes`")
        }
        "BitCast" => Some("export it with Cast"),
        "NonMaxSuppression" => Some("export the graph without it"),
        "CastLike" if node.inputs.len() > 1 && values.is_boolean(node.inputs[1]).is_none() => {
            Some("export it with Cast")
        }
        _ => None,
    }
}

/// Returns whether the node may reduce no axis: it is allowed to, and its axes are not constants.
fn keeps_all(node: &Node<'_>, values: &Values<'_, '_>) -> bool {
    let written = node.attribute("axes").map_or(0, |axes| axes.count);
    let given = node.inputs.get(1).and_then(|name| values.constant(name));
    let given = given.map_or(0, |axes| axes.count);
    node.number("noop_with_empty_axes").unwrap_or_default() != 0 && written + given == 0
}

/// A scale that was judged: its bits, the transformation of coordinates, and the rounding.
type Judged<'a> = HashSet<(u32, &'a [u8], &'a [u8])>;

/// Returns a node that resizes by constant scales to the nearest pixel, and for which rten picks other pixels: it multiplies a position by the
/// rounded reciprocal of the scale and does not divide it by the scale.
fn straying<'a, 'b>(nodes: &[&'b Node<'a>], values: &Values<'a, '_>) -> Option<&'b Node<'a>> {
    let mut judged = Judged::new();
    let mut nodes = nodes.iter().copied();
    nodes.find(|node| strays(node, values, &mut judged))
}

fn strays<'a>(node: &Node<'a>, values: &Values<'a, '_>, judged: &mut Judged<'a>) -> bool {
    let is_resize = node.operator == "Resize" && node.inputs.len() > 2;
    if !is_resize && !["Resize", "Upsample"].contains(&node.operator) {
        return false;
    }
    let text = |name: &str, default: &'static str| {
        let written = node.attribute(name).and_then(|a| a.text);
        written.map_or(default.as_bytes(), |text| text)
    };
    let (transform, default) = match is_resize {
        true => (
            text("coordinate_transformation_mode", "half_pixel"),
            "round_prefer_floor",
        ),
        false => (&b"asymmetric"[..], "floor"),
    };
    let nearest = text("nearest_mode", default);
    // With `align_corners` both engines compute with the sizes.
    if text("mode", "nearest") != b"nearest" || transform == b"align_corners" {
        return false;
    }
    let written = node.attribute("scales");
    let written = written.map(|a| Tensor::listed(FLOAT, 1, a.count, a.floats));
    let given = node.inputs.get(if is_resize { 2 } else { 1 });
    let given = given.and_then(|name| values.constant(name).copied());
    let Some(scales) = written.or(given).filter(|scales| scales.count > 0) else {
        return false;
    };
    // Numbers that are in another file or in another form are not judged, so they are refused.
    let Some(scales) = scales.floats() else {
        return true;
    };
    let offset = if transform == b"asymmetric" { 0.0 } else { 0.5 };
    scales.iter().any(|scale| {
        let is_new = judged.insert((scale.to_bits(), transform, nearest));
        is_new && (judged.len() > MOST_SCALES || moves(*scale, offset, nearest))
    })
}

/// Returns whether the reciprocal of a scale moves a position to another pixel.
fn moves(scale: f32, offset: f32, nearest: &[u8]) -> bool {
    (0..POSITIONS).any(|at| {
        let at = f32::from(at) + offset;
        let (exact, ours) = (at / scale - offset, at * (1.0 / scale) - offset);
        pixel(exact, nearest) != pixel(ours, nearest)
    })
}

/// Returns the pixel nearest to a position.
fn pixel(position: f32, nearest: &[u8]) -> f32 {
    let is_tie = position.fract().abs() == 0.5;
    match nearest {
        b"floor" => position.floor(),
        b"ceil" => position.ceil(),
        b"round_prefer_ceil" if is_tie => position.ceil(),
        b"round_prefer_floor" if is_tie => position.floor(),
        _ => position.round(),
    }
}
