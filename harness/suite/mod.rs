//! Suite files: the rows to compare, the images, and the recipes.
//!
//! [`SuiteFile`] is the file as the user wrote it (typed, unknown fields refused). [`Suite`] can run: variables, sweeps and overrides
//! are expanded, and every row is checked by its factory. Stages use only a [`Suite`].

mod error;
pub mod expand;
mod file;
mod rates;
mod recipe;
mod roster;
mod row;
pub mod schema;
pub mod yaml;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::{BuildContext, Config, Grid};

pub use error::SuiteError;
pub use file::{Backbone, Baseline, PrecisionChoice, SuiteFile};
pub use rates::Rates;
pub use recipe::{
    Augment, FineTune, Knn, LinearProbe, Metrics, Pooling, Pretrain, ProbeOptimizer, Recipes,
    Report,
};
pub use roster::Roster;
pub use row::Row;

use crate::data::DatasetSpec;
use crate::registry::Registry;

/// A suite that can run.
#[derive(Debug)]
pub struct Suite {
    /// The suite file.
    pub path: PathBuf,
    /// The checked top level.
    pub file: SuiteFile,
    /// The images.
    pub dataset: Box<dyn DatasetSpec>,
    /// Baselines first, then the tokenizers in the order of the file, sweeps expanded.
    pub rows: Vec<Row>,
    /// Rows outside the selection whose encoder a selected row needs.
    pub needed: Vec<Row>,
    /// With `fast_decode`, the largest side in pixels of rendered images: the model's input or that of a row. All rows of the file count,
    /// so that a selection does not change pixels.
    pub finest: Option<usize>,
    /// Rows whose encoder features may use.
    pub roster: Roster,
    /// Rows outside the selection that are not needed.
    others: Vec<Row>,
    /// The file after expansion and with defaults, for `RUN_DIR/suite.yaml`.
    pub resolved: Value,
}

impl Suite {
    /// Reads, expands and checks the suite at `path`; `sets` are `--set` arguments.
    ///
    /// # Errors
    /// [`SuiteError`] with file, line and field.
    pub fn load(path: &Path, sets: &[String], registry: &Registry) -> Result<Self, SuiteError> {
        let text = std::fs::read_to_string(path).map_err(|source| SuiteError::Read {
            path: path.to_owned(),
            source,
        })?;
        let (mut value, source) = yaml::parse(path, &text)?;
        for set in sets {
            expand::set(&mut value, set).map_err(SuiteError::Argument)?;
        }
        let entries = row::take_entries(&mut value);
        let top = Config::new(value, "", source);
        let top = top.with_value(expand::env(&top)?);
        let file: SuiteFile = top.parse()?;
        file.check(&top)?;
        let dataset = registry.dataset(&top.nested("dataset"))?;
        let rows = row::rows(&entries, &file, &top, registry)?;
        if let Some(name) = &file.baseline {
            check_name(name, &rows).map_err(|message| top.error("baseline", message))?;
        }
        let resolved = resolved(&file, &rows);
        let roster = Roster::new(&rows, file.vit());
        // Wrong fields are refused later, in `check_rows`.
        let sides = rows.iter().filter_map(|row| row.render_side(registry));
        let finest = sides.fold(file.image_size, usize::max);
        Ok(Self {
            path: path.to_owned(),
            finest: dataset.decoding().fast.then_some(finest),
            file,
            dataset,
            rows,
            needed: Vec::new(),
            roster,
            others: Vec::new(),
            resolved,
        })
    }

    /// Returns the model's patch grid.
    pub fn grid(&self) -> Grid {
        self.file.grid()
    }

    /// Selects the rows named by `only` (all rows if empty).
    ///
    /// # Errors
    /// [`SuiteError::Argument`] for an unknown name, with the nearest one.
    pub fn select(&mut self, only: &[String]) -> Result<(), SuiteError> {
        for name in only {
            check_name(name, &self.rows)
                .map_err(|message| SuiteError::Argument(format!("--only {name}: {message}")))?;
        }
        if !only.is_empty() {
            let all = std::mem::take(&mut self.rows);
            (self.rows, self.others) = all.into_iter().partition(|row| only.contains(&row.name));
        }
        Ok(())
    }

    /// Returns the row called `name`, if it is selected or needed.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.all().find(|row| row.name == name)
    }

    /// Returns the selected rows and those that they need.
    fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(&self.needed)
    }

    /// Checks every row's configuration with its factory and finds the rows that it needs. An `optional` row with a missing file is marked
    /// as skipped, with the remedy.
    ///
    /// # Errors
    /// The first error of a factory; rows that wait for themselves or for a skipped row.
    pub fn check_rows(&mut self, cx: &BuildContext<'_>) -> Result<(), SuiteError> {
        let (selected, mut all) = (self.rows.len(), std::mem::take(&mut self.rows));
        let mut next = 0;
        while next < all.len() {
            roster::check(&mut all[next], &self.roster, cx)?;
            let wanted = &all[next].after;
            let wanted = self.others.extract_if(.., |row| wanted.contains(&row.name));
            let wanted: Vec<Row> = wanted.collect();
            all.extend(wanted);
            next += 1;
        }
        roster::settle(&mut all)?;
        self.needed = all.split_off(selected);
        self.rows = all;
        Ok(())
    }

    /// Checks every row's configuration again when `cx` has the number of images.
    ///
    /// # Errors
    /// The first error of a factory.
    pub fn recheck_rows(&self, cx: &BuildContext<'_>) -> Result<(), SuiteError> {
        self.all()
            .filter(|row| row.skip.is_none())
            .try_for_each(|row| row.recheck(cx))
    }

    /// Checks that `knn.k` of the selected rows is at most `train`, the number of images of the train split.
    ///
    /// # Errors
    /// [`SuiteError::Config`] on `knn.k`.
    pub fn check_neighbours(&self, train: usize) -> Result<(), SuiteError> {
        for row in self.rows.iter().filter(|row| row.skip.is_none()) {
            row.check_neighbours(train)?;
        }
        Ok(())
    }

    /// Checks conditions of training: tokenizers for one view cannot be trained with random crops, and checkpoints must contain the
    /// suite's backbone.
    ///
    /// # Errors
    /// [`SuiteError::Config`] on `pretrain.augment` or `pretrain.checkpoint`.
    pub fn check_training(&self, registry: &Registry) -> Result<(), SuiteError> {
        for row in self.all().filter(|row| row.skip.is_none()) {
            row.check_training(registry, self.file.vit().as_ref())?;
        }
        Ok(())
    }
}

/// Checks that a row is called `name`; the error is a message.
fn check_name(name: &str, rows: &[Row]) -> Result<(), String> {
    let names = rows.iter().map(|row| row.name.as_str());
    if names.clone().any(|row| row == name) {
        return Ok(());
    }
    let expected = expected_one_of(name, names);
    Err(format!("no row is called {name:?}, {expected}"))
}

/// Returns the content of `RUN_DIR/suite.yaml`.
fn resolved(file: &SuiteFile, rows: &[Row]) -> Value {
    let mut value = json!(file);
    let tokenizers: Vec<Value> = rows.iter().filter_map(Row::resolved).collect();
    value["tokenizers"] = Value::Array(tokenizers);
    value
}

#[cfg(test)]
mod tests;
