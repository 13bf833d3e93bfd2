//! The records of one tokenizer over its seeds.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::{Excess, TCAS};
use crate::columns::{MetricRow, Record};
use crate::evaluations::Evaluation;
use crate::seeds::mean_sd;
use crate::table::Cell;

/// One tokenizer's records in one setting.
pub struct Row<'a> {
    /// Its name.
    pub name: String,
    /// One per seed, at least one.
    pub records: Vec<&'a Record>,
}

/// Groups records by tokenizer and setting (suite, images, backbone, recipe), in order of first appearance.
pub fn grouped(records: &[Record]) -> Vec<Row<'_>> {
    divided(records).0
}

/// Returns a note on the records that `grouped` leaves out, because an earlier one has their row, setting and seed.
pub fn left_out(records: &[Record]) -> Option<String> {
    let (_, repeated) = divided(records);
    let name = |record: &&Record| {
        let images = short_fingerprint(record);
        let Record {
            tokenizer,
            dataset,
            seed,
            ..
        } = record;
        format!("{tokenizer}, seed {seed}, {dataset} (images {images})")
    };
    let names: Vec<String> = repeated.iter().map(name).collect();
    let what =
        "Left out, because an earlier run has the row with the same suite, recipe, images and seed";
    (!names.is_empty()).then(|| format!("{what}: {}.", names.join("; ")))
}

/// Returns the rows, and the records whose row has a record of their seed already.
fn divided(records: &[Record]) -> (Vec<Row<'_>>, Vec<&Record>) {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut repeated = Vec::new();
    for record in records {
        let same = |r: &&mut Row<'_>| {
            let first = r.first();
            r.name == record.tokenizer
                && first.suite == record.suite
                && first.recipe_hash == record.recipe_hash
                && setting(first) == setting(record)
        };
        match rows.iter_mut().find(same) {
            // Of several runs, the first record of a seed counts.
            Some(row) if row.records.iter().any(|r| r.seed == record.seed) => {
                repeated.push(record);
            }
            Some(row) => row.records.push(record),
            None => rows.push(Row {
                name: record.tokenizer.clone(),
                records: vec![record],
            }),
        }
    }
    (rows, repeated)
}

