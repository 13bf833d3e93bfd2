//! The footnotes of a table, which a reader needs to compare its numbers.

use super::about::TableContext;
use super::rows::{Row, base_of};
use crate::columns::Record;
use crate::evaluations::{EVALUATIONS, Evaluation, capitalised};
use crate::paired::SIGNIFICANT;

/// Patches per used code and class below which the metrics are mostly sampling noise.
const FEW_PATCHES: usize = 100;
/// Difference between TCAS and its null below which TCAS is hardly informative.
pub const NEAR_NULL: f64 = 0.02;

/// Permutations of the images' labels behind the null of a metric.
pub const PERMUTATIONS: u64 = 20;

/// Returns the footnotes, one line each.
pub fn footnotes(deltas: bool, rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut notes = settings(rows);
    notes.extend(recipes(rows));
    if rows
        .iter()
        .flat_map(|r| &r.records)
        .any(|r| r.tcas.is_some())
    {
        notes.push(format!("TCAS is equation 8 with probability rows (`tcas`); its null is its mean under {PERMUTATIONS} permutations of the images' labels."));
    }
    notes.extend(sampling(rows));
    notes.extend(pooling(rows));
    notes.extend(unconverged(rows));
    let base = base_of(rows, &rows[0], cx.baseline.as_deref());
    if let Some(base) = base.filter(|_| deltas) {
        notes.push(format!("Deltas are against “{}”.{}", base.name, marks(cx)));
    }
    notes.extend(named("Built with labels", rows, |r| {
        r.saw_labels.then(String::new)
    }));
    notes.extend(
        cx.overrides
            .iter()
            .map(|(name, what)| format!("{name}: {what}.")),
    );
    for row in rows.iter().filter(|r| r.status() != "ok") {
        notes.push(format!("{}: {} {}", row.name, row.status(), row.error()));
    }
    notes.extend(cx.notes.iter().cloned());
    notes
}

/// Returns the vectors that the evaluations read, from the first row that has any.
fn pooling(rows: &[Row<'_>]) -> Option<String> {
    let of_row = |row: &Row<'_>| {
        let vector = |e: &Evaluation| {
            let pooling = e.pooling?(row.first());
            (!pooling.is_empty()).then(|| format!("{} on the {pooling} vector", e.title))
        };
        let all: Vec<String> = EVALUATIONS.iter().filter_map(vector).collect();
        (!all.is_empty()).then(|| capitalised(&all.join(", ")))
    };
    let text = rows.iter().find_map(of_row)?;
    Some(format!("{text}; accuracies after the last epoch."))
}

/// Lists rows whose linear probe has not converged in some seed, with the largest remaining fall of the training loss.
fn unconverged(rows: &[Row<'_>]) -> Option<String> {
    let of_row = |row: &Row<'_>| {
        let records = row.records.iter().filter(|r| r.lp_converged == "no");
        let falls: Vec<f64> = records
            .map(|r| r.lp_loss_fall.unwrap_or(f64::NAN))
            .collect();
        let most = falls.iter().copied().reduce(f64::max)?;
        Some(format!("{} ({most:.1} %)", row.name))
    };
    let names: Vec<String> = rows.iter().filter_map(of_row).collect();
    (!names.is_empty()).then(|| {
        format!(
            "The linear probe has not converged; one more step over all train images would lower its training loss by at least: {}. Other epochs or rates may rank these rows differently.",
            names.join("; ")
        )
    })
}

/// Lists the recipe hashes. Rows with equal hashes have the same training and evaluation.
fn recipes(rows: &[Row<'_>]) -> Option<String> {
    let mut by_hash: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows.iter().filter(|r| !r.first().recipe_hash.is_empty()) {
        let hash = row.first().recipe_hash.as_str();
        match by_hash.iter_mut().find(|(h, _)| *h == hash) {
            Some((_, names)) => names.push(&row.name),
            None => by_hash.push((hash, vec![&row.name])),
        }
    }
    by_hash.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let (common, others) = by_hash.split_first()?;
    let others = others
        .iter()
        .map(|(hash, names)| format!("; {hash}: {}", names.join(", ")));
    Some(format!(
        "Recipe {}{}.",
        common.0,
        others.collect::<String>()
    ))
}

/// Explains the marks of table 1.
fn marks(cx: &TableContext) -> String {
    let Some(seeds) = cx.comparisons.iter().map(|c| c.seeds).max() else {
        return String::new();
    };
    let test = match seeds {
        1 => "McNemar's exact test on the validation predictions".to_owned(),
        _ => format!(
            "bootstrap over the validation images of the mean difference over {seeds} seeds"
        ),
    };
    format!(" *: p < {SIGNIFICANT}, {test}, Holm over the rows (`comparisons.csv`).")
}

/// Describes each setting in a line: images, classes, sizes and seeds.
fn settings(rows: &[Row<'_>]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for row in rows {
        let first = row.first();
        let same = |r: &&Row<'_>| r.setting() == row.setting() && r.first().suite == first.suite;
        let seeds = rows.iter().filter(same).map(|r| r.records.len());
        let note = setting(first, seeds.max().unwrap_or(0));
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

fn setting(record: &Record, seeds: usize) -> String {
    let spread = if seeds > 1 {
        "s, mean ± standard deviation"
    } else {
        ""
    };
    let skipped = match record.skipped_images {
        0 => String::new(),
        n => format!(" {n} images did not decode and are left out."),
    };
    format!(
        "{}: {} train and {} val images, class list {}, {} px, patches of {} px, ViT {}; {seeds} seed{spread}.{skipped}",
        record.dataset,
        record.n_train,
        record.n_val,
        record.class_list_hash,
        record.image_size,
        record.patch_size,
        record.backbone,
    )
}

/// Lists rows whose metrics are mostly noise or close to their nulls.
fn sampling(rows: &[Row<'_>]) -> Vec<String> {
    let few = named(
        &format!(
            "Fewer than {FEW_PATCHES} patches per used code and class, so that TCAS and PNMI are mostly sampling noise; compare with the null"
        ),
        rows,
        |r| {
            let per_image = (r.image_size / r.patch_size.max(1)).pow(2);
            let patches = r.n_train * per_image / (r.codebook_used? * r.n_classes).max(1);
            (patches < FEW_PATCHES).then(|| format!(" ({patches})"))
        },
    );
    let near = named(
        &format!("TCAS within {NEAR_NULL} of its null, the mean under permuted labels"),
        rows,
        |r| {
            let excess = r.tcas_null? - r.tcas?;
            (excess < NEAR_NULL).then(|| format!(" ({excess:.3})"))
        },
    );
    few.into_iter().chain(near).collect()
}

/// Returns `what: row; row.` with the rows for which `of` returns a remark.
fn named(what: &str, rows: &[Row<'_>], of: impl Fn(&Record) -> Option<String>) -> Option<String> {
    let names: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}{}", row.name, of(row.first())?)))
        .collect();
    (!names.is_empty()).then(|| format!("{what}: {}.", names.join("; ")))
}
