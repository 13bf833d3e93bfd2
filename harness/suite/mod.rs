//! Suite files: the rows to compare, the images, and the recipes.
//!
//! [`SuiteFile`] is the file as the user wrote it (typed, unknown fields refused). [`Suite`] can run: variables, sweeps and overrides
//! are expanded, and every row is checked by its factory. Stages use only a [`Suite`].

mod absent;
mod choices;
mod defaults;
mod error;
pub mod expand;
mod file;
pub mod names;
mod probes;
mod rates;
mod recipe;
mod roster;
mod row;
mod rules;
pub mod schema;
pub mod starter;
mod steps;
pub mod yaml;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tessera_models::{files, foreign};
use tessera_tokenizers::{BuildContext, Config, Error, Grid, Programs};

pub use choices::{Augment, Pooling, ProbeOptimizer, ResidualStream};
pub use error::SuiteError;
pub use file::{Backbone, Baseline, PrecisionChoice, SuiteFile};
pub use probes::{AttentiveForm, AttentiveProbe, BagOfTokens};
pub use rates::Rates;
pub use recipe::{FineTune, Knn, LinearProbe, Metrics, Pretrain, Recipes, Report};
pub use roster::Roster;
pub use row::Row;

use crate::data::{DatasetSpec, fetched};
use crate::registry::Registry;

/// A suite that can run.
#[derive(Debug)]
pub struct Suite {
    /// The suite file.
    pub path: PathBuf,
    /// The folder to which its paths are relative.
    pub base: PathBuf,
    /// The checked top level.
    pub file: SuiteFile,
    /// Seeds of the codebooks, at least one; pretraining uses the first.
    pub fit_seeds: Vec<u64>,
    /// The images.
    pub dataset: Box<dyn DatasetSpec>,
    /// The folder of the images that is used, if the dataset has one.
    pub root: Option<PathBuf>,
    /// That the dataset has been fetched and another folder is used.
    pub note: Option<String>,
    /// Baselines first, then the tokenizers in the order of the file, sweeps expanded.
    pub rows: Vec<Row>,
    /// Rows outside the selection whose encoder a selected row needs.
    pub needed: Vec<Row>,
    /// With `fast_decode`, the largest side in pixels of rendered images: the model's input or that of a row. All rows of the file count,
    /// so that a selection does not change pixels.
    pub finest: Option<usize>,
    /// Rows whose encoder features may use.
    pub roster: Roster,
    /// Rows that the run folder has from an earlier run, and rows that these need. They are only looked up.
    pub kept: Vec<Row>,
    /// Rows outside the selection that are neither needed nor kept.
    others: Vec<Row>,
    /// Names of the rows that the run folder has from an earlier run.
    earlier: BTreeSet<String>,
    /// The file after expansion and with defaults.
    pub resolved: Value,
}

impl Suite {
    /// Reads, expands and checks the suite at `path`; `sets` are `--set` arguments.
    ///
    /// # Errors
    /// [`SuiteError`] with file, line and field.
    pub fn load(path: &Path, sets: &[String], registry: &Registry) -> Result<Self, SuiteError> {
        Self::of(path, &Self::text(path)?, sets, registry)
    }

    /// Reads the text of the suite at `path`.
    ///
    /// # Errors
    /// If the file is unreadable or too large.
    pub fn text(path: &Path) -> Result<String, SuiteError> {
        text(path).map_err(|error| SuiteError::Read {
            path: path.to_owned(),
            error,
        })
    }

