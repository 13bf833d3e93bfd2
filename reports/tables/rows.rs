//! The records of one tokenizer over its seeds.

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

/// Groups records by tokenizer and setting (suite, dataset, backbone, recipe), in order of first appearance.
pub fn grouped(records: &[Record]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
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
            Some(row) if row.records.iter().any(|r| r.seed == record.seed) => (),
            Some(row) => row.records.push(record),
            None => rows.push(Row {
                name: record.tokenizer.clone(),
                records: vec![record],
            }),
        }
    }
    rows
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
    format!("{} ViT-{}", record.dataset, record.backbone)
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

    /// Returns dataset and backbone. Rows of the same setting are compared.
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
