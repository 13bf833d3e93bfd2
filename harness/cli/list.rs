//! `bench list` and `bench schema`: the registry and the tables of the program, as they are.

use std::fmt::Write;

use tessera_models::vit;
use tessera_tokenizers::Registry;

use super::args::What;
use super::{Failure, terminal};
use crate::{data, metrics, suite};

pub fn schema(registry: &Registry) -> Result<(), Failure> {
    put!("{:#}", suite::schema::schema(registry))?;
    Ok(())
}

pub fn list(what: What, registry: &Registry) -> Result<(), Failure> {
    let lines: Vec<(String, String)> = match what {
        What::Tokenizers => registry
            .tokenizers()
            .map(|t| (t.kind().into(), t.summary().into()))
            .collect(),
        What::Features => registry
            .features()
            .map(|f| (f.kind().into(), f.summary().into()))
            .collect(),
        What::Datasets => data::DATASETS
            .iter()
            .map(|d| (d.kind.into(), d.summary.into()))
            .collect(),
        What::Backbones => vit::PRESETS
            .iter()
            .map(|p| (p.name.into(), p.summary()))
            .collect(),
        What::Metrics => metrics::METRICS
            .iter()
            .map(|m| (m.name.into(), m.summary()))
            .collect(),
        What::Tables => tessera_reports::tables()
            .iter()
            .map(|t| (t.number.to_string(), t.title.into()))
            .collect(),
    };
    terminal::output(format_args!("{}", aligned(&lines)))?;
    Ok(())
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
