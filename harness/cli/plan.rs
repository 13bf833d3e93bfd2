//! `bench plan`: the graph of a suite as a list, as JSON for schedulers, or as Graphviz text.

use std::fmt::Write as _;

use serde_json::json;

use super::args::PlanOptions;
use super::failure::Failure;
use super::lookup;
use super::progress::duration;
use super::running::{self, Opened};
use crate::registry::Registry;
use crate::run::nodes::{self, PlannedNode};

pub fn plan(options: &PlanOptions, registry: &Registry) -> Result<(), Failure> {
    lookup::check(&options.setup, true)?;
    running::within(&options.setup, |on_gpu| {
        let opened = Opened::new(&options.setup, registry, (true, on_gpu), false)?;
        let cx = opened.planner(registry)?;
        opened.warn_of_emulation(&cx);
        let all =
            nodes::plan(&cx, opened.depth, (None, true)).map_err(|e| running::failure(&cx, e))?;
        let suite = cx.suite.file.name.clone();
        drop(cx);
        drop(opened);
        print(options, &suite, &all)
    })
}

fn print(options: &PlanOptions, suite: &str, all: &[PlannedNode]) -> Result<(), Failure> {
    if options.json {
        let text = json!({"version": 1, "suite": suite, "nodes": all});
        return Ok(put_json!(text)?);
    }
    if options.graphviz {
        return Ok(put!("{}", graphviz(all))?);
    }
    for node in all {
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
        let style = if node.stored {
            " [style=filled, fillcolor=lightgray]"
        } else {
            ""
        };
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
