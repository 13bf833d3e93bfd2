//! What tells the rows of a table apart that may be of several runs: dataset, backbone, sizes, suite, recipe.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Row, short_fingerprint};
use crate::columns::Record;

/// The settings of some rows.
pub struct Settings {
    /// Images of each name of a dataset. Several may have the same name, as folders of different projects do.
    datasets: BTreeMap<String, BTreeSet<String>>,
    models: bool,
    sizes: bool,
    suites: bool,
    /// Settings of which several rows have one name, because several runs of a suite differ in their recipes.
    repeated: BTreeSet<String>,
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
        let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
        let repeated = rows.iter().filter(|r| !seen.insert((r.setting(), &r.name)));
        let repeated = repeated.map(Row::setting).collect();
        let several = rows.iter().filter(|row| !names.insert(&row.name));
        Self {
            models: differ(rows, |r| (&r.dataset, &r.dataset_fingerprint, &r.backbone)),
            sizes: differ(rows, |r| (r.image_size, r.patch_size)),
            suites: differ(rows, |r| &r.suite),
            datasets,
            repeated,
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
                self.repeated.contains(&row.setting()),
                format!("recipe {recipe}"),
            ),
        ];
        let told = parts.into_iter().filter(|(differs, _)| *differs);
        told.map(|(_, text)| text).collect::<Vec<_>>().join(", ")
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
        match self.repeated.contains(&row.setting()) {
            true => format!("{} {}", row.setting(), row.first().recipe_hash),
            false => row.setting(),
        }
    }
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
