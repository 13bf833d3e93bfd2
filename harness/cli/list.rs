//! `bench list` and `bench schema`: prints the registry and the tables of the program.

use std::fmt::Write;

use crate::registry::Registry;
use serde_json::{Value, json};
use tessera_models::vit;
use tessera_reports::{Group, Record, columns};

use super::args::What;
use super::failure::Failure;
use super::terminal;
use crate::suite;

pub fn schema(registry: &Registry) -> Result<(), Failure> {
    put_json!(suite::schema::schema(registry))?;
    Ok(())
}

pub fn list(what: What, json: bool, registry: &Registry) -> Result<(), Failure> {
    let lines: Vec<(String, String)> = match what {
        What::Columns if json => return Ok(put_json!(columns_json())?),
        What::Columns => {
            terminal::fold(&all_columns())?;
            return Ok(());
        }
        What::Tokenizers => registry
            .tokenizers()
            .map(|t| (t.kind().into(), t.summary().into()))
            .collect(),
        What::Features => registry
            .features()
            .map(|f| (f.kind().into(), f.summary().into()))
            .collect(),
        What::Datasets => registry
            .datasets()
            .map(|d| (d.kind().into(), d.summary().into()))
            .collect(),
        What::Backbones => vit::PRESETS
            .iter()
            .map(|p| (p.name.into(), p.summary()))
            .collect(),
        What::Metrics => Record::metrics()
            .chain(Record::predictors().filter(|m| m.group == Group::Encoder))
            .map(|m| (m.name.into(), m.summary()))
            .collect(),
        What::Tables => tessera_reports::tables()
            .iter()
            .map(|t| (t.number.to_string(), t.title.into()))
            .collect(),
    };
    if json {
        let all: Vec<Value> = lines
            .iter()
            .map(|(name, about)| json!({"name": name, "summary": about}))
            .collect();
        return Ok(put_json!(Value::Array(all))?);
    }
    terminal::fold(&aligned(&lines))?;
    Ok(())
}

/// Returns the columns of every CSV file of a run.
fn columns_json() -> Value {
    let files = columns::FILES.iter();
    let all = files.flat_map(|file| {
        let columns = file.columns.iter();
        columns.map(|c| json!({"file": file.name, "name": c.name, "unit": c.unit, "definition": c.definition}))
    });
    Value::Array(all.collect())
}

/// Returns the columns of every CSV file of a run, with their definitions.
fn all_columns() -> String {
    let mut text = String::new();
    for file in columns::FILES {
        let _ = writeln!(text, "{}: {}", file.name, file.row);
        let width = file.columns.iter().map(|c| c.name.len()).max().unwrap_or(0);
        for column in file.columns {
            let _ = writeln!(text, "  {:width$}  {}", column.name, column.summary());
        }
        text.push('\n');
    }
    text
}

fn aligned(lines: &[(String, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines
        .iter()
        .fold(String::new(), |mut text, (name, summary)| {
            let _ = writeln!(text, "{name:width$}  {summary}");
            text
        })
}
