//! What tells the rows of a table apart that may be of several runs: dataset, backbone, sizes, suite, recipe.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Row, short_fingerprint};
use crate::apart::{Difference, rows_differ};
use crate::columns::Record;

/// The settings of some rows.
pub struct Settings {
    /// Images of each name of a dataset. Several may have the same name, as folders of different projects do.
    datasets: BTreeMap<String, BTreeSet<String>>,
    models: bool,
    sizes: bool,
    suites: bool,
    /// Settings of which several rows have one name, because several runs of a suite differ in their recipes.
    recipes: BTreeSet<String>,
    /// What tells rows of one name, setting and recipe apart, by their first records: "with.k 16".
    variants: BTreeMap<*const Record, String>,
    /// Names of several rows.
    names: BTreeSet<String>,
}

impl Settings {
    /// Collects the settings of `rows`.
    pub fn of(rows: &[Row<'_>]) -> Self {
        let mut datasets = BTreeMap::<String, BTreeSet<String>>::new();
        for first in rows.iter().map(Row::first) {
            let images = datasets.entry(first.dataset.clone()).or_default();
            images.insert(first.dataset_fingerprint.clone());
        }
        let mut names = BTreeSet::new();
        let several = rows.iter().filter(|row| !names.insert(&row.name));
        Self {
            models: differ(rows, |r| (&r.dataset, &r.dataset_fingerprint, &r.backbone)),
            sizes: differ(rows, |r| (r.image_size, r.patch_size)),
            suites: differ(rows, |r| &r.suite),
            datasets,
            recipes: of_several_recipes(rows),
            variants: variants(rows),
            names: several.map(|row| row.name.clone()).collect(),
        }
    }

    /// Leaves dataset and backbone out of what tells rows apart.
    pub fn without_models(self) -> Self {
        Self {
            models: false,
            ..self
        }
    }

    /// Returns the name of a record's dataset, with the images' fingerprint if others have the name.
    pub fn dataset(&self, record: &Record) -> String {
        let name = &record.dataset;
        match self.datasets.get(name).map_or(0, BTreeSet::len) {
            0 | 1 => name.clone(),
            _ => format!("{name} (images {})", short_fingerprint(record)),
        }
    }

    /// Returns the suite, if the rows are of several: `suite: `.
    pub fn suite(&self, record: &Record) -> String {
        match self.suites {
            true => format!("{}: ", record.suite),
            false => String::new(),
        }
    }

    /// Returns what tells the row apart from rows of other settings; empty if nothing does.
    pub fn text(&self, row: &Row<'_>) -> String {
        let first = row.first();
        let recipe = first.recipe_hash.get(..8).unwrap_or(&first.recipe_hash);
        let parts = [
            (
                self.models,
                format!("{} ViT-{}", self.dataset(first), first.backbone),
            ),
            (
                self.sizes,
                format!(
                    "{} px, patches of {} px",
                    first.image_size, first.patch_size
                ),
            ),
            (self.suites, format!("suite {}", first.suite)),
            (
                self.recipes.contains(&row.setting()),
                format!("recipe {recipe}"),
            ),
        ];
        let told = parts.into_iter().filter(|(differs, _)| *differs);
        let variant = self.variants.get(&std::ptr::from_ref(first));
        let told = told.map(|(_, text)| text).chain(variant.cloned());
        told.collect::<Vec<_>>().join(", ")
    }

    /// Returns the name of a row, with its setting if others have the name.
    pub fn label(&self, row: &Row<'_>) -> String {
        match self.names.contains(&row.name) {
            true => format!("{} ({})", row.name, self.text(row)),
            false => row.name.clone(),
        }
    }

    /// Returns a text that only rows whose numbers compete have in common.
    pub fn key(&self, row: &Row<'_>) -> String {
        let first = row.first();
        match self.recipes.contains(&row.setting()) {
            true => format!("{} {} {}", row.setting(), first.recipe_hash, first.dtype),
            // Precisions of one recipe do not compete either.
            false if !self.variants.is_empty() => format!("{} {}", row.setting(), first.dtype),
            false => row.setting(),
        }
    }
}

/// Returns the settings in which rows of one name have different recipes.
fn of_several_recipes(rows: &[Row<'_>]) -> BTreeSet<String> {
    let mut seen = BTreeMap::new();
    let other = rows.iter().filter(|row| {
        let recipe = &row.first().recipe_hash;
        *seen.entry((row.setting(), &row.name)).or_insert(recipe) != recipe
    });
    other.map(Row::setting).collect()
}

/// Most facts by which a row of a name is told apart.
const TOLD: usize = 3;

/// Returns what tells rows of one name, setting and recipe apart: the facts in which each differs from the first, and the first from the second.
fn variants(rows: &[Row<'_>]) -> BTreeMap<*const Record, String> {
    let mut all = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let of_name = |r: &&Row<'_>| {
            let same = (&r.name, &r.first().recipe_hash) == (&row.name, &row.first().recipe_hash);
            same && r.setting() == row.setting()
        };
        let Some(first) = rows[..at].iter().find(of_name) else {
            continue;
        };
        let differences = rows_differ(first.first(), row.first());
        let told = |of: fn(&Difference) -> &String| {
            let facts = differences.iter().take(TOLD);
            let facts = facts.map(|d| format!("{} {}", d.field, of(d)));
            facts.collect::<Vec<_>>().join(", ")
        };
        all.insert(std::ptr::from_ref(row.first()), told(|d| &d.new));
        let of_first = all.entry(first.first());
        of_first.or_insert_with(|| told(|d| &d.old));
    }
    all
}

fn differ<'r, T: PartialEq>(rows: &[Row<'r>], of: impl Fn(&'r Record) -> T) -> bool {
    rows.windows(2)
        .any(|two| of(two[0].first()) != of(two[1].first()))
}

/// Returns what `of` says of the rows, with their names, the most frequent first.
pub fn by_frequency(
    rows: &[Row<'_>],
    of: impl Fn(&Row<'_>) -> Option<String>,
) -> Vec<(String, Vec<String>)> {
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
    groups
}
