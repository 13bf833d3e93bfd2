//! Graphs that rten silently computes differently from the standard, and that no rewrite mends.

use super::graph::{Node, Onnx};
use super::values::Values;

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
    match nodes
        .iter()
        .find_map(|node| Some((node, misread(node, opset, &values)?)))
    {
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
        "Resize" | "Upsample" if strays(node, values) => Some(
            "export it with `sizes`, mode linear, or a scale whose reciprocal is exact, such as 2",
        ),
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

/// Returns whether a resize by constant scales to the nearest pixel picks other pixels in rten, which multiplies a position by the
/// rounded reciprocal of the scale and does not divide it by the scale.
fn strays(node: &Node<'_>, values: &Values<'_, '_>) -> bool {
    let text = |name: &str, default: &'static str| {
        let written = node.attribute(name).and_then(|a| a.text);
        written.map_or(default.as_bytes(), |text| text)
    };
    let is_resize = node.operator == "Resize" && node.inputs.len() > 2;
    let scales = node.inputs.get(if is_resize { 2 } else { 1 });
    let scales = scales.and_then(|name| values.constant(name)?.floats());
    let transform = if is_resize {
        text("coordinate_transformation_mode", "half_pixel")
    } else {
        b"asymmetric"
    };
    let default = if is_resize {
        "round_prefer_floor"
    } else {
        "floor"
    };
    let nearest = text("nearest_mode", default);
    // With `align_corners` both engines compute with the sizes.
    let applies = text("mode", "nearest") == b"nearest" && transform != b"align_corners";
    applies
        && scales.unwrap_or_default().iter().any(|scale| {
            // The reciprocal of a power of two is exact.
            let is_exact = scale.to_bits() << 9 == 0;
            let offset = if transform == b"asymmetric" { 0.0 } else { 0.5 };
            !is_exact
                && (0..POSITIONS).any(|at| {
                    let at = f32::from(at) + offset;
                    let (exact, ours) = (at / scale - offset, at * (1.0 / scale) - offset);
                    pixel(exact, nearest) != pixel(ours, nearest)
                })
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
