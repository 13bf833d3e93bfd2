//! What stands under a table: what a reader must know before comparing two of its numbers.

use super::rows::Row;
use super::{TableContext, base};
use crate::record::Record;

/// Patches per used code and class below which the metrics are mostly sampling noise.
const FEW_PATCHES: usize = 100;
/// A TCAS this near its null says little.
const NEAR_NULL: f64 = 0.02;

/// One line each.
pub fn footnotes(rows: &[Row<'_>], cx: &TableContext) -> Vec<String> {
    let Some(first) = rows.first().map(Row::first) else {
        return Vec::new();
    };
    let mut notes = vec![
        setting(rows, first),
        format!("Class list {}.", first.class_list_hash),
    ];
    if first.skipped_images > 0 {
        notes.push(format!(
            "{} images did not decode and are left out.",
            first.skipped_images
        ));
    }
    notes.push("TCAS is equation 8 with probability rows (`tcas`); its null is its mean under 20 permutations of the images' labels.".into());
    notes.extend(sampling(rows));
    if let Some(row) = rows
        .iter()
        .map(Row::first)
        .find(|r| !r.pooling_lp.is_empty())
    {
        notes.push(format!("Linear probing on the {} vector, fine-tuning on the {} vector; accuracies after the last epoch.", row.pooling_lp, row.pooling_ft));
    }
    if let Some(base) = base(rows) {
        notes.push(format!("Deltas are against “{}”.{}", base.name, marks(cx)));
    }
    notes.extend(named("Saw labels in its making", rows, |r| {
        r.saw_labels.then(String::new)
    }));
    notes.extend(
        cx.overrides
            .iter()
            .map(|(name, what)| format!("{name}: {what}.")),
    );
    for row in rows.iter().filter(|r| r.status() != "ok") {
        notes.push(format!(
            "{}: {} {}",
            row.name,
            row.status(),
            row.first().error
        ));
    }
    notes.extend(cx.notes.iter().cloned());
    notes
}

/// What the marks of table 1 mean.
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
    format!(" *: p < 0.05, {test}, Holm over the rows (`comparisons.csv`).")
}

fn setting(rows: &[Row<'_>], first: &Record) -> String {
    let seeds = rows.iter().map(|r| r.records.len()).max().unwrap_or(0);
    let spread = if seeds > 1 {
        "s, mean ± standard deviation"
    } else {
        ""
    };
    format!(
        "{}: {} train and {} val images, {} px, patches of {} px, ViT {}; {seeds} seed{spread}.",
        first.dataset,
        first.n_train,
        first.n_val,
        first.image_size,
        first.patch_size,
        first.backbone,
    )
}

/// Where TCAS and its kin are noise, or say hardly more than their nulls.
fn sampling(rows: &[Row<'_>]) -> Vec<String> {
    let few = named(
        "Fewer than 100 patches per used code and class, so that TCAS and PNMI are mostly sampling noise; compare with the null",
        rows,
        |r| {
            let per_image = (r.image_size / r.patch_size.max(1)).pow(2);
            let patches = r.n_train * per_image / (r.codebook_used? * r.n_classes).max(1);
            (patches < FEW_PATCHES).then(|| format!(" ({patches})"))
        },
    );
    let near = named(
        "TCAS within 0.02 of its null, where labels were permuted",
        rows,
        |r| {
            let excess = r.tcas_null? - r.tcas?;
            (excess < NEAR_NULL).then(|| format!(" ({excess:.3})"))
        },
    );
    few.into_iter().chain(near).collect()
}

/// `what: row; row.` of the rows for which `of` gives something to say.
fn named(what: &str, rows: &[Row<'_>], of: impl Fn(&Record) -> Option<String>) -> Option<String> {
    let names: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{}{}", row.name, of(row.first())?)))
        .collect();
    (!names.is_empty()).then(|| format!("{what}: {}.", names.join("; ")))
}
