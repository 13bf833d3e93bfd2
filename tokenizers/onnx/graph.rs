//! Structure of an ONNX file, read without an engine: versions, inputs, outputs, nodes, external files.
//!
//! Field numbers are those of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). All data are borrowed from
//! the file and nesting is limited, so the file's size bounds memory and stack.

use std::collections::{HashMap, HashSet};

use super::protobuf::{Value, fields};

mod names;
mod tensor;

pub use tensor::{External, Tensor};
use tensor::{sparse, tensor};

/// Maximum number of listed integers that are kept: one for each axis of a tensor.
const MOST_AXES: usize = 8;
/// Maximum nesting of graphs; the bodies of branches and loops are nested graphs.
const DEEPEST: usize = 16;
/// Maximum number of nodes, because engines walk chains of nodes recursively. Graphs of real encoders have some thousands.
const MOST_NODES: usize = 100_000;
/// Maximum number of attributes, graphs, and names of values. One takes two bytes in the file and a hundred in memory.
const MOST_PARTS: usize = 2_000_000;

/// An ONNX file.
#[derive(Default)]
pub struct Onnx<'a> {
    /// Version of the format.
    pub ir: Option<i64>,
    /// Domains of operators and their versions.
    pub opsets: Vec<(&'a str, i64)>,
    /// The graph.
    pub graph: Graph<'a>,
    /// Operators that the file defines itself: domain, name, body.
    pub functions: Vec<(&'a str, &'a str, Graph<'a>)>,
}

/// A graph, or the body of a function.
#[derive(Default)]
pub struct Graph<'a> {
    /// In topological order.
    pub nodes: Vec<Node<'a>>,
    /// Weights.
    pub weights: Vec<Tensor<'a>>,
    /// Inputs; old files list the weights here too.
    pub inputs: Vec<Port<'a>>,
    /// Outputs.
    pub outputs: Vec<Port<'a>>,
    /// Parts of external files that hold weights or constants.
    pub external: Vec<External<'a>>,
    /// Those of sparse weights.
    sparse_external: Vec<External<'a>>,
}

/// An operator with its connections.
#[derive(Default)]
pub struct Node<'a> {
    /// Name of the operator, such as `Conv`.
    pub operator: &'a str,
    /// Domain of the operator; empty for ONNX's own.
    pub domain: &'a str,
    /// Names of the input values; empty for an omitted input.
    pub inputs: Vec<&'a str>,
    /// Names of the output values.
    pub outputs: Vec<&'a str>,
    /// Attributes.
    pub attributes: Vec<Attribute<'a>>,
}

/// An attribute.
#[derive(Default)]
pub struct Attribute<'a> {
    /// Name.
    pub name: &'a str,
    /// Integer value.
    pub number: Option<i64>,
    /// Text value.
    pub text: Option<&'a [u8]>,
    /// Floating-point value: the four bytes of an f32.
    pub float: Option<&'a [u8]>,
    /// Tensor value, with its own memory because few attributes have one.
    pub value: Option<Box<Tensor<'a>>>,
    /// Whether it is a list of integers with one that is not 0.
    pub nonzero: bool,
    /// First integers of a list, at most [`MOST_AXES`].
    pub ints: Vec<i64>,
    /// Number of elements if it is a list of numbers.
    pub count: u64,
    /// Last elements of a list of f32 numbers: all of them if they are packed.
    pub floats: &'a [u8],
    graphs: Vec<Graph<'a>>,
    external: Vec<External<'a>>,
    /// Those of sparse tensors and of lists of tensors.
    other_external: Vec<External<'a>>,
}

/// An input or an output.
#[derive(Default)]
pub struct Port<'a> {
    /// Name.
    pub name: &'a str,
    /// `TensorProto.DataType`; `None` if the value is not a tensor.
    pub element: Option<i64>,
    /// Dimensions, `None` for an open one; `None` if the rank is open.
    pub dims: Option<Vec<Option<usize>>>,
}

impl<'a> Onnx<'a> {
    /// Reads `file`.
    ///
    /// # Errors
    /// Why it is not an ONNX file.
    pub fn read(file: &'a [u8]) -> Result<Self, String> {
        let (mut onnx, mut graphs, mut count) = (Self::default(), 0, Count::default());
        for field in fields(file) {
            match field? {
                (1, value) => onnx.ir = Some(value.number()?),
                (7, value) => {
                    graphs += 1;
                    onnx.graph = graph(value.bytes()?, 0, &mut count)?;
                }
                (8, value) => onnx.opsets.push(opset(value.bytes()?)?),
                (25, value) => onnx.functions.push(function(value.bytes()?, &mut count)?),
                _ => (),
            }
        }
        match graphs {
            0 => Err("it has no graph".into()),
            1 => Ok(onnx),
            _ => Err(format!("it has {graphs} graphs")),
        }
    }

