//! `metrics`: computes the training-free metrics of a row's counts, with chance level and standard error.

use serde_json::{Value, json};
use tessera_reports::{Column, Group, Record};

use super::common::context::StageError;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Done, Inputs, Produced, Product, Stage, unreadable};
use super::count::{ARRANGEMENT, Counted, counted, interruption};
use crate::metrics::uncertainty::memory;
use crate::metrics::{Counts, Estimate, VERSION, estimate};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

/// The metrics of a row with ids.
pub struct Metrics<'a> {
    /// The row.
    pub row: &'a Row,
    /// Index of the fit.
    pub fit: usize,
    /// Temperature of `tcas_sharp`.
    pub sharp_t: f64,
}

impl Stage for Metrics<'_> {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![Artifact::Counts(&self.row.name, self.fit)]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        // The key of the counts holds the instruction set, on which the C library's logarithms depend (tests/older-cpu.sh).
        let count = &on.counts()?.key;
        Ok(json!({"version": VERSION, "count": count, "tcas_sharp_t": self.sharp_t}))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        // Seventeen metrics of a table with five numbers each.
        const RESULT: f64 = 2900.0;
        let [train, _] = rates.images.counts();
        let classes = rates.images.scan.classes.len();
        Ok(Cost {
            seconds: rates.metrics(self.row)?,
            memory: rates.base() + memory(classes, train) as f64,
            disk: rates.disk(RESULT * rates.counted(self.row).len() as f64, 0.0, 0),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let entry = on.counts()?;
        let places: Vec<Estimate> = serde_json::from_value(entry.result[ARRANGEMENT].clone())?;
        let mut all = Vec::new();
        for Counted { group, folder } in counted(entry)? {
            let counts = Counts::open(&folder)?;
            let stop = || on.cx.interrupted();
            let estimates = estimate(&counts, self.sharp_t, 0, work.out, &stop);
            let estimates = estimates.map_err(interruption)?.into_iter();
            all.extend(estimates.map(|one| Estimate { group, ..one }));
            all.extend(places.iter().filter(|one| one.group == group).cloned());
        }
        Ok(json!(all))
    }

    fn product<'a>(&self, _: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        let estimates = serde_json::from_value(entry.result.clone());
        Ok(Product::Metrics(estimates.map_err(unreadable)?))
    }

    /// Writes every metric into its column, and its chance level into the column `NAME_null` if there is one.
    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.tcas_sharp_t = Some(self.sharp_t);
        match &done.product {
            Product::Metrics(estimates) => enter(estimates, record),
            _ => Ok(()),
        }
    }
}

/// Writes estimates of ids or of the joint code into their columns. Counts are rounded, because a mean over fits may not be whole.
///
/// # Errors
/// If a column does not exist.
pub fn enter(estimates: &[Estimate], record: &mut Record) -> anyhow::Result<()> {
    for Estimate {
        metric,
        value,
        null_mean,
        ..
    } in estimates.iter().filter(|one| one.group.is_none())
    {
        let is_count = |c: &&Column| c.name == *metric && c.group == Group::Count;
        let rounded = Record::metrics().any(|c| is_count(&c));
        let value = value.map(|value| if rounded { value.round() } else { value });
        record.set(metric, value)?;
        record.set_if_known(&format!("{metric}_null"), *null_mean)?;
    }
    Ok(())
}
