//! Checks a graph before an engine opens it, so that both engines refuse the same faults with the same messages.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Component, Path};

use tessera_models::foreign;

use super::graph::{Node, Onnx, Port};

/// Existing versions of the format and of ONNX's operators as of ONNX 1.23. Some engines silently accept unknown versions.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 1..=14;
const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// Operators that draw random numbers.
const RANDOM: &[&str] = &[
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];

/// Operators that compute their scale from the range of a whole batch.
const DYNAMIC: &[&str] = &[
    "DynamicQuantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
];

/// Names of `TensorProto.DataType`, by number.
const TYPES: &[&str] = &[
    "undefined",
    "float32",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "float64",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
];

/// Element type of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f32 numbers.
    Values,
    /// Integers of this `TensorProto.DataType`.
    Ids(i64),
}

/// Properties of a graph that has passed the checks.
#[derive(Debug)]
pub struct Checked {
    /// Name of the input, f32 images `[batch, 3, side, side]`.
    pub input: String,
    /// Images per call, if the graph fixes the number.
    pub batch: Option<usize>,
    /// Side of the images in pixels, if the graph fixes it.
    pub side: Option<usize>,
    /// Name of the output.
    pub output: String,
    /// Element type of the output.
    pub element: Element,
    /// Names of all outputs.
    pub outputs: Vec<String>,
    /// Whether the graph quantises dynamically, so that images must run one by one.
    pub alone: bool,
    /// External weight files: path relative to the graph's folder, and minimum length in bytes.
    pub external: Vec<(String, u64)>,
}

impl Checked {
    /// Checks the part of the graph in `file` that computes `output` (the first output if `None`).
    ///
    /// # Errors
    /// What was found and expected, and the remedy. The caller puts the file's name before the message.
    pub fn of(file: &[u8], output: Option<&str>) -> Result<Self, String> {
        let onnx = Onnx::read(file).map_err(|reason| {
            let found = foreign::told(file).map_or_else(
                || format!("{reason}; export or fetch the file again"),
                |what| format!("it {what}"),
            );
            format!("is not an ONNX graph: {found}")
        })?;
        if let Some(what) = onnx.repeated() {
            return Err(format!(
                "defines {what} twice, and engines take different definitions; export it again with unique names"
            ));
        }
        versions(&onnx)?;
        let external = external(&onnx)?;
        let input = input(&onnx)?;
        let (batch, side) = image(input)?;
        let (output, element) = wanted(&onnx, output)?;
        let is_computed = onnx.graph.nodes.iter().any(|n| n.outputs.contains(&output));
        if output.is_empty() || !is_computed {
            return Err(format!(
                "has an output `{output}` that no operator computes; export or fetch the file again"
            ));
        }
        let nodes = onnx.reached(output);
        known(&onnx, &nodes)?;
        repeatable(&nodes)?;
        let dynamic = nodes.iter().find(|node| DYNAMIC.contains(&node.operator));
        if let (Some(node), Some(batch @ 2..)) = (dynamic, batch) {
            return Err(format!(
                "quantises dynamically ({}) over its fixed batch of {batch} images, so that an image's targets depend on its \
                 neighbours; export it with a batch of 1 or an open one",
                node.operator
            ));
        }
        Ok(Self {
            input: input.name.to_owned(),
            batch,
            side,
            output: output.to_owned(),
            element,
            outputs: names(&onnx.graph.outputs),
            alone: dynamic.is_some(),
            external,
        })
    }
}

fn versions(onnx: &Onnx<'_>) -> Result<(), String> {
    let found = onnx.ir.unwrap_or_default();
    if !IR_VERSIONS.contains(&found) {
        return Err(format!(
            "has IR version {found}, which does not exist ({} to {} do); export it again",
            IR_VERSIONS.start(),
            IR_VERSIONS.end()
        ));
    }
    let opsets = onnx.opsets.iter().filter(|(domain, _)| domain.is_empty());
    let opsets: BTreeSet<i64> = opsets.map(|(_, version)| *version).collect();
    let Some(found) = opsets.first().filter(|_| opsets.len() == 1) else {
        return Err(format!(
            "has the opsets {opsets:?}, expected one; export it again"
        ));
    };
    if !OPSETS.contains(found) {
        return Err(format!(
            "has opset {found}, which does not exist ({} to {} do); export it with one of these, such as 17",
            OPSETS.start(),
            OPSETS.end()
        ));
    }
    Ok(())
}

/// Returns the external files of tensors and the minimum length of each in bytes.
fn external(onnx: &Onnx<'_>) -> Result<Vec<(String, u64)>, String> {
    // In the order of the graph, which is a part of the key of stored results.
    let (mut files, mut known) = (Vec::<(String, u64)>::new(), HashMap::new());
    for part in onnx.external() {
        let location = part.location;
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        let inside = !location.contains('\\') && Path::new(location).components().all(plain);
        if location.is_empty() || !inside {
            return Err(format!(
                "reads weights from {location:?}, expected a file in the graph's own folder; save it again with a relative path"
            ));
        }
        let end = part.offset.checked_add(part.length.unwrap_or_default());
        let end = end.ok_or("has external weights whose offset plus length exceeds 64 bits")?;
        let at = *known.entry(location).or_insert(files.len());
        match files.get_mut(at) {
            Some(file) => file.1 = file.1.max(end),
            None => files.push((location.to_owned(), end)),
        }
    }
    Ok(files)
}

