//! The footnotes of a table, which a reader needs to compare its numbers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::about::TableContext;
use super::rows::{Row, base_of};
use super::told::Settings;
use crate::chance::{ENOUGH, Excess, SHOWN, few_patches};
use crate::column::Column;
use crate::columns::Record;
use crate::evaluations::{EVALUATIONS, Evaluation, capitalised, is_trained, over_fewer_seeds};
use crate::paired::SIGNIFICANT;
use crate::paper::{CLOSEST_T, closest_reading};

/// Permutations of the images' labels behind the null of a metric.
pub const PERMUTATIONS: u64 = 20;

/// Returns the footnotes, one line each.
pub fn footnotes(deltas: bool, rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut notes = settings(rows);
    notes.extend(recipes(rows));
    notes.extend(fewer_seeds(deltas, rows));
    if rows
        .iter()
        .flat_map(|r| &r.records)
        .any(|r| r.tcas.is_some())
    {
        notes.push(format!("TCAS is equation 8 with probability rows (`tcas`); its null is its mean under {PERMUTATIONS} permutations of the images' labels. Compare codebooks of different sizes by the distance from the null."));
    }
    notes.extend(closest(rows));
    notes.extend(at_chance(rows, cx));
    let few = format!(
        "Fewer than {ENOUGH} patches per code and class; compare the distance from the null, not TCAS or PNMI (patches)"
    );
    notes.extend(named(&few, rows, |r| {
        few_patches(r).map(|each| format!(" ({each:.0})"))
    }));
    notes.extend(fits(rows));
    notes.extend(pooling(rows));
    notes.extend(precision(rows));
    notes.extend(unconverged(rows));
    notes.extend(deltas.then(|| against(rows, cx)).flatten());
    notes.extend(named("Of checkpoints", rows, |r| {
        let taken = r
            .checkpoints()
            .map(|(what, taken)| format!("{what} of {taken}"));
        let taken = taken.collect::<Vec<_>>().join("; ");
        (!taken.is_empty()).then(|| format!(" ({taken})"))
    }));
    notes.extend(named("Built with labels", rows, |r| {
        r.saw_labels.then(String::new)
    }));
    let of_rows = |(name, _): &&(String, String)| rows.iter().any(|row| row.name == *name);
    let overrides = cx.overrides.iter().filter(of_rows);
    notes.extend(overrides.map(|(name, what)| format!("{name}: {what}.")));
    let settings = Settings::of(rows);
    for row in rows.iter().filter(|r| r.status() != "ok") {
        let name = settings.label(row);
        notes.push(format!("{name}: {} {}", row.status(), row.error()));
    }
    notes.extend(cx.notes.iter().cloned());
    notes
}

