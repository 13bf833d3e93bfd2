//! `metrics`: the training-free metrics of a row's counts, each with its value by chance and its error.

use std::io;

use serde_json::{Value, json};
use tessera_reports::Record;

use super::common::context::StageError;
use super::common::rates::{BASE, Cost, Rates};
use super::common::stage::{Artifact, Done, Inputs, Product, Stage, unreadable};
use crate::metrics::{Counts, estimate};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

const VERSION: u32 = 2;

/// The metrics of a row with ids.
pub struct Metrics<'a> {
    /// The row.
    pub row: &'a Row,
    /// Temperature of `tcas_sharp`.
    pub sharp_t: f64,
}

impl Stage for Metrics<'_> {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn label(&self) -> String {
        self.row.name.clone()
    }

    fn needs(&self) -> Vec<Artifact> {
        vec![Artifact::Counts(self.row.name.clone())]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let count = &on.counts()?.key;
        Ok(json!({"version": VERSION, "count": count, "tcas_sharp_t": self.sharp_t}))
    }

    fn cost(&self, _: &Rates<'_>) -> anyhow::Result<Cost> {
        Ok(Cost::of_memory(BASE))
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let counts = Counts::open(&on.counts()?.dir)?;
        let stop = || on.cx.interrupted();
        let estimates = estimate(&counts, self.sharp_t, 0, work.state, &stop);
        Ok(json!(estimates.map_err(interruption)?))
    }

    fn product<'a>(
        &self,
        _: &Inputs<'a>,
        entry: Option<&Entry>,
    ) -> Result<Product<'a>, StageError> {
        let Some(entry) = entry else {
            return Ok(Product::Nothing);
        };
        let estimates = serde_json::from_value(entry.result.clone());
        Ok(Product::Metrics(estimates.map_err(unreadable)?))
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) {
        record.tcas_sharp_t = Some(self.sharp_t);
        let Product::Metrics(estimates) = &done.product else {
            return;
        };
        for estimate in estimates {
            let value = estimate.value;
            match estimate.metric.as_str() {
                "tcas" => (record.tcas, record.tcas_null) = (value, estimate.null_mean),
                "tcas_norm" => record.tcas_norm = value,
                "tcas_softmax" => record.tcas_softmax = value,
                "tcas_sharp" => record.tcas_sharp = value,
                "codebook_used" => record.codebook_used = value.map(|v| v as usize),
                "perplexity" => record.perplexity = value,
                "mi" => record.mi = value,
                "pnmi" => (record.pnmi, record.pnmi_null) = (value, estimate.null_mean),
                "nmi" => record.nmi = value,
                "token_purity" => record.token_purity = value,
                "class_purity" => record.class_purity = value,
                "alpha" => record.alpha = value,
                "eig_sq_sum" => record.eig_sq_sum = value,
                _ => {}
            }
        }
    }
}

/// An interruption that says so to the run.
fn interruption(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => tessera_models::Error::Interrupted.into(),
        _ => error.into(),
    }
}
