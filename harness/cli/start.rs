//! `bench init`, and `bench score` of a folder without a suite.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use tessera_tokenizers::Programs;

use super::args::{FeatureName, FirstRows, InitOptions, ScoreOptions};
use super::failure::Failure;
use super::running;
use super::validate::NAMED;
use crate::data::{check_two_classes, said_of_single};
use crate::registry::Registry;
use crate::suite::Suite;
use crate::suite::starter::{Feature, Rows, starter};

/// Features of a first suite.
const FEATURES: [Feature; 2] = [Feature::Pixel, Feature::Hog];
/// Numbers of clusters of a first suite.
const K: [usize; 2] = [50, 100];

/// Writes a suite for a folder into a file that must not exist.
pub fn init(options: InitOptions, registry: &Registry) -> Result<(), Failure> {
    let InitOptions {
        folder,
        out,
        train,
        rows,
    } = options;
    let rows = first(rows, train);
    // The suite may lie elsewhere; paths in it are relative to it.
    let folder = match out.as_ref().and_then(|out| out.parent()) {
        Some(beside) if !beside.as_os_str().is_empty() => std::path::absolute(&folder)?,
        _ => folder,
    };
    let first = starter(&folder, &rows, registry)?;
    let out = out.unwrap_or_else(|| format!("{}.yaml", first.name).into());
    let mut suite = Suite::of(&out, &first.text, &[], registry)?;
    running::check(&mut suite, registry, train, (false, Programs::Leave))?;
    let found = suite.dataset.survey()?;
    if let [Some(images), _] = found.images {
        running::check_images(&mut suite, registry, images)?;
        if train {
            suite.check_train_size(images)?;
            check_two_classes(found.single_class.as_deref())?;
        }
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&out);
    let written = file.and_then(|mut file| file.write_all(first.text.as_bytes()));
    written.map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AlreadyExists => "; name another file with --out, or remove it",
            _ => "",
        };
        Failure::Wrong(format!("{}: {error}{remedy}", out.display()))
    })?;
    put!("{}", first.found)?;
    for line in found.omitted.lines(NAMED) {
        put!("{line}")?;
    }
    if let Some(class) = &found.single_class {
        put!("{}", said_of_single(class))?;
    }
    let verb = if train { "run" } else { "score" };
    put!("wrote {0}; next: bench {verb} {0}", out.display())?;
    Ok(())
}

/// Scores a suite, or a folder with K-means of some features.
pub fn score(options: ScoreOptions, registry: &Registry) -> Result<(), Failure> {
    let ScoreOptions { mut run, rows } = options;
    if run.setup.suite.is_dir() {
        let rows = first(rows, false);
        // The run folder keeps the suite, which must find its images from there.
        let first = starter(&std::path::absolute(&run.setup.suite)?, &rows, registry)?;
        say!("{}", first.found);
        let name = format!("{} (bench score)", run.setup.suite.display());
        run.setup.text = Some((name.into(), first.text));
    } else if !rows.kmeans.is_empty() || !rows.k.is_empty() {
        let message = format!(
            "--kmeans and --k: {} is no folder; give a folder of images, or write the rows into the suite",
            run.setup.suite.display()
        );
        return Err(Failure::Wrong(message));
    }
    running::run(&run, registry, false)
}

/// Returns the rows of a first suite.
fn first(FirstRows { kmeans, k }: FirstRows, train: bool) -> Rows {
    let features: Vec<Feature> = kmeans.into_iter().map(Feature::from).collect();
    Rows {
        features: if features.is_empty() {
            FEATURES.to_vec()
        } else {
            features
        },
        k: if k.is_empty() { K.to_vec() } else { k },
        train,
    }
}

impl From<FeatureName> for Feature {
    fn from(name: FeatureName) -> Self {
        match name {
            FeatureName::Pixel => Self::Pixel,
            FeatureName::Hog => Self::Hog,
        }
    }
}