/// Explains the column of the closest reading of the paper's TCAS.
fn closest(rows: &[Row<'_>]) -> Option<String> {
    let mut records = rows.iter().flat_map(|row| &row.records);
    let any = records.any(|record| closest_reading(record).is_some());
    any.then(|| {
        format!(
            "“closest reading” is equation 8 with rows softmax(P / {CLOSEST_T}) (`tcas_sharp`): of all readings the closest to the \
             paper's TCAS on other images of 100 classes. The paper does not say how it computed its column, so no difference is shown."
        )
    })
}

/// Returns the vectors that the evaluations read.
fn pooling(rows: &[Row<'_>]) -> Option<String> {
    let of_row = |row: &Row<'_>| {
        let vector = |e: &Evaluation| {
            let pooling = e.pooling?(row.first());
            (!pooling.is_empty()).then(|| format!("{} on the {pooling} vector", e.title))
        };
        let all: Vec<String> = EVALUATIONS.iter().filter_map(vector).collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let text = capitalised(&most_first(rows, of_row)?);
    Some(format!("{text}; accuracies after the last epoch."))
}

/// Names the precision of training, unless it is f32 for every row.
fn precision(rows: &[Row<'_>]) -> Option<String> {
    let of_row = |row: &Row<'_>| {
        let dtype = &row.first().dtype;
        (!dtype.is_empty() && is_trained(row.first())).then(|| dtype.clone())
    };
    let text = most_first(rows, of_row).filter(|text| text != "f32")?;
    Some(format!("Trained in {text}."))
}

/// Lists rows whose linear probe has not converged in some seed, with the remaining fall of the training loss over the seeds.
fn unconverged(rows: &[Row<'_>]) -> Option<String> {
    let settings = Settings::of(rows);
    let of_row = |row: &Row<'_>| {
        let mut all = row.records.iter().filter(|r| r.lp_converged == "no");
        all.next()?;
        let falls = row.records.iter().filter(|r| !r.lp_converged.is_empty());
        let falls = falls.map(|r| r.lp_loss_fall.unwrap_or(f64::NAN));
        let (low, high) = (falls.clone().reduce(f64::min)?, falls.reduce(f64::max)?);
        let (low, high) = (format!("{low:.1}"), format!("{high:.1}"));
        let range = match low == high {
            true => high,
            false => format!("{low} to {high}"),
        };
        Some(format!("{} ({range} %)", settings.label(row)))
    };
    let names: Vec<String> = rows.iter().filter_map(of_row).collect();
    (!names.is_empty()).then(|| {
        format!(
            "The linear probe has not converged; one more step over all train images would lower its training loss by at least (over the seeds): {}. Other epochs or rates may rank these rows differently.",
            names.join("; ")
        )
    })
}

/// Lists the recipe hashes. Rows with equal hashes and precision have the same training and evaluation.
fn recipes(rows: &[Row<'_>]) -> Option<String> {
    let hash = |row: &Row<'_>| Some(row.first().recipe_hash.clone()).filter(|h| !h.is_empty());
    Some(format!("Recipe {}.", most_first(rows, hash)?))
}

/// Names rows whose means leave out seeds.
fn fewer_seeds(deltas: bool, rows: &[Row<'_>]) -> Option<String> {
    let settings = Settings::of(rows);
    let of_row = |row: &Row<'_>| {
        let fewer = over_fewer_seeds(&row.records)?;
        Some(format!("{} ({fewer})", settings.label(row)))
    };
    let names: Vec<String> = rows.iter().filter_map(of_row).collect();
    let both = match deltas {
        true => ", deltas over the seeds that both rows have",
        false => "",
    };
    (!names.is_empty()).then(|| format!("Means over fewer seeds{both}: {}.", names.join("; ")))
}

/// Returns what `of` says of most rows, and after it what it says of others, with their names: `a; b: row, row`.
fn most_first(rows: &[Row<'_>], of: impl Fn(&Row<'_>) -> Option<String>) -> Option<String> {
    let settings = Settings::of(rows);
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(said) = of(row) else { continue };
        let name = settings.label(row);
        match groups.iter_mut().find(|(s, _)| *s == said) {
            Some((_, names)) => names.push(name),
            None => groups.push((said, vec![name])),
        }
    }
    groups.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let (most, others) = groups.split_first()?;
    let others = others.iter();
    let others: String = others
        .map(|(said, names)| format!("; {said}: {}", names.join(", ")))
        .collect();
    Some(format!("{}{others}", most.0))
}

/// Names the rows with which the others are compared.
fn against(rows: &[Row<'_>], cx: &TableContext) -> Option<String> {
    let settings = Settings::of(rows);
    let mut bases: Vec<String> = Vec::new();
    for base in rows
        .iter()
        .filter_map(|row| base_of(rows, row, cx.baseline.as_deref()))
    {
        let name = format!("“{}”", settings.label(base));
        if !bases.contains(&name) {
            bases.push(name);
        }
    }
    let names = bases.join("; ");
    (!bases.is_empty()).then(|| format!("Deltas are against {names}.{}", marks(cx)))
}

/// Explains the marks of table 1. Rows may have different numbers of seeds.
fn marks(cx: &TableContext) -> String {
    let over = cx.comparisons.iter().filter(|c| c.seed.is_none());
    let seeds: BTreeSet<usize> = over.map(|c| c.seeds).collect();
    let several: Vec<String> = seeds
        .iter()
        .filter(|n| **n > 1)
        .map(usize::to_string)
        .collect();
    let mut notes = String::new();
    if !several.is_empty() {
        let _ = write!(
            notes,
            " *: p < {SIGNIFICANT}, exact sign-flip test over the validation images of the mean difference over {} seeds, Holm over the rows, and a 95 % interval \
             without 0 (`comparisons.csv`).",
            several.join(" or ")
        );
    }
    if seeds.contains(&1) {
        notes.push_str(
            " Differences of one seed have no marks: a test on the images (McNemar's, in `comparisons.csv`) compares two trained models and \
             not their tokenizers, because it leaves out the variation between seeds.",
        );
    }
    notes
}

/// Describes each setting in a line: images, classes, sizes and seeds.
fn settings(rows: &[Row<'_>]) -> Vec<String> {
    let settings = Settings::of(rows);
    let mut notes: Vec<String> = Vec::new();
    for row in rows {
        let first = row.first();
        let same = |r: &&Row<'_>| r.setting() == row.setting();
        let seeds = rows.iter().filter(same).map(|r| r.records.len());
        let name = settings.suite(first) + &settings.dataset(first);
        let note = setting(first, &name, seeds.max().unwrap_or(0));
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

fn setting(record: &Record, dataset: &str, seeds: usize) -> String {
    let spread = if seeds > 1 {
        "s, mean ± standard deviation"
    } else {
        ""
    };
    let skipped = match record.skipped_images {
        0 => String::new(),
        n => format!(" {n} images are left out."),
    };
    format!(
        "{dataset}: {} train and {} val images, class list {}, {} px, patches of {} px, ViT {}; {seeds} seed{spread}.{skipped}",
        record.n_train,
        record.n_val,
        record.class_list_hash,
        record.image_size,
        record.patch_size,
        record.backbone,
    )
}

/// Lists rows with a metric that is not shown to be better than its null.
fn at_chance(rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    let metrics = [
        ("TCAS", "below", const { Record::column("tcas") }),
        ("PNMI", "above", const { Record::column("pnmi") }),
    ];
    let of = |(title, side, column): (&str, &str, Column)| {
        let what = format!(
            "{title} is not {side} its null by more than {SHOWN} standard errors, so that it may be chance (distance ± error)"
        );
        named(&what, rows, |r| {
            let excess = Excess::of(r, &cx.metrics, &column)?;
            (!excess.is_shown()).then(|| format!(" ({})", excess.text()))
        })
    };
    metrics.into_iter().filter_map(of).collect()
}

/// Says what the errors of metrics of fitted codebooks cover.
fn fits(rows: &[Row<'_>]) -> Vec<String> {
    let fitted = |r: &&Row<'_>| r.first().tcas.is_some() && r.first().fits() > 0;
    let settings = Settings::of(rows);
    let mut groups: Vec<(&Record, Vec<String>)> = Vec::new();
    for row in rows.iter().filter(fitted) {
        let same =
            |(first, _): &&mut (&Record, Vec<String>)| first.fit_seeds == row.first().fit_seeds;
        match groups.iter_mut().find(same) {
            Some((_, names)) => names.push(settings.label(row)),
            None => groups.push((row.first(), vec![settings.label(row)])),
        }
    }
    let note = |(first, names): (&Record, Vec<String>)| {
        let names = names.join("; ");
        match first.fits() {
            1 => format!(
                "Codebooks fitted once, so that errors of their metrics leave out how much another fit would move them \
                 (`fit_seeds: [0, 1, 2]` in the suite includes it): {names}."
            ),
            _ => format!(
                "Metrics are means over codebooks fitted with the seeds {}, with errors over images and fits; pretraining uses the \
                 first: {names}.",
                first.fit_seeds.replace(' ', ", ")
            ),
        }
    };
    groups.into_iter().map(note).collect()
}

/// Returns `what: row; row.` with the rows for which `of` returns a remark.
fn named(what: &str, rows: &[Row<'_>], of: impl Fn(&Record) -> Option<String>) -> Option<String> {
    let settings = Settings::of(rows);
    let names: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}{}", settings.label(row), of(row.first())?)))
        .collect();
    (!names.is_empty()).then(|| format!("{what}: {}.", names.join("; ")))
}
