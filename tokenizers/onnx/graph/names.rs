//! Names that a file defines twice. Engines take different definitions of them, and some refuse the file.

use std::collections::HashSet;

use super::{Graph, Onnx};

impl Onnx<'_> {
    /// Returns what is defined twice: a value where both definitions are visible, or an attribute of a node.
    pub fn repeated(&self) -> Option<String> {
        let bodies = self.functions.iter().map(|(_, _, body)| body);
        let mut all = bodies.chain([&self.graph]);
        all.find_map(|graph| repeated(graph, false, &mut HashSet::new()))
    }
}

/// Returns what `graph`, in which `outer` names are visible, defines twice. Leaves `outer` as it was unless it returns something.
fn repeated<'a>(graph: &Graph<'a>, is_inner: bool, outer: &mut HashSet<&'a str>) -> Option<String> {
    let weights = graph.weights.iter().map(|weight| weight.name);
    let is_weight: HashSet<&str> = weights.clone().collect();
    // Old files list the weights among the inputs, too.
    let inputs = graph.inputs.iter().map(|input| input.name);
    let inputs = inputs.filter(|name| !is_weight.contains(name));
    let (mut own, mut added): (HashSet<&str>, Vec<&str>) = (HashSet::new(), Vec::new());
    let mut define = |name: &'a str, may_repeat: bool, outer: &mut HashSet<&'a str>| {
        if name.is_empty() {
            return None;
        }
        let is_new = outer.insert(name);
        if is_new {
            added.push(name);
        }
        let is_twice = !own.insert(name) || !(is_new || may_repeat);
        is_twice.then(|| format!("the value `{name}`"))
    };
    // The inputs of a body may be called as values around it.
    let inputs = inputs.map(|name| (name, is_inner));
    for (name, may_repeat) in weights.map(|name| (name, false)).chain(inputs) {
        if let Some(found) = define(name, may_repeat, outer) {
            return Some(found);
        }
    }
    for node in &graph.nodes {
        let mut known = HashSet::new();
        let mut attributes = node.attributes.iter();
        if let Some(attribute) = attributes.find(|attribute| !known.insert(attribute.name)) {
            let (name, operator) = (attribute.name, node.operator);
            return Some(format!("the attribute `{name}` of {operator}"));
        }
        // Values of later nodes are not visible in a body.
        let mut inner = node.attributes.iter().flat_map(|a| &a.graphs);
        let found = inner.find_map(|graph| repeated(graph, true, outer));
        let mut outputs = node.outputs.iter();
        let found = found.or_else(|| outputs.find_map(|name| define(name, false, outer)));
        if found.is_some() {
            return found;
        }
    }
    for name in added {
        outer.remove(name);
    }
    None
}
