//! `bench plan`: the graph of a suite as a list, as JSON for schedulers, or as Graphviz text.

use std::fmt::Write as _;

use serde_json::json;

use super::args::PlanOptions;
use super::failure::Failure;
use super::progress::duration;
use super::running;
use crate::registry::Registry;
use crate::run::nodes::{self, PlannedNode};

pub fn plan(options: &PlanOptions, registry: &Registry) -> Result<(), Failure> {
    let (suite, all) = running::with_context(&options.setup, registry, true, |cx, depth| {
        cx.fetch = false;
        Ok((cx.suite.file.name.clone(), nodes::plan(cx, depth)?))
    })?;
    if options.json {
        let text = json!({"version": 1, "suite": suite, "nodes": all});
        return put!("{text:#}").map_err(Into::into);
    }
    if options.graphviz {
        return put!("{}", graphviz(&all)).map_err(Into::into);
    }
    for node in &all {
        let state = match (node.stored, &node.cost) {
            (true, _) => "stored".into(),
            (false, Some(cost)) => format!("to compute ({})", duration(cost.seconds)),
            (false, None) => "to do".into(),
        };
        put!("{:<50} {state}", node.id)?;
    }
    Ok(())
}

/// Returns a picture of the graph for `dot`: stored nodes are gray.
fn graphviz(all: &[PlannedNode]) -> String {
    let mut text = String::from("digraph suite {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in all {
        let style = if node.stored { " [style=filled, fillcolor=lightgray]" } else { "" };
        let _ = writeln!(text, "  {}{style};", quoted(&node.id));
        for before in &node.after {
            let _ = writeln!(text, "  {} -> {};", quoted(before), quoted(&node.id));
        }
    }
    text + "}"
}

fn quoted(id: &str) -> String {
    format!("\"{}\"", id.replace('\\', "\\\\").replace('"', "\\\""))
}
