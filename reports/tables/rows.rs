//! The records of one tokenizer over its seeds.

use serde_json::Value;

use crate::apart::rows_differ;
use crate::chance::{Excess, Metrics, TCAS};
use crate::columns::Record;
use crate::evaluations::Evaluation;
use crate::seeds::{ahead, mean_sd, minus};
use crate::table::Cell;

/// One tokenizer's records in one setting.
pub struct Row<'a> {
    /// Its name.
    pub name: String,
    /// One per seed, at least one.
    pub records: Vec<&'a Record>,
}

/// Groups records by tokenizer, setting (suite, images, backbone, sizes) and recipe, in order of first appearance. Two runs may call different tokenizers by
/// one name, or compute a row in another precision: those are different rows.
pub fn grouped(records: &[Record]) -> Vec<Row<'_>> {
    divided(records).rows
}

/// Returns a note on the records that `grouped` leaves out, because another one has their row, setting and seed.
pub fn left_out(records: &[Record]) -> Option<String> {
    let Divided {
        repeated, replaced, ..
    } = divided(records);
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
    let note = |what: &str, records: Vec<&Record>| {
        let names: Vec<String> = records.iter().map(name).collect();
        (!names.is_empty()).then(|| format!("{what}: {}.", names.join("; ")))
    };
    let what = "an earlier run has the row with the same suite, recipe, images, tokenizer and seed";
    let notes = [
        note(&format!("Left out, because {what}"), repeated),
        note(
            &format!("Taken from a later run, because {what}, but has not finished it"),
            replaced,
        ),
    ];
    let notes = Vec::from_iter(notes.into_iter().flatten()).join(" ");
    (!notes.is_empty()).then_some(notes)
}

/// Records by row.
#[derive(Default)]
struct Divided<'a> {
    rows: Vec<Row<'a>>,
    /// Records whose row has a record of their seed already.
    repeated: Vec<&'a Record>,
    /// Finished records in the place of earlier ones that are not.
    replaced: Vec<&'a Record>,
}

fn divided(records: &[Record]) -> Divided<'_> {
    let mut all = Divided::default();
    for record in records {
        let same = |r: &&mut Row<'_>| {
            let first = r.first();
            r.name == record.tokenizer
                && first.recipe_hash == record.recipe_hash
                && setting(first) == setting(record)
                && rows_differ(first, record).is_empty()
        };
        let Some(row) = all.rows.iter_mut().find(same) else {
            all.rows.push(Row {
                name: record.tokenizer.clone(),
                records: vec![record],
            });
            continue;
        };
        match row.records.iter_mut().find(|r| r.seed == record.seed) {
            None => row.records.push(record),
            // Of several runs, the first finished record of a seed counts.
            Some(kept) if kept.status != "ok" && record.status == "ok" => {
                *kept = record;
                all.replaced.push(record);
            }
            Some(_) => all.repeated.push(record),
        }
    }
    all
}