/// Returns the baseline of the suite and setting of `row`: the row `named`, otherwise an identity row or the row without pretraining.
pub fn base_of<'a>(rows: &'a [Row<'a>], row: &Row<'_>, named: Option<&str>) -> Option<&'a Row<'a>> {
    let same = |r: &&Row<'_>| r.first().suite == row.first().suite && r.setting() == row.setting();
    let first = |is: &dyn Fn(&Row<'_>) -> bool| rows.iter().filter(same).find(|r| is(r));
    // Older run folders do not name the baseline, so the name of the row decides.
    let is_identity =
        |r: &Row<'_>| r.first().kind == "continuous" && r.name.to_lowercase().contains("identity");
    first(&|r| named == Some(&r.name))
        .or_else(|| first(&is_identity))
        .or_else(|| first(&|r| r.first().is_random()))
}

fn setting(record: &Record) -> String {
    let images = &record.dataset_fingerprint;
    format!("{} {images} ViT-{}", record.dataset, record.backbone)
}

/// The datasets of some rows. Several may have the same name, as folders of different projects do.
pub struct Datasets(BTreeMap<String, BTreeSet<String>>);

impl Datasets {
    /// Collects the datasets of `rows`.
    pub fn of(rows: &[Row<'_>]) -> Self {
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for first in rows.iter().map(Row::first) {
            let images = all.entry(first.dataset.clone()).or_default();
            images.insert(first.dataset_fingerprint.clone());
        }
        Self(all)
    }

    /// Returns the name of a record's dataset, with the images' fingerprint if others have the name.
    pub fn name(&self, record: &Record) -> String {
        let name = &record.dataset;
        match self.0.get(name).map_or(0, BTreeSet::len) {
            0 | 1 => name.clone(),
            _ => format!("{name} (images {})", short_fingerprint(record)),
        }
    }
}

/// Returns the first digits of the images' fingerprint.
fn short_fingerprint(record: &Record) -> &str {
    match record.dataset_fingerprint.as_str() {
        "" => "unknown",
        known => known.get(..8).unwrap_or(known),
    }
}

/// Sorts rows by setting, settings in order of first appearance.
pub fn by_setting<'a>(rows: &'a [Row<'a>]) -> Vec<&'a Row<'a>> {
    let mut settings: Vec<String> = Vec::new();
    for row in rows {
        if !settings.contains(&row.setting()) {
            settings.push(row.setting());
        }
    }
    let of = |setting: &String| {
        let setting = setting.clone();
        rows.iter().filter(move |r| r.setting() == setting)
    };
    settings.iter().flat_map(of).collect()
}

impl<'a> Row<'a> {
    /// Returns the record of the first seed.
    pub fn first(&self) -> &'a Record {
        self.records[0]
    }

    /// Returns dataset, images and backbone. Rows of the same setting are compared.
    pub fn setting(&self) -> String {
        setting(self.first())
    }

    /// Returns the name without the size, which the rows of a sweep share.
    pub fn family(&self) -> &str {
        let cut = self.name.find(", K=").or_else(|| self.name.find(" K="));
        &self.name[..cut.unwrap_or(self.name.len())]
    }

    fn values(&self, of: impl Fn(&Record) -> Option<f64>) -> Vec<f64> {
        self.records.iter().filter_map(|r| of(r)).collect()
    }

    /// Returns the mean over the seeds.
    pub fn mean(&self, of: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
        mean_sd(&self.values(of)).map(|(mean, _)| mean)
    }

    /// Returns the mean difference to `base` over the seeds that both have.
    pub fn ahead_of(&self, base: &Row<'_>, of: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
        let difference = |r: &&Record| {
            let other = base.records.iter().find(|b| b.seed == r.seed)?;
            Some(of(r)? - of(other)?)
        };
        let all: Vec<f64> = self.records.iter().filter_map(difference).collect();
        mean_sd(&all).map(|(mean, _)| mean)
    }

    /// Returns the mean in percent, with the standard deviation if there are several seeds.
    pub fn accuracy(&self, evaluation: &Evaluation) -> Cell {
        let Some((mean, sd)) = evaluation.over_seeds(self.records.iter().copied()) else {
            return Cell::Empty;
        };
        Cell::Number {
            mean,
            sd,
            decimals: 1,
        }
    }

    /// Returns a training-free metric, which all seeds share.
    pub fn metric(&self, of: impl Fn(&Record) -> Option<f64>) -> Cell {
        match self.mean(of) {
            Some(mean) => Cell::Number {
                mean,
                sd: None,
                decimals: 3,
            },
            None => Cell::Empty,
        }
    }

    /// Returns the distance of TCAS from its null, with its standard error if `metrics` has it.
    pub fn below_null(&self, metrics: &[MetricRow]) -> Cell {
        match Excess::of(self.first(), metrics, TCAS) {
            Some(excess) => Cell::Number {
                mean: excess.value,
                sd: Some(excess.se),
                decimals: 3,
            },
            None => self.metric(|r| Some(r.tcas_null? - r.tcas?)),
        }
    }

    /// Returns the number of used codes.
    pub fn used(&self) -> Cell {
        Cell::count(self.first().codebook_used)
    }

    /// Returns the worst status of its records.
    pub fn status(&self) -> &'static str {
        let is_any = |status: &&str| self.records.iter().any(|r| r.status == *status);
        let order = ["failed", "skipped", "pending"];
        order.into_iter().find(is_any).unwrap_or("ok")
    }

    /// Returns the error of the first record with the worst status.
    pub fn error(&self) -> &'a str {
        let status = self.status();
        let worst = self.records.iter().find(|r| r.status == status);
        worst.map_or("", |r| r.error.as_str())
    }

    /// Returns the status, if it is not `ok`.
    pub fn problem(&self) -> Cell {
        match self.status() {
            "ok" => Cell::Empty,
            problem => Cell::text(problem),
        }
    }
}
