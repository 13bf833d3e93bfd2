//! An ONNX file as far as an engine is not needed to know it: versions, inputs, outputs, nodes, files that it pulls in.
//!
//! Field numbers are those of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). Everything is borrowed from
//! the file, and nesting is bounded, so memory and stack are bounded by the file's size.

use std::collections::{HashMap, HashSet};

use super::protobuf::{Value, fields};

/// Graphs within graphs: a branch or a loop's body is one.
const DEEPEST: usize = 16;
/// Engines walk chains of nodes recursively; graphs of real encoders have some thousands.
const MOST_NODES: usize = 100_000;

/// A file.
#[derive(Default)]
pub struct Onnx<'a> {
    /// Version of the format.
    pub ir: Option<i64>,
    /// Domains and their versions of operators.
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
    /// Names of its weights.
    pub weights: Vec<&'a str>,
    /// Its inputs, weights among them in old files.
    pub inputs: Vec<Port<'a>>,
    /// Its outputs.
    pub outputs: Vec<Port<'a>>,
    /// Parts of other files that are weights or constants.
    pub external: Vec<External<'a>>,
}

/// An operator and where it stands.
#[derive(Default)]
pub struct Node<'a> {
    /// Its name, `Conv`.
    pub operator: &'a str,
    /// Empty for ONNX's own.
    pub domain: &'a str,
    /// Names of values; empty where one is left out.
    pub inputs: Vec<&'a str>,
    /// Names of values.
    pub outputs: Vec<&'a str>,
    /// Attributes.
    pub attributes: Vec<Attribute<'a>>,
}

/// An attribute.
#[derive(Default)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a str,
    /// The number.
    pub number: Option<i64>,
    /// The text.
    pub text: Option<&'a [u8]>,
    graphs: Vec<Graph<'a>>,
    external: Vec<External<'a>>,
}

/// An input or an output.
#[derive(Default)]
pub struct Port<'a> {
    /// Its name.
    pub name: &'a str,
    /// `TensorProto.DataType`; `None` for what is no tensor.
    pub element: Option<i64>,
    /// Its dimensions, `None` where they are open; `None` where their number is.
    pub dims: Option<Vec<Option<usize>>>,
}

/// A part of a file beside the graph's.
#[derive(Default, Debug, PartialEq)]
pub struct External<'a> {
    /// Its path.
    pub location: &'a str,
    /// Byte at which the part begins.
    pub offset: u64,
    /// Bytes, to the end of the file where it isn't given.
    pub length: Option<u64>,
}

impl<'a> Onnx<'a> {
    /// Reads `file`.
    ///
    /// # Errors
    /// Why it is no ONNX file.
    pub fn read(file: &'a [u8]) -> Result<Self, String> {
        let (mut onnx, mut graphs, mut nodes) = (Self::default(), 0, 0);
        for field in fields(file) {
            match field? {
                (1, value) => onnx.ir = Some(value.number()?),
                (7, value) => {
                    graphs += 1;
                    onnx.graph = graph(value.bytes()?, 0, &mut nodes)?;
                }
                (8, value) => onnx.opsets.push(opset(value.bytes()?)?),
                (25, value) => onnx.functions.push(function(value.bytes()?, &mut nodes)?),
                _ => (),
            }
        }
        match graphs {
            0 => Err("it has no graph".into()),
            1 => Ok(onnx),
            _ => Err(format!("it has {graphs} graphs")),
        }
    }

    /// The nodes that `output` is computed by, those of graphs within the graph too, and all of functions.
    pub fn reached(&self, output: &'a str) -> Vec<&Node<'a>> {
        let nodes = self.graph.nodes.iter();
        let makers: HashMap<&str, &Node<'a>> = nodes
            .flat_map(|node| node.outputs.iter().map(move |name| (*name, node)))
            .collect();
        let functions = self.functions.iter().flat_map(|(_, _, body)| &body.nodes);
        let mut found: Vec<&Node<'a>> = functions.collect();
        let (mut wanted, mut seen) = (vec![output], HashSet::new());
        while let Some(name) = wanted.pop() {
            let Some(node) = makers.get(name).filter(|_| seen.insert(name)) else {
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

    /// Every part of another file.
    pub fn external(&self) -> Vec<&External<'a>> {
        let functions = self.functions.iter().map(|(_, _, body)| body);
        let mut found = Vec::new();
        for body in functions.chain([&self.graph]) {
            body.walk(&mut |graph| {
                let attributes = graph.nodes.iter().flat_map(|node| &node.attributes);
                found.extend(attributes.flat_map(|attribute| &attribute.external));
                found.extend(&graph.external);
            });
        }
        found
    }
}

impl<'a> Graph<'a> {
    /// Tells of the graph and of all within it.
    fn walk<'b>(&'b self, tell: &mut impl FnMut(&'b Graph<'a>)) {
        tell(self);
        let attributes = self.nodes.iter().flat_map(|node| &node.attributes);
        for inner in attributes.flat_map(|attribute| &attribute.graphs) {
            inner.walk(tell);
        }
    }
}

impl<'a> Node<'a> {
    /// The attribute's number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.number
    }

    /// The attribute.
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|a| a.name == name)
    }
}

