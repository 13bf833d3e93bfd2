//! Constants that rten cannot hold.

use std::collections::HashSet;

use rten_onnx::onnx::{DataType, GraphProto, NodeProto, TensorProto};

/// Refuses 64-bit constants that do not fit into the 32 bits of rten, which takes the nearest number that fits.
///
/// # Errors
/// The constant, and the remedy.
pub fn in_32_bits(graph: &GraphProto) -> Result<(), String> {
    let mut bounds = HashSet::new();
    slice_bounds(graph, &mut bounds);
    fit(graph, &bounds)
}

/// Collects the names of values that are bounds of a `Slice`, where a number beyond the size means the end.
fn slice_bounds(graph: &GraphProto, found: &mut HashSet<String>) {
    for node in &graph.node {
        if operator(node) == "Slice" {
            found.extend(node.input.iter().skip(1).take(2).cloned());
        }
        for inner in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
            slice_bounds(inner, found);
        }
    }
}

fn fit(graph: &GraphProto, bounds: &HashSet<String>) -> Result<(), String> {
    let named = |name: &str, found: Option<i64>| match found {
        Some(found) if !bounds.contains(name) => Err(format!(
            "the constant `{name}` holds {found}, and rten computes 64-bit integers in 32 bits; only ONNX Runtime computes this \
             graph correctly; install it, or export the graph with smaller integers"
        )),
        _ => Ok(()),
    };
    for tensor in &graph.initializer {
        named(tensor.name.as_deref().unwrap_or_default(), beyond(tensor))?;
    }
    for node in &graph.node {
        let name = node.output.first().map_or("", String::as_str);
        for attribute in &node.attribute {
            named(name, attribute.t.as_ref().and_then(beyond))?;
            if operator(node) == "Constant" {
                let numbers = attribute.i.iter().chain(&attribute.ints);
                named(name, numbers.copied().find(|number| is_beyond(*number)))?;
            }
            if let Some(inner) = &attribute.g {
                fit(inner, bounds)?;
            }
        }
    }
    Ok(())
}

/// Returns the first number of a 64-bit tensor that does not fit into 32 bits.
fn beyond(tensor: &TensorProto) -> Option<i64> {
    if tensor.data_type != Some(DataType::INT64) {
        return None;
    }
    let written = tensor.int64_data.iter().copied();
    if let Some(found) = written.into_iter().find(|number| is_beyond(*number)) {
        return Some(found);
    }
    let raw = tensor.raw_data.as_ref()?.borrow();
    let (numbers, _) = raw.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|bytes| i64::from_le_bytes(*bytes));
    numbers.find(|number| is_beyond(*number))
}

/// Returns whether a number does not fit into 32 bits. The largest and the smallest number stand for "no bound", which stays true.
fn is_beyond(number: i64) -> bool {
    i32::try_from(number).is_err() && number.unsigned_abs() < i64::MAX.unsigned_abs()
}

fn operator(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}
