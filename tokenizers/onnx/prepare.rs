//! A graph as rten loads it: with its external weights and without what rten cannot read or computes otherwise.

mod constants;
mod rewrites;

use std::cell::RefCell;

use rten_onnx::onnx::{DataLocation, DataType, GraphProto, ModelProto, TensorProto};

use super::check::Element;
use super::engine::{Source, first_line};
use super::graph::Onnx;
use super::mends::mends;

/// Returns the file for rten: external weights are embedded, because rten accepts only some names of external files, unsupported
/// casts are widened, and nodes that rten computes differently from the standard are rewritten.
pub fn prepared(source: Source) -> Result<Vec<u8>, String> {
    let wide = matches!(source.element, Element::Ids(4 | 5 | 12 | 13));
    let mut model = ModelProto::parse_buf(&source.bytes).map_err(|e| first_line(&e))?;
    let Some(graph) = &mut model.graph else {
        return Ok(source.bytes);
    };
    put_in(graph, &source.external)?;
    constants::in_32_bits(graph)?;
    let onnx = Onnx::read(&source.bytes)?;
    let mends = mends(&onnx, &source.output);
    if source.external.is_empty() && !wide && mends.is_empty() {
        return Ok(source.bytes);
    }
    rewrites::apply(graph, &mends);
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
