//! Names that a file defines twice. Engines take different definitions of them, and some refuse the file.

use std::collections::HashSet;

use super::{Graph, Onnx};

impl Onnx<'_> {
    /// Returns what is defined twice: a value where both definitions are visible, or an attribute of a node.
    pub fn repeated(&self) -> Option<String> {
        let bodies = self.functions.iter().map(|(_, _, body)| body);
        let mut all = bodies.chain([&self.graph]);
        all.find_map(|graph| repeated(graph, &mut HashSet::new()))
    }
}

/// Returns what `graph`, in which `outer` names are visible, defines twice. Leaves `outer` as it was unless it returns something.
fn repeated<'a>(graph: &Graph<'a>, outer: &mut HashSet<&'a str>) -> Option<String> {
    let weights = graph.weights.iter().map(|weight| weight.name);
    let is_weight: HashSet<&str> = weights.clone().collect();
    // Old files list the weights among the inputs, too.
    let inputs = graph.inputs.iter().map(|input| input.name);
    let inputs = inputs.filter(|name| !is_weight.contains(name));
    let outputs = graph.nodes.iter().flat_map(|node| &node.outputs).copied();
    let named = |name: &&str| !name.is_empty();
    let own: Vec<&str> = weights.chain(inputs).chain(outputs).filter(named).collect();
    if let Some(name) = own.iter().find(|name| !outer.insert(*name)) {
        return Some(format!("the value `{name}`"));
    }
    for node in &graph.nodes {
        let mut known = HashSet::new();
        let mut attributes = node.attributes.iter();
        if let Some(attribute) = attributes.find(|attribute| !known.insert(attribute.name)) {
            let (name, operator) = (attribute.name, node.operator);
            return Some(format!("the attribute `{name}` of {operator}"));
        }
        let mut inner = node.attributes.iter().flat_map(|a| &a.graphs);
        if let Some(found) = inner.find_map(|graph| repeated(graph, outer)) {
            return Some(found);
        }
    }
    for name in &own {
        outer.remove(name);
    }
    None
}