/// Returns the one input that is not a weight; old files list weights among the inputs.
fn input<'a, 'b>(onnx: &'b Onnx<'a>) -> Result<&'b Port<'a>, String> {
    let weights: HashSet<&str> = onnx.graph.weights.iter().map(|w| w.name).collect();
    let inputs = onnx.graph.inputs.iter();
    let inputs: Vec<&Port<'_>> = inputs.filter(|p| !weights.contains(p.name)).collect();
    match inputs[..] {
        [input] => Ok(input),
        _ => Err(format!(
            "has the inputs {:?}, expected one: images [batch, 3, side, side]; export it with the others as constants",
            names(inputs)
        )),
    }
}

fn names<'a, 'b: 'a>(ports: impl IntoIterator<Item = &'a Port<'b>>) -> Vec<String> {
    let names = ports.into_iter().map(|port| port.name.to_owned());
    names.collect()
}

/// Returns the batch and the side of an image input, if the graph fixes them.
fn image(input: &Port<'_>) -> Result<(Option<usize>, Option<usize>), String> {
    let wrong = |found: String| {
        Err(format!(
            "has an input of {found}, expected f32 images [batch, 3, side, side]; transpose and cast inside the graph"
        ))
    };
    match (input.element, &input.dims) {
        (Some(1), None) => Ok((None, None)),
        (Some(1), Some(dims)) => match dims[..] {
            [batch, Some(3) | None, rows, cols] if rows == cols => Ok((batch, rows)),
            _ => wrong(format!("shape {}", shown(dims))),
        },
        (element, _) => wrong(format!("type {}", type_name(element))),
    }
}

/// Formats dimensions: `[?, 3, ?, ?]`.
fn shown(dims: &[Option<usize>]) -> String {
    let dims = dims
        .iter()
        .map(|dim| dim.map_or("?".into(), |dim| dim.to_string()));
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

fn type_name(element: Option<i64>) -> String {
    let Some(number) = element else {
        return "unknown (not a tensor)".into();
    };
    let known = usize::try_from(number).ok().and_then(|at| TYPES.get(at));
    known.map_or_else(|| format!("number {number}"), |name| (*name).to_owned())
}

/// Returns the output called `name`, or the first output if `None`.
fn wanted<'a>(onnx: &Onnx<'a>, name: Option<&str>) -> Result<(&'a str, Element), String> {
    let outputs = &onnx.graph.outputs;
    let port = match name {
        Some(name) => outputs.iter().find(|port| port.name == name),
        None => outputs.first(),
    };
    let port = port.ok_or_else(|| match name {
        Some(name) => format!(
            "has no output `{name}`, expected one of {:?}",
            names(outputs)
        ),
        None => "has no output; export it again".into(),
    })?;
    match port.element {
        Some(1) => Ok((port.name, Element::Values)),
        Some(number @ (2..=7 | 12 | 13)) => Ok((port.name, Element::Ids(number))),
        other => Err(format!(
            "has an output `{}` of type {}, expected integers (ids) or float32 (features); end the graph with a cast to int64 or \
             float32",
            port.name,
            type_name(other)
        )),
    }
}

/// Refuses operators that neither a standard nor the file defines.
fn known(onnx: &Onnx<'_>, nodes: &[&Node<'_>]) -> Result<(), String> {
    let own: HashSet<(&str, &str)> = onnx.functions.iter().map(|f| (f.0, f.1)).collect();
    let standard = |node: &Node<'_>| {
        let domain = node.domain;
        domain.is_empty() || domain.starts_with("ai.onnx.") || domain == "com.microsoft"
    };
    let unknown = nodes
        .iter()
        .find(|n| !standard(n) && !own.contains(&(n.domain, n.operator)));
    match unknown {
        None => Ok(()),
        Some(node) => Err(format!(
            "has the operator {}.{}, which no engine here supports; export it with ONNX's own operators",
            node.domain, node.operator
        )),
    }
}

/// Refuses graphs whose output for an image is random or depends on the other images of the batch.
fn repeatable(nodes: &[&Node<'_>]) -> Result<(), String> {
    for node in nodes {
        let training = match node.operator {
            "BatchNormalization" => {
                let statistics = node.outputs.iter().skip(1).any(|name| !name.is_empty());
                statistics || node.number("training_mode").unwrap_or_default() != 0
            }
            "Dropout" if node.inputs.get(2).is_some_and(|name| !name.is_empty()) => {
                return Err(
                    "has a Dropout whose `training_mode` is an input; export it after `model.eval()`"
                        .into(),
                );
            }
            _ => false,
        };
        if training {
            return Err(format!(
                "has a {} in training mode, so that an image's targets depend on chance or on its neighbours; export it after \
                 `model.eval()`",
                node.operator
            ));
        }
        if RANDOM.contains(&node.operator) {
            return Err(format!(
                "draws random numbers ({}), so that an image's targets change from call to call; export the value before the draw, \
                 a mean or an argmax",
                node.operator
            ));
        }
    }
    Ok(())
}