    /// Expands and checks a suite from the text that the file at `path` has or had.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn of(
        path: &Path,
        text: &str,
        sets: &[String],
        registry: &Registry,
    ) -> Result<Self, SuiteError> {
        let (mut value, mut source) = yaml::parse(path, text)?;
        expand::refuse_without_effect(sets).map_err(SuiteError::Argument)?;
        let set = |set: &String| expand::set(&mut value, set).map_err(SuiteError::Argument);
        source.sets = sets.iter().map(set).collect::<Result<_, _>>()?;
        let entries = row::take_entries(&mut value);
        let warmed = defaults::fill(&mut value, path);
        let top = Config::new(value, "", Arc::new(source));
        let top = top.with_value(expand::env(&top)?);
        let top = match top.value().get("relative_to").and_then(Value::as_str) {
            Some(folder) if top.resolve_path(folder).is_dir() => top.relative_to(folder),
            Some(folder) => {
                let message = format!(
                    "found {folder:?}, which is no folder; expected the folder to which paths of this file are relative"
                );
                return Err(top.error("relative_to", message).into());
            }
            None => top,
        };
        let of_kinds = absent::of_kinds(&top, &entries, registry);
        let others = [absent::stood_in_for(&top), of_kinds.clone()].concat();
        let mut file: SuiteFile = top.parse_with(&others)?;
        top.refuse_missing(of_kinds)?;
        file.warmed = warmed;
        file.check(&top)?;
        let images = top.nested("dataset");
        let images = images.with_value(fetched::located(&images));
        let root = images.value().get("root").and_then(Value::as_str);
        let root = root.map(|root| images.resolve_path(root));
        let note = fetched::unused(&images);
        let dataset = fetched::or_absent(registry.dataset(&images)?, &images);
        file.dataset = images.value().clone();
        let rows = row::rows(&entries, &file, &top, registry)?;
        if let Some(name) = &file.baseline {
            let all = rows.iter().map(|row| row.name.as_str());
            names::check(name, all).map_err(|message| top.error("baseline", message))?;
        }
        let fit_seeds = file.fit_seeds().unwrap_or_else(|| FIT_SEEDS[..1].to_vec());
        let resolved = resolved(&file, &fit_seeds, &rows);
        let roster = Roster::new(&rows, file.vit());
        // Wrong fields are refused later, in `check_rows`.
        let sides = rows.iter().filter_map(|row| row.render_side(registry));
        let finest = sides.fold(file.image_size, usize::max);
        Ok(Self {
            path: path.to_owned(),
            base: top.base_dir().to_owned(),
            finest: dataset.decoding().fast.then_some(finest),
            fit_seeds,
            file,
            dataset,
            root,
            note,
            rows,
            needed: Vec::new(),
            roster,
            kept: Vec::new(),
            others: Vec::new(),
            earlier: BTreeSet::new(),
            resolved,
        })
    }

    /// Returns the model's patch grid.
    pub fn grid(&self) -> Grid {
        self.file.grid()
    }

    /// Returns the suite as YAML, with variables, sweeps and defaults filled in.
    ///
    /// # Errors
    /// If a value cannot be written as YAML.
    pub fn resolved_text(&self, registry: &Registry) -> Result<String, serde_yaml::Error> {
        serde_yaml::to_string(&expand::literal(&self.resolved_value(registry)))
    }

    /// Returns the same as a value, whose texts are not expanded again.
    pub fn resolved_value(&self, registry: &Registry) -> Value {
        defaults::shown(&self.resolved, registry)
    }

    /// Returns the content of `suite.yaml` in the existing folder `out`: its paths name the same files from there.
    pub fn resolved_in(&self, out: &Path) -> Value {
        let mut value = self.resolved.clone();
        let whole = |folder: &Path| Path::new(".").join(folder).canonicalize();
        if let (Ok(base), Ok(out)) = (whole(&self.base), whole(out)) {
            let folder: PathBuf = match out.strip_prefix(&base) {
                Ok(below) if below.as_os_str().is_empty() => ".".into(),
                Ok(below) => below.components().map(|_| "..").collect(),
                Err(_) => base,
            };
            // YAML is text: a folder that is none cannot be named.
            if let Some(folder) = folder.to_str() {
                value["relative_to"] = json!(folder);
            }
        }
        value
    }

    /// Checks that `place`, which `option` names and a command writes into, does not lie among the images: its files would count as images.
    ///
    /// # Errors
    /// [`SuiteError::Argument`] with the folder of the images.
    pub fn check_outside(&self, option: &str, place: &Path) -> Result<(), SuiteError> {
        let is_hidden = |below: &Path| {
            let first = below.components().next();
            first.is_some_and(|first| first.as_os_str().as_encoded_bytes().starts_with(b"."))
        };
        let place = whole(place);
        let holds = |folder: &PathBuf| {
            let below = place.strip_prefix(whole(folder));
            below.is_ok_and(|below| !is_hidden(below))
        };
        match self.dataset.folders().into_iter().find(holds) {
            None => Ok(()),
            Some(folder) => Err(SuiteError::Argument(format!(
                "{option} {}: lies in {}, whose folders are classes of images; name a folder elsewhere with {option}, or start from another folder",
                place.display(),
                folder.display()
            ))),
        }
    }

    /// Prepares a run that only scores: unless the file states `fit_seeds`, every codebook is fitted with several.
    pub fn score_only(&mut self) {
        if self.file.fit_seeds().is_none() {
            self.fit_seeds = FIT_SEEDS.to_vec();
            self.resolved["fit_seeds"] = json!(self.fit_seeds);
        }
    }

    /// Sets the precision, which the run folder then states.
    pub fn set_precision(&mut self, precision: PrecisionChoice) {
        self.file.precision = precision;
        self.resolved["precision"] = json!(precision);
    }

    /// Selects the rows named by `only` (all rows if empty).
    ///
    /// # Errors
    /// [`SuiteError::Argument`] for a name or pattern without a row, with the nearest name.
    pub fn select(&mut self, only: &[String]) -> Result<(), SuiteError> {
        let mut chosen = HashSet::new();
        for name in only {
            let all = self.rows.iter().map(|row| row.name.as_str());
            let matching = names::matching(name, all);
            let matching = matching
                .map_err(|message| SuiteError::Argument(format!("--only {name}: {message}")))?;
            chosen.extend(matching.into_iter().map(str::to_owned));
        }
        if !only.is_empty() {
            let all = std::mem::take(&mut self.rows);
            (self.rows, self.others) = all.into_iter().partition(|row| chosen.contains(&row.name));
        }
        Ok(())
    }

    /// Returns the row called `name`, if it is selected, needed or kept.
    pub fn row(&self, name: &str) -> Option<&Row> {
        let mut rows = self.all().chain(&self.kept);
        rows.find(|row| row.name == name)
    }

    /// Returns the rows of the run folder in the order of the suite: the selected ones, and those of an earlier run.
    pub fn shown(&self) -> Vec<&Row> {
        let beside = self.needed.iter().chain(&self.kept);
        let beside = beside.filter(|row| self.earlier.contains(&row.name));
        let mut rows: Vec<&Row> = self.rows.iter().chain(beside).collect();
        rows.sort_by_key(|row| self.roster.position(&row.name));
        rows
    }

    /// Returns the selected rows and those that they need.
    fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(&self.needed)
    }

    /// Checks every row's configuration with its factory and finds the rows that it needs. An `optional` row with a missing file is marked
    /// as skipped, with the remedy.
    ///
    /// # Errors
    /// The errors of all factories; rows that wait for themselves or for a skipped row.
    pub fn check_rows(&mut self, cx: &BuildContext<'_>) -> Result<(), SuiteError> {
        let selected = self.rows.len();
        let rows = std::mem::take(&mut self.rows);
        self.rows = self.checked(rows, cx)?;
        roster::settle(&mut self.rows)?;
        self.needed = self.rows.split_off(selected);
        Ok(())
    }

    /// Keeps the rows outside the selection that the run folder has from an earlier run; `None` stands for all. Call it after
    /// [`check_rows`](Self::check_rows). A row whose check fails is skipped.
    ///
    /// # Errors
    /// As for [`check_rows`](Self::check_rows); the errors of kept rows are in [`Row::skip`].
    pub fn keep(
        &mut self,
        earlier: Option<BTreeSet<String>>,
        cx: &BuildContext<'_>,
    ) -> Result<(), SuiteError> {
        let all = || self.others.iter().chain(&self.needed);
        let all = || all().map(|row| row.name.clone()).collect();
        self.earlier = earlier.unwrap_or_else(all);
        self.others.iter_mut().for_each(|row| row.kept = true);
        let kept = self
            .others
            .extract_if(.., |row| self.earlier.contains(&row.name));
        let kept = kept.collect();
        let kept = self.checked(kept, cx)?;
        let (selected, needed) = (self.rows.len(), self.needed.len());
        let mut rows = std::mem::take(&mut self.rows);
        rows.append(&mut self.needed);
        rows.extend(kept);
        let settled = roster::settle(&mut rows);
        self.kept = rows.split_off(selected + needed);
        self.needed = rows.split_off(selected);
        self.rows = rows;
        settled
    }

    /// Checks rows and those that they need, which follow them in the result.
    fn checked(
        &mut self,
        mut all: Vec<Row>,
        cx: &BuildContext<'_>,
    ) -> Result<Vec<Row>, SuiteError> {
        let (mut next, mut wrong) = (0, Vec::new());
        // For a suite that is refused, nothing more is downloaded or started.
        let idle = BuildContext {
            fetch: false,
            programs: match cx.programs {
                Programs::Start => Programs::Leave,
                other => other,
            },
            ..*cx
        };
        while next < all.len() {
            let cx = if wrong.is_empty() { cx } else { &idle };
            match roster::check(&mut all[next], &self.roster, cx) {
                Err(SuiteError::Tokenizer(error @ Error::Interrupted)) => return Err(error.into()),
                checked => wrong.extend(checked.err()),
            }
            let wanted = &all[next].after;
            let wanted = self.others.extract_if(.., |row| wanted.contains(&row.name));
            let wanted: Vec<Row> = wanted.collect();
            all.extend(wanted);
            next += 1;
        }
        SuiteError::of_rows(wrong)?;
        Ok(all)
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

    /// Checks that `knn.k` of the selected rows is at most `train`, the number of images of the train split, and that their trainings have a
    /// step whose rate is not 0.
    ///
    /// # Errors
    /// [`SuiteError::Config`] on `knn.k` or the part of the recipe.
    pub fn check_train_size(&self, train: usize) -> Result<(), SuiteError> {
        for row in self.rows.iter().filter(|row| row.skip.is_none()) {
            row.check_train_size(train)?;
        }
        Ok(())
    }

    /// Returns a note for every batch of a training that is larger than the train split of `train` images. Rows with one recipe share it.
    pub fn cut_batches(&self, train: usize) -> BTreeSet<String> {
        let rows = self.rows.iter().filter(|row| row.skip.is_none());
        let batches = rows.flat_map(|row| row.recipes.batches(row.is_pretrained()));
        let cut = batches.filter(|(_, batch)| *batch > train);
        let note = |(part, batch)| {
            format!(
                "{part}.batch: found {batch}, but the train split has {train} images; used {train}, also for the learning rate, which is \
                 base_lr * {train} / 256"
            )
        };
        cut.map(note).collect()
    }

    /// Checks that images can be held out if a selected row chooses among several rates or strengths. `labels` are those of the train split.
    ///
    /// # Errors
    /// [`SuiteError::Config`] on the first such field if no class has two images.
    pub fn check_held_out(&self, labels: &[u32]) -> Result<(), SuiteError> {
        let mut seen = HashSet::new();
        if labels.iter().any(|label| !seen.insert(label)) {
            return Ok(());
        }
        for row in self.rows.iter().filter(|row| row.skip.is_none()) {
            row.check_held_out()?;
        }
        Ok(())
    }

    /// Returns whether a selected row has accuracies: with `trains` those of encoders, and those of bags of tokens in any case.
    pub fn has_accuracies(&self, trains: bool) -> bool {
        let mut computed = self.all().filter(|row| row.skip.is_none());
        computed.any(|row| {
            let recipes = &row.recipes;
            recipes.bag_of_tokens.is_some() || (trains && recipes.evaluations() > 0)
        })
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

/// Returns the absolute path of a folder that need not exist, without links.
fn whole(folder: &Path) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_default();
    let real = folder.ancestors().find_map(|part| {
        let rest = folder.strip_prefix(part).ok()?;
        Some(part.canonicalize().ok()?.join(rest))
    });
    real.unwrap_or(folder)
}

/// Most bytes of a suite. Rows and lists take a few MiB at most, so a larger file is another one.
const MOST: u64 = 64 << 20;

/// Reads a text in UTF-8.
fn text(path: &Path) -> io::Result<String> {
    let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let bytes = files::read_up_to(path, MOST)?;
    if let Some(what) = foreign::told(&bytes).filter(|_| !bytes.is_empty()) {
        return Err(wrong(what.into()));
    }
    foreign::utf8(bytes).map_err(|found| {
        wrong(format!(
            "found {found}, expected UTF-8; save it again in that encoding"
        ))
    })
}

/// Seeds of the codebooks if a suite states none: all for a run that only scores. A run that trains fits once, because a second fit
/// would cost hours on a large dataset.
const FIT_SEEDS: [u64; 3] = [0, 1, 2];

/// Returns the file after expansion and with defaults.
fn resolved(file: &SuiteFile, fit_seeds: &[u64], rows: &[Row]) -> Value {
    let mut value = json!(file);
    value["fit_seeds"] = json!(fit_seeds);
    let pretrain = value["pretrain"].as_object_mut();
    if let Some(pretrain) = pretrain.filter(|fields| fields.contains_key("checkpoint")) {
        // The others have no effect and are not read again.
        pretrain.retain(|key, _| key.starts_with("checkpoint"));
    }
    let tokenizers: Vec<Value> = rows.iter().filter_map(Row::resolved).collect();
    value["tokenizers"] = Value::Array(tokenizers);
    value
}

#[cfg(test)]
mod tests;