    /// Returns the nodes that compute `output`, with those of nested graphs, and all nodes of functions.
    pub fn reached(&self, output: &'a str) -> Vec<&Node<'a>> {
        let nodes = self.graph.nodes.iter().enumerate();
        let sources: HashMap<&str, (usize, &Node<'a>)> = nodes
            .flat_map(|node| node.1.outputs.iter().map(move |name| (*name, node)))
            // The name of an omitted output.
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let mut found: Vec<&Node<'a>> = Vec::new();
        for (_, _, body) in &self.functions {
            body.walk(&mut |graph| found.extend(&graph.nodes));
        }
        let (mut wanted, mut seen) = (vec![output], HashSet::new());
        while let Some(name) = wanted.pop() {
            // A node may have many outputs.
            let source = sources.get(name).filter(|(at, _)| seen.insert(*at));
            let Some((_, node)) = source else {
                continue;
            };
            found.push(*node);
            wanted.extend(&node.inputs);
            for inner in node.attributes.iter().flat_map(|a| &a.graphs) {
                inner.walk(&mut |graph| {
                    found.extend(&graph.nodes);
                    wanted.extend(graph.nodes.iter().flat_map(|node| &node.inputs));
                    wanted.extend(graph.outputs.iter().map(|port| port.name));
                });
            }
        }
        found
    }

    /// Returns all weights, with those of nested graphs.
    pub fn weights(&self) -> Vec<&Tensor<'a>> {
        let mut found = Vec::new();
        self.graph.walk(&mut |graph| found.extend(&graph.weights));
        found
    }

    /// Returns all parts of external files.
    pub fn external(&self) -> Vec<&External<'a>> {
        let functions = self.functions.iter().map(|(_, _, body)| body);
        let mut found = Vec::new();
        for body in functions.chain([&self.graph]) {
            body.walk(&mut |graph| {
                for attribute in graph.nodes.iter().flat_map(|node| &node.attributes) {
                    found.extend(attribute.external.iter().chain(&attribute.other_external));
                }
                found.extend(graph.external.iter().chain(&graph.sparse_external));
            });
        }
        found
    }

    /// Returns whether parts of external files are elsewhere than in the weights and constants of the outermost graph: in inner graphs, functions,
    /// sparse tensors or lists.
    pub fn has_inner_external(&self) -> bool {
        let constants = self.graph.nodes.iter().flat_map(|node| &node.attributes);
        let constants: usize = constants.map(|attribute| attribute.external.len()).sum();
        self.external().len() > self.graph.external.len() + constants
    }
}

impl<'a> Graph<'a> {
    /// Calls `visit` with the graph and with every graph nested in it.
    fn walk<'b>(&'b self, visit: &mut impl FnMut(&'b Graph<'a>)) {
        visit(self);
        let attributes = self.nodes.iter().flat_map(|node| &node.attributes);
        for inner in attributes.flat_map(|attribute| &attribute.graphs) {
            inner.walk(visit);
        }
    }
}

impl<'a> Node<'a> {
    /// Returns the integer value of the attribute `name`.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.number
    }

    /// Returns the attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|a| a.name == name)
    }
}

/// Number of the elements so far.
#[derive(Default)]
struct Count {
    nodes: usize,
    parts: usize,
}

impl Count {
    fn node(&mut self) -> Result<(), String> {
        self.nodes += 1;
        match self.nodes {
            ..=MOST_NODES => Ok(()),
            _ => Err(format!("it has more than {MOST_NODES} nodes")),
        }
    }

    fn part(&mut self) -> Result<(), String> {
        self.parts += 1;
        match self.parts {
            ..=MOST_PARTS => Ok(()),
            _ => Err(format!(
                "it has more than {MOST_PARTS} inputs, outputs and attributes"
            )),
        }
    }
}

fn graph<'a>(message: &'a [u8], depth: usize, count: &mut Count) -> Result<Graph<'a>, String> {
    if depth > DEEPEST {
        return Err(format!("more than {DEEPEST} nested graphs"));
    }
    let mut graph = Graph::default();
    for field in fields(message) {
        count.part()?;
        match field? {
            (1, value) => graph.nodes.push(node(value.bytes()?, depth, count)?),
            (5, value) => {
                let weight = tensor(value.bytes()?, &mut graph.external)?;
                graph.weights.push(weight);
            }
            (11, value) => graph.inputs.push(port(value)?),
            (12, value) => graph.outputs.push(port(value)?),
            // Only read to limit the nesting of types.
            (13, value) => drop(port(value)?),
            (15, value) => {
                let weight = sparse(value.bytes()?, &mut graph.sparse_external)?;
                graph.weights.push(weight);
            }
            _ => (),
        }
    }
    Ok(graph)
}