/// Returns the baseline of the setting of `row`: the row `named`, otherwise an identity row or the row without pretraining. If several runs
/// have one, that with the recipe of `row`.
pub fn base_of<'a>(rows: &'a [Row<'a>], row: &Row<'_>, named: Option<&str>) -> Option<&'a Row<'a>> {
    let setting = row.setting();
    let first = |is: &dyn Fn(&Row<'_>) -> bool| {
        let mut all = rows.iter().filter(|r| is(r) && r.setting() == setting);
        let any = all.next()?;
        let all: Vec<&Row<'_>> = [any].into_iter().chain(all).collect();
        let recipe = |r: &Row<'_>| r.first().recipe_hash == row.first().recipe_hash;
        let precision = |r: &Row<'_>| recipe(r) && r.first().dtype == row.first().dtype;
        let found = |is: &dyn Fn(&Row<'_>) -> bool| all.iter().copied().find(|r| is(r));
        Some(found(&precision).or_else(|| found(&recipe)).unwrap_or(any))
    };
    // Older run folders do not name the baseline, so the name of the row decides.
    let is_identity =
        |r: &Row<'_>| r.first().kind == "continuous" && r.name.to_lowercase().contains("identity");
    first(&|r| named == Some(&r.name))
        .or_else(|| first(&is_identity))
        .or_else(|| first(&|r| r.first().is_random()))
}

fn setting(record: &Record) -> String {
    let Record {
        suite,
        dataset,
        dataset_fingerprint: images,
        backbone,
        image_size,
        patch_size,
        ..
    } = record;
    format!("{dataset} {images} ViT-{backbone} {image_size} {patch_size} {suite}")
}

/// Returns a whole number among the fields of the row's tokenizer.
fn stated(record: &Record, field: &str) -> Option<usize> {
    let fields: Value = serde_json::from_str(&record.fields).ok()?;
    fields[field].as_u64()?.try_into().ok()
}

/// Returns the first digits of the images' fingerprint.
pub(super) fn short_fingerprint(record: &Record) -> &str {
    match record.dataset_fingerprint.as_str() {
        "" => "unknown",
        known => known.get(..8).unwrap_or(known),
    }
}

/// Sorts rows by setting, settings in order of first appearance.
pub fn by_setting(mut rows: Vec<Row<'_>>) -> Vec<Row<'_>> {
    let mut settings: Vec<String> = Vec::new();
    for row in &rows {
        if !settings.contains(&row.setting()) {
            settings.push(row.setting());
        }
    }
    rows.sort_by_key(|row| settings.iter().position(|s| *s == row.setting()));
    rows
}

impl<'a> Row<'a> {
    /// Returns the record of the first seed.
    pub fn first(&self) -> &'a Record {
        self.records[0]
    }

    /// Returns dataset, images, backbone, sizes and suite. Rows of the same setting are compared.
    pub fn setting(&self) -> String {
        setting(self.first())
    }

    /// Returns whether it is this row.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.first(), other.first())
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

    /// Returns the mean difference to `base` over the seeds that both have, and the number of these seeds.
    pub fn ahead_of(
        &self,
        base: &Row<'_>,
        of: impl Fn(&Record) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        ahead(&self.records, &base.records, of)
    }

    /// Returns the mean in percent, with the standard deviation if there are several seeds.
    pub fn accuracy(&self, evaluation: &Evaluation) -> Cell {
        let Some((mean, sd)) = evaluation.over_seeds(self.records.iter().copied()) else {
            return Cell::Empty;
        };
        Cell::Number {
            mean,
            sd,
            whole: true,
            decimals: 1,
        }
    }

    /// Returns a training-free metric, which all seeds share.
    pub fn metric(&self, of: impl Fn(&Record) -> Option<f64>) -> Cell {
        match self.mean(of) {
            Some(mean) => Cell::Number {
                mean,
                sd: None,
                whole: true,
                decimals: 3,
            },
            None => Cell::Empty,
        }
    }

    /// Returns the distance of TCAS from its null, with its standard error if `metrics` has it.
    pub fn below_null(&self, metrics: &Metrics) -> Cell {
        match Excess::of(self.first(), metrics.of(self.first()), TCAS) {
            Some(excess) => Cell::Number {
                mean: excess.value,
                sd: Some(excess.se),
                whole: self.first().fits() != 1,
                decimals: 3,
            },
            None => self.metric(|r| Some(minus(r.tcas_null?, r.tcas?))),
        }
    }

    /// Returns the size of the codebook; of a row without results, what the suite says.
    pub fn codes(&self) -> Option<usize> {
        let first = self.first();
        let field = match first.kind.as_str() {
            "kmeans" => "k",
            _ => "codebook_size",
        };
        first.codebook_size.or_else(|| stated(first, field))
    }

    /// Returns the passes of K-means, likewise.
    pub fn passes(&self) -> Option<usize> {
        let first = self.first();
        let stated = || stated(first, "epochs").filter(|_| first.kind == "kmeans");
        first.kmeans_epochs.or_else(stated)
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
