//! The footnotes of a table, which a reader needs to compare its numbers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::about::TableContext;
use super::remarks;
use super::rows::{Row, base_of};
use super::told::{Settings, by_frequency};
use crate::chance::PERMUTATIONS;
use crate::columns::{Comparison, Record};
use crate::evaluations::{EVALUATIONS, Evaluation, capitalised, is_trained};
use crate::paired::SIGNIFICANT;
use crate::paper::{CLOSEST_T, closest_reading};
use crate::table::Cell;

/// Returns the footnotes, one line each.
pub fn footnotes(deltas: bool, rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut notes = settings(rows);
    notes.extend(recipes(rows));
    notes.extend(remarks::fewer_seeds(deltas).footnote(rows));
    if rows
        .iter()
        .flat_map(|r| &r.records)
        .any(|r| r.tcas.is_some())
    {
        notes.push(format!("TCAS is equation 8 with probability rows (`tcas`); its null is its mean under {PERMUTATIONS} permutations of the images' labels. Compare codebooks of different sizes by the distance from the null; its ± is a standard error."));
    }
    notes.extend(closest(rows));
    let on_metrics = remarks::at_chance(cx).chain([remarks::few()]);
    notes.extend(on_metrics.filter_map(|remark| remark.footnote(rows)));
    notes.extend(fits(rows));
    notes.extend(pooling(rows));
    notes.extend(precision(rows));
    notes.extend(remarks::unconverged().footnote(rows));
    notes.extend(deltas.then(|| against(rows, cx)).flatten());
    let on_origin = [remarks::of_checkpoints(), remarks::labelled()];
    notes.extend(on_origin.iter().filter_map(|remark| remark.footnote(rows)));
    let settings = Settings::of(rows);
    for row in rows {
        let overrides = cx.overrides_of(row);
        notes.extend(overrides.map(|what| format!("{}: {what}.", settings.label(row))));
    }
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

/// Lists the recipe hashes. Rows with equal hashes and precision have the same training and evaluation.
fn recipes(rows: &[Row<'_>]) -> Option<String> {
    let hash = |row: &Row<'_>| Some(row.first().recipe_hash.clone()).filter(|h| !h.is_empty());
    Some(format!("Recipe {}.", most_first(rows, hash)?))
}

/// Returns what `of` says of most rows, and after it what it says of others, with their names: `a; b: row, row`.
fn most_first(rows: &[Row<'_>], of: impl Fn(&Row<'_>) -> Option<String>) -> Option<String> {
    let groups = by_frequency(rows, of);
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
    let (mut with, mut without): (Vec<String>, Vec<String>) = Default::default();
    for base in rows
        .iter()
        .filter_map(|row| base_of(rows, row, cx.baseline.as_deref()))
    {
        let name = format!("“{}”", settings.label(base));
        let has = EVALUATIONS
            .iter()
            .any(|evaluation| base.accuracy(evaluation) != Cell::Empty);
        let bases = if has { &mut with } else { &mut without };
        if !bases.contains(&name) {
            bases.push(name);
        }
    }
    let said = (!with.is_empty())
        .then(|| format!("Deltas are against {}.{}", with.join("; "), marks(rows, cx)));
    let missing = (!without.is_empty()).then(|| {
        let names = without.join("; ");
        format!("There are no deltas against {names}, which has no accuracies.")
    });
    let all: Vec<String> = said.into_iter().chain(missing).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

/// Explains the marks of table 1. Rows may have different numbers of seeds.
fn marks(rows: &[Row<'_>], cx: &TableContext) -> String {
    let others = cx.others.iter().flat_map(|run| &run.comparisons);
    let over = cx.comparisons.iter().chain(others);
    let over = over.filter(|c| c.seed.is_none());
    let of_encoder = |c: &&Comparison| {
        let mut all = EVALUATIONS.iter();
        all.all(|e| e.of_encoder || e.key != c.evaluation)
    };
    let (trained, bags): (Vec<&Comparison>, Vec<_>) = over.partition(of_encoder);
    let seeds: BTreeSet<usize> = trained.iter().map(|c| c.seeds).collect();
    let (of_runs, of_added) = match cx.others.is_empty() {
        true => ("", ""),
        false => (
            " of each run",
            "; of an added run, computed with its own row of that name",
        ),
    };
    let several: Vec<String> = seeds
        .iter()
        .filter(|n| **n > 1)
        .map(usize::to_string)
        .collect();
    let mut notes = String::new();
    if !several.is_empty() || !bags.is_empty() {
        let (of, and) = match several.is_empty() {
            true => (String::new(), ""),
            false => (
                format!(
                    " of the mean difference over {} seeds",
                    several.join(" or ")
                ),
                " and Student's t over images and seeds",
            ),
        };
        let _ = write!(
            notes,
            " *: p < {SIGNIFICANT}{of}, exact sign-flip test over the validation images{and}, Holm over the rows{of_runs}, and a 95 % interval \
             without 0 (`comparisons.csv`{of_added}).",
        );
    }
    if seeds.contains(&1) {
        notes.push_str(
            " Differences of one seed have no marks: a test on the images (McNemar's, in `comparisons.csv`) compares two trained models and \
             not their tokenizers, because it leaves out the variation between seeds.",
        );
    }
    if !bags.is_empty() {
        notes.push_str(
            " A bag of tokens is the same for every seed and has marks only between rows without a fitted or drawn codebook, because a test on the \
             images leaves out the variation between fits.",
        );
    }
    if let Some(note) = remarks::not_tested(true, rows, cx).footnote(rows) {
        let _ = write!(notes, " {note}");
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
        let note = setting(first, &name, &BTreeSet::from_iter(seeds));
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Describes a setting whose rows have these numbers of seeds.
fn setting(record: &Record, dataset: &str, seeds: &BTreeSet<usize>) -> String {
    let several = |n: usize| format!("{n} seeds, mean ± standard deviation");
    let seeds = match (seeds.first(), seeds.last()) {
        (Some(least), Some(&most)) if *least < most => format!("{least} to {}", several(most)),
        (_, Some(&most)) if most > 1 => several(most),
        _ => "1 seed".to_owned(),
    };
    let skipped = match record.skipped_images {
        0 => String::new(),
        n => format!(" {n} images are left out."),
    };
    format!(
        "{dataset}: {} train and {} val images, class list {}, {} px, patches of {} px, ViT {}; {seeds}.{skipped}",
        record.n_train,
        record.n_val,
        record.class_list_hash,
        record.image_size,
        record.patch_size,
        record.backbone,
    )
}

/// Whether a random codebook is that of a version that drew it once, whatever the suite's `fit_seeds`.
fn was_drawn(record: &Record) -> bool {
    record.is_drawn() && record.fit_seeds.is_empty()
}

/// Says what the errors of metrics of fitted codebooks cover.
fn fits(rows: &[Row<'_>]) -> Vec<String> {
    let fitted = |r: &&Row<'_>| r.first().tcas.is_some() && r.first().fits() > 0;
    let settings = Settings::of(rows);
    let mut groups: Vec<(&Record, Vec<String>)> = Vec::new();
    for row in rows.iter().filter(fitted) {
        // Of one fit, the seed does not matter; older runs do not state it.
        let of = |r: &Record| {
            let seeds = (r.fits() > 1).then(|| r.fit_seeds.clone());
            (r.fits(), seeds, was_drawn(r))
        };
        let same = |(first, _): &&mut (&Record, Vec<String>)| of(first) == of(row.first());
        match groups.iter_mut().find(same) {
            Some((_, names)) => names.push(settings.label(row)),
            None => groups.push((row.first(), vec![settings.label(row)])),
        }
    }
    let note = |(first, names): (&Record, Vec<String>)| {
        let names = names.join("; ");
        match first.fits() {
            1 if was_drawn(first) => format!(
                "Codebooks drawn once, by an earlier version, so that errors of their metrics leave out how much another draw would move them (a run \
                 of this version includes it by `fit_seeds`): {names}."
            ),
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
