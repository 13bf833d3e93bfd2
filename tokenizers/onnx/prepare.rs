//! A graph as rten loads it: with its external weights and without what rten cannot read or computes otherwise.

use std::cell::RefCell;
use std::collections::HashSet;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataLocation, DataType, GraphProto, ModelProto, NodeProto,
    TensorProto,
};

use super::check::Element;
use super::engine::{Source, first_line};

/// Returns the file for rten: external weights are embedded, because rten accepts only some names of external files, unsupported
/// casts are widened, and the first of equal scores wins.
pub fn prepared(source: Source) -> Result<Vec<u8>, String> {
    let wide = matches!(source.element, Element::Ids(4 | 5 | 12 | 13));
    let mut model = ModelProto::parse_buf(&source.bytes).map_err(|e| first_line(&e))?;
    let Some(graph) = &mut model.graph else {
        return Ok(source.bytes);
    };
    put_in(graph, &source.external)?;
    let mut bounds = HashSet::new();
    slice_bounds(graph, &mut bounds);
    in_32_bits(graph, &bounds)?;
    let changed = first_of_equal(graph);
    if source.external.is_empty() && !wide && !changed {
        return Ok(source.bytes);
    }
    if wide {
        widen(graph, &source.output);
    }
    model.write_buf().map_err(|e| first_line(&e))
}

/// Embeds the external weights in the graph.
fn put_in(graph: &mut GraphProto, files: &[(String, Vec<u8>)]) -> Result<(), String> {
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let mut tensors: Vec<&mut TensorProto> = graph.initializer.iter_mut().collect();
    for attribute in attributes {
        if let Some(inner) = &mut attribute.g {
            put_in(inner, files)?;
        }
        tensors.extend(&mut attribute.t);
    }
    for tensor in tensors {
        if tensor.data_location.take() != Some(DataLocation::EXTERNAL) {
            continue;
        }
        let entries = std::mem::take(&mut tensor.external_data);
        let entry = |key: &str| {
            let entry = entries.iter().find(|e| e.key.as_deref() == Some(key))?;
            entry.value.as_deref()
        };
        let number = |key: &str| entry(key).and_then(|text| text.parse::<usize>().ok());
        let file = files.iter().find(|file| entry("location") == Some(&file.0));
        let (_, bytes) = file.ok_or("a tensor does not name its external file")?;
        let start = number("offset").unwrap_or_default();
        let end = number("length").map_or(Some(bytes.len()), |length| start.checked_add(length));
        let part = end.and_then(|end| bytes.get(start..end));
        let part = part.ok_or("a tensor ends beyond the end of its file")?;
        tensor.raw_data = Some(RefCell::new(part.to_vec()));
    }
    Ok(())
}

/// Replaces the last cast before the ids by a cast to i64 (rten's i32), because rten refuses casts to 16-bit, u32 and u64 integers.
/// The session converts the ids to the graph's type again.
fn widen(graph: &mut GraphProto, output: &str) {
    const SHAPING: &[&str] = &[
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
    ];
    let mut name = output.to_owned();
    // The bound ends the loop if the graph is cyclic.
    for _ in 0..graph.node.len() {
        let mut nodes = graph.node.iter_mut();
        let Some(node) = nodes.find(|node| node.output.contains(&name)) else {
            return;
        };
        let operator = node.op_type.as_deref().unwrap_or_default();
        if operator == "Cast" {
            let mut attributes = node.attribute.iter_mut();
            let to = attributes.find(|a| a.name.as_deref() == Some("to"));
            to.into_iter()
                .for_each(|to| to.i = Some(DataType::INT64.0.into()));
        }
        match node.input.first() {
            Some(input) if SHAPING.contains(&operator) => name.clone_from(input),
            _ => return,
        }
    }
}

/// Replaces `ArgMax` and `ArgMin` by `TopK`, because of equal numbers rten's own take the last and the standard the first. Returns
/// whether there were any. With `select_last_index` the standard takes the last too, and the operator stays.
fn first_of_equal(graph: &mut GraphProto) -> bool {
    let mut changed = false;
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            changed |= first_of_equal(inner);
        }
        let largest = match operator(&node) {
            "ArgMax" => 1,
            "ArgMin" => 0,
            _ => {
                nodes.push(node);
                continue;
            }
        };
        if number(&node, "select_last_index", 0) != 0 {
            // rten refuses the attribute, but does what it asks.
            let name = |a: &AttributeProto| a.name.as_deref() == Some("select_last_index");
            node.attribute.retain(|attribute| !name(attribute));
            nodes.push(node);
            changed = true;
            continue;
        }
        changed = true;
        let (axis, keeps) = (number(&node, "axis", 0), number(&node, "keepdims", 1) != 0);
        let output = node.output.first().cloned().unwrap_or_default();
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
        nodes.push(NodeProto {
            op_type: Some("TopK".into()),
            output: vec![format!("{output}/best"), kept.clone()],
            attribute: attributes.map(|(name, value)| integer(name, value)).into(),
            ..node
        });
        if !keeps {
            nodes.push(NodeProto {
                op_type: Some("Squeeze".into()),
                input: vec![kept],
                output: vec![output],
                attribute: vec![AttributeProto {
                    ints: vec![axis],
                    i: None,
                    r#type: Some(AttributeType::INTS),
                    ..integer("axes", axis)
                }],
                ..NodeProto::default()
            });
        }
    }
    graph.node = nodes;
    changed
}

fn number(node: &NodeProto, name: &str, default: i64) -> i64 {
    let mut attributes = node.attribute.iter();
    let found = attributes.find(|a| a.name.as_deref() == Some(name));
    found.and_then(|a| a.i).unwrap_or(default)
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
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

/// Refuses 64-bit constants that do not fit into the 32 bits of rten, which takes the nearest number that fits.
fn in_32_bits(graph: &GraphProto, bounds: &HashSet<String>) -> Result<(), String> {
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
                in_32_bits(inner, bounds)?;
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