fn function<'a>(
    message: &'a [u8],
    count: &mut Count,
) -> Result<(&'a str, &'a str, Graph<'a>), String> {
    let (mut domain, mut name, mut body) = ("", "", Graph::default());
    count.part()?;
    for field in fields(message) {
        match field? {
            (1, value) => name = value.text()?,
            (7, value) => body.nodes.push(node(value.bytes()?, 0, count)?),
            (10, value) => domain = value.text()?,
            _ => (),
        }
    }
    Ok((domain, name, body))
}

fn node<'a>(message: &'a [u8], depth: usize, count: &mut Count) -> Result<Node<'a>, String> {
    count.node()?;
    let mut node = Node::default();
    for field in fields(message) {
        count.part()?;
        match field? {
            (1, value) => node.inputs.push(value.text()?),
            (2, value) => node.outputs.push(value.text()?),
            (4, value) => node.operator = value.text()?,
            (5, value) => {
                let attribute = attribute(value.bytes()?, depth, count)?;
                node.attributes.push(attribute);
            }
            (7, value) => node.domain = domain(value.text()?),
            _ => (),
        }
    }
    Ok(node)
}

fn attribute<'a>(
    message: &'a [u8],
    depth: usize,
    count: &mut Count,
) -> Result<Attribute<'a>, String> {
    let mut attribute = Attribute::default();
    for field in fields(message) {
        match field? {
            (1, value) => attribute.name = value.text()?,
            (3, value) => attribute.number = Some(value.number()?),
            (4, value) => attribute.text = Some(value.bytes()?),
            (2, Value::Fixed(bytes)) => attribute.float = Some(bytes),
            (7, Value::Fixed(bytes) | Value::Bytes(bytes)) => {
                attribute.count += bytes.len() as u64 / 4;
                attribute.floats = bytes;
            }
            (8, Value::Bytes(packed)) => {
                // A field of packed numbers has no tags.
                let mut rest = fields(packed);
                while let Some(number) = rest.packed() {
                    attribute.list(number?.cast_signed());
                }
            }
            (8, value) => attribute.list(value.number()?),
            (5, value) => {
                let value = tensor(value.bytes()?, &mut attribute.external)?;
                attribute.value = Some(Box::new(value));
            }
            (10, value) => drop(tensor(value.bytes()?, &mut attribute.other_external)?),
            (6 | 11, value) => {
                count.part()?;
                let inner = graph(value.bytes()?, depth + 1, count)?;
                attribute.graphs.push(inner);
            }
            (22 | 23, value) => drop(sparse(value.bytes()?, &mut attribute.other_external)?),
            _ => (),
        }
    }
    Ok(attribute)
}

impl Attribute<'_> {
    fn list(&mut self, number: i64) {
        self.nonzero |= number != 0;
        self.count += 1;
        if self.ints.len() < MOST_AXES {
            self.ints.push(number);
        }
    }
}

fn opset(message: &[u8]) -> Result<(&str, i64), String> {
    let (mut name, mut version) = ("", 0);
    for field in fields(message) {
        match field? {
            (1, value) => name = domain(value.text()?),
            (2, value) => version = value.number()?,
            _ => (),
        }
    }
    Ok((name, version))
}

/// Normalises the two names of ONNX's own domain.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn port(value: Value<'_>) -> Result<Port<'_>, String> {
    let mut port = Port::default();
    for field in fields(value.bytes()?) {
        match field? {
            (1, value) => port.name = value.text()?,
            (2, value) => kind(value.bytes()?, 0, &mut port)?,
            _ => (),
        }
    }
    Ok(port)
}

/// Reads the type of a port; sequences, maps and optional values have nested types.
fn kind<'a>(message: &'a [u8], depth: usize, port: &mut Port<'a>) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("more than {DEEPEST} nested types"));
    }
    for field in fields(message) {
        match field? {
            (1, value) if depth == 0 => array(value.bytes()?, port)?,
            (4 | 5 | 9, value) => {
                for inner in fields(value.bytes()?) {
                    if let (_, Value::Bytes(inner)) = inner? {
                        kind(inner, depth + 1, port)?;
                    }
                }
            }
            _ => (),
        }
    }
    Ok(())
}

fn array(message: &[u8], port: &mut Port<'_>) -> Result<(), String> {
    for field in fields(message) {
        match field? {
            (1, value) => port.element = Some(value.number()?),
            (2, value) => {
                let dims = fields(value.bytes()?).map(|field| match field? {
                    (1, value) => dim(value.bytes()?).map(Some),
                    _ => Ok(None),
                });
                let dims = dims.filter_map(Result::transpose);
                port.dims = Some(dims.collect::<Result<_, String>>()?);
            }
            _ => (),
        }
    }
    Ok(())
}

/// Returns `None` for an open dimension, for which exporters also write 0 or -1.
fn dim(message: &[u8]) -> Result<Option<usize>, String> {
    let mut found = None;
    for field in fields(message) {
        if let (1, value) = field? {
            found = usize::try_from(value.number()?).ok();
        }
    }
    Ok(found.filter(|size| *size > 0))
}

#[cfg(test)]
mod tests;