fn graph<'a>(message: &'a [u8], depth: usize, nodes: &mut usize) -> Result<Graph<'a>, String> {
    if depth > DEEPEST {
        return Err(format!("more than {DEEPEST} graphs lie within each other"));
    }
    let mut graph = Graph::default();
    for field in fields(message) {
        match field? {
            (1, value) => graph.nodes.push(node(value.bytes()?, depth, nodes)?),
            (5, value) => {
                let name = tensor(value.bytes()?, &mut graph.external)?;
                graph.weights.push(name);
            }
            (11, value) => graph.inputs.push(port(value)?),
            (12, value) => graph.outputs.push(port(value)?),
            // Read for its errors: how deep a type is nested.
            (13, value) => drop(port(value)?),
            (15, value) => {
                let name = sparse(value.bytes()?, &mut graph.external)?;
                graph.weights.push(name);
            }
            _ => (),
        }
    }
    Ok(graph)
}

fn function<'a>(
    message: &'a [u8],
    nodes: &mut usize,
) -> Result<(&'a str, &'a str, Graph<'a>), String> {
    let (mut domain, mut name, mut body) = ("", "", Graph::default());
    for field in fields(message) {
        match field? {
            (1, value) => name = value.text()?,
            (7, value) => body.nodes.push(node(value.bytes()?, 0, nodes)?),
            (10, value) => domain = value.text()?,
            _ => (),
        }
    }
    Ok((domain, name, body))
}

fn node<'a>(message: &'a [u8], depth: usize, nodes: &mut usize) -> Result<Node<'a>, String> {
    *nodes += 1;
    if *nodes > MOST_NODES {
        return Err(format!("it has more than {MOST_NODES} nodes"));
    }
    let mut node = Node::default();
    for field in fields(message) {
        match field? {
            (1, value) => node.inputs.push(value.text()?),
            (2, value) => node.outputs.push(value.text()?),
            (4, value) => node.operator = value.text()?,
            (5, value) => {
                let attribute = attribute(value.bytes()?, depth, nodes)?;
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
    nodes: &mut usize,
) -> Result<Attribute<'a>, String> {
    let mut attribute = Attribute::default();
    for field in fields(message) {
        match field? {
            (1, value) => attribute.name = value.text()?,
            (3, value) => attribute.number = Some(value.number()?),
            (4, value) => attribute.text = Some(value.bytes()?),
            (5 | 10, value) => drop(tensor(value.bytes()?, &mut attribute.external)?),
            (6 | 11, value) => {
                let inner = graph(value.bytes()?, depth + 1, nodes)?;
                attribute.graphs.push(inner);
            }
            (22 | 23, value) => drop(sparse(value.bytes()?, &mut attribute.external)?),
            _ => (),
        }
    }
    Ok(attribute)
}

/// A tensor's name; where its numbers lie in another file, `external` takes that.
fn tensor<'a>(message: &'a [u8], external: &mut Vec<External<'a>>) -> Result<&'a str, String> {
    let (mut name, mut elsewhere, mut part) = ("", false, External::default());
    for field in fields(message) {
        match field? {
            (8, value) => name = value.text()?,
            (13, value) => external_entry(value.bytes()?, &mut part)?,
            (14, value) => elsewhere = value.number()? == 1,
            _ => (),
        }
    }
    if elsewhere {
        external.push(part);
    }
    Ok(name)
}

fn external_entry<'a>(message: &'a [u8], part: &mut External<'a>) -> Result<(), String> {
    let (mut key, mut text) = ("", "");
    for field in fields(message) {
        match field? {
            (1, value) => key = value.text()?,
            (2, value) => text = value.text()?,
            _ => (),
        }
    }
    let number = || {
        let wrong = |_| format!("`{key}` of external data is {text:?}, expected a number");
        text.parse::<u64>().map_err(wrong)
    };
    match key {
        "location" => part.location = text,
        "offset" => part.offset = number()?,
        "length" => part.length = Some(number()?),
        _ => (),
    }
    Ok(())
}

/// A sparse tensor's name: that of its values.
fn sparse<'a>(message: &'a [u8], external: &mut Vec<External<'a>>) -> Result<&'a str, String> {
    let mut name = "";
    for field in fields(message) {
        match field? {
            (1, value) => name = tensor(value.bytes()?, external)?,
            (2, value) => drop(tensor(value.bytes()?, external)?),
            _ => (),
        }
    }
    Ok(name)
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

/// ONNX's own domain has two names.
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

/// The type of a port; sequences and the like have types within theirs.
fn kind<'a>(message: &'a [u8], depth: usize, port: &mut Port<'a>) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("more than {DEEPEST} types lie within each other"));
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

/// `None` for an open dimension; exporters write 0 and -1 for that too.
fn dim(message: &[u8]) -> Result<Option<usize>, String> {
    let mut found = None;
    for field in fields(message) {
        if let (1, value) = field? {
            found = usize::try_from(value.number()?).ok();
        }
    }
    Ok(found.filter(|size| *size > 0))
}
