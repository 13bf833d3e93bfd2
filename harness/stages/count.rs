//! `count`: counts the ids of the train split under the evaluation transform. Codes of groups are counted as their joint code, if it fits,
//! and group by group.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::{Value, json};
use tessera_models::{Groups, Targets};
use tessera_tokenizers::{Split, Tokenizer};

use super::common::context::StageError;
use super::common::rates::{Cost, NPY, Rates};
use super::common::stage::{Artifact, Inputs, Produced, Product, Stage};
use super::common::targets::each_batch;
use super::tokens;
use crate::data::ViewPlan;
use crate::data::targets::BATCH;
use crate::metrics::arrangement::{self, Arrangement};
use crate::metrics::{
    CountError, Counts, CountsWriter, DENSE_CELLS, DENSE_FILE, Estimate, SPARSE_FILE,
};
use crate::store::{Entry, Workspace};
use crate::suite::Row;

const VERSION: u32 = 3;
/// Field of the result: the metrics of [`arrangement`].
pub const ARRANGEMENT: &str = "arrangement";
/// Fields of the result: the number of ids or joint codes, null if these are too many; the number of groups, absent for ids.
const CODES: &str = "codebook_size";
const GROUPS: &str = "groups";

/// The counts of a row with ids.
pub struct Count<'a> {
    /// The row.
    pub row: &'a Row,
    /// Index of the fit.
    pub fit: usize,
}

impl Stage for Count<'_> {
    fn name(&self) -> &'static str {
        "count"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![Artifact::Tokenizer(&self.row.name, self.fit)]
    }

    fn gives(&self) -> Option<Artifact<'_>> {
        Some(Artifact::Counts(&self.row.name, self.fit))
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let tokenizer = on.tokenizer()?;
        Ok(json!({
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": on.images.provenance(on.cx),
            "classes": on.images.scan.classes.len(),
            "numerics": on.cx.numerics(tokenizer.facts().engine.as_deref()),
        }))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let [train, _] = rates.counts();
        let classes = rates.images.scan.classes.len() as f64;
        let pairs = train * rates.sampled(self.row).tokens;
        let passes = arrangement::PASSES as f64 * train * rates.vit.num_patches() as f64;
        let (mut table, mut images, mut counting, mut places) = (0.0, 0.0, 0.0, 0.0);
        let counted = rates.counted(self.row);
        for codes in &counted {
            let cells = *codes as f64 * classes;
            let (dense, sparse) = (8.0 * cells, 24.0 * pairs.min(cells));
            let is_dense = cells <= DENSE_CELLS as f64;
            table += NPY + if is_dense { dense } else { sparse };
            // images.npy has three numbers per image and id, and images.labels.npy one per image.
            images += 2.0 * NPY + 12.0 * pairs + 4.0 * train;
            counting += if is_dense { dense } else { 0.0 };
            places += passes;
        }
        let most = counted.iter().copied().max().unwrap_or(0);
        let places_memory = arrangement::memory(most, rates.vit.num_patches()) as f64;
        // Tables of other groups are in memory while the places of one are counted.
        let held = match counted.len() {
            0 | 1 => counting.max(places_memory),
            _ => counting + places_memory,
        };
        Ok(Cost {
            seconds: rates.decoding(train)
                + train * rates.tokenize(self.row)
                + places * arrangement::SECONDS,
            memory: rates.base()
                + rates.tokenizer_memory(self.row)
                + rates.held.by_all(BATCH, train)
                + held,
            disk: rates.disk(images + table, table, rates.cells(self.fit)),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let tokenizer = on.tokenizer()?.as_ref();
        let (images, arrangement) = counts(on, tokenizer, work.out)?;
        let target = tokenizer.target();
        let mut result = json!({
            "images": images,
            CODES: target.codebook_size(),
            ARRANGEMENT: arrangement,
        });
        if let Some(groups) = target.groups() {
            result[GROUPS] = groups.count().into();
        }
        Ok(result)
    }

    fn product<'a>(&self, _: &Inputs<'a>, entry: &Entry) -> Produced<'a> {
        Ok(Product::Counts(entry.clone()))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[DENSE_FILE, SPARSE_FILE]
    }
}

/// The counts in an entry of the stage.
#[derive(Debug)]
pub struct Counted {
    /// Group of codes; `None` for ids and for the joint code.
    pub group: Option<usize>,
    /// Folder of the counts.
    pub folder: PathBuf,
}

/// Returns all counts of an entry: of ids or of the joint code, and of every group.
///
/// # Errors
/// If a file is damaged.
pub fn counted(entry: &Entry) -> anyhow::Result<Vec<Counted>> {
    let root = entry.hold_whole()?;
    let joint = (!entry.result[CODES].is_null()).then_some(None);
    let groups = 0..entry.result[GROUPS].as_u64().unwrap_or(0) as usize;
    let all = joint.into_iter().chain(groups.map(Some));
    let one = |group| Counted {
        group,
        folder: folder(root, group),
    };
    Ok(all.map(one).collect())
}

/// Returns the counts of ids or of the joint code; `None` if there are more than [`MOST_CODES`](tessera_models::MOST_CODES) joint codes.
///
/// # Errors
/// If a file is damaged.
pub fn joint(entry: &Entry) -> anyhow::Result<Option<Counts>> {
    if entry.result[CODES].is_null() {
        return Ok(None);
    }
    Ok(Some(Counts::open(entry.hold_whole()?)?))
}

fn folder(root: &Path, group: Option<usize>) -> PathBuf {
    match group {
        Some(group) => root.join(format!("group-{group}")),
        None => root.to_owned(),
    }
}

/// One table of counts.
struct Tally {
    groups: Option<Groups>,
    /// The group that is counted; `None` for ids and for the joint code.
    group: Option<usize>,
    counts: CountsWriter,
    places: Arrangement,
}

impl Tally {
    fn create(
        on: &Inputs<'_>,
        tokenizer: &dyn Tokenizer,
        (group, codes): (Option<usize>, usize),
        out: &Path,
    ) -> anyhow::Result<Self> {
        let (dir, grid) = (folder(out, group), tokenizer.grid());
        std::fs::create_dir_all(&dir)?;
        let size = (codes, on.images.scan.classes.len());
        Ok(Self {
            groups: tokenizer.target().groups(),
            group,
            counts: CountsWriter::create(&dir, out, size, on.cx.launcher.as_ref())?,
            places: Arrangement::new((grid.rows, grid.cols), codes, out),
        })
    }

    /// Adds ids `[images, patches]` or codes `[images, patches, groups]`.
    fn add(&mut self, codes: &[u32], labels: &[u32]) -> anyhow::Result<()> {
        let ids = match (self.groups, self.group) {
            (None, _) => Cow::Borrowed(codes),
            (Some(groups), None) => Cow::Owned(groups.joint(codes)?),
            (Some(groups), Some(group)) => Cow::Owned(groups.of_group(group, codes)),
        };
        self.places.add(&ids)?;
        Ok(self.counts.add(&ids, labels)?)
    }

    /// Returns the number of images, and where codes are.
    fn finish(self, interrupted: &dyn Fn() -> bool) -> anyhow::Result<(usize, Vec<Estimate>)> {
        // First, because it checks the ids.
        let counts = self.counts.finish()?;
        let estimates = self
            .places
            .estimates(interrupted)
            .map_err(|error| match error {
                CountError::Io(error) => interruption(error),
                other => other.into(),
            })?;
        let own = estimates.into_iter().map(|one| Estimate {
            group: self.group,
            ..one
        });
        Ok((counts.num_images(), own.collect()))
    }
}

/// Counts into the folder `out`. Returns the number of images, and where codes are.
fn counts(
    on: &Inputs<'_>,
    tokenizer: &dyn Tokenizer,
    out: &Path,
) -> anyhow::Result<(usize, Vec<Estimate>)> {
    let target = tokenizer.target();
    if !target.is_discrete() {
        bail!(
            "the tokenizer gives values, which cannot be counted; its factory must return their target in `plan`"
        );
    }
    let groups = target.groups();
    let sizes = groups.iter().flat_map(Groups::sizes).enumerate();
    let joint = target.codebook_size().map(|codes| (None, codes));
    let all = (joint.into_iter()).chain(sizes.map(|(group, size)| (Some(group), *size as usize)));
    let tallies = all.map(|one| Tally::create(on, tokenizer, one, out));
    let mut tallies = tallies.collect::<anyhow::Result<Vec<Tally>>>()?;
    let (cx, images) = (on.cx, on.images);
    let labels = images.dataset.labels(Split::Train);
    let mut add = |start: usize, codes: &[u32], images: usize| {
        let labels = &labels[start..start + images];
        tallies
            .iter_mut()
            .try_for_each(|one| one.add(codes, labels))
    };
    let recipe = cx.suite.file.pretrain.as_ref();
    if recipe.is_some_and(|recipe| tokens::are_stored(recipe, tokenizer)) {
        // Pretraining needs the same ids.
        tokens::ids(on, tokenizer, false)?.each_batch(add)?;
    } else {
        let view = (Split::Train, ViewPlan::Eval);
        each_batch(cx, images, tokenizer, view, |start, targets| {
            let (Targets::Ids(ids) | Targets::Codes(ids, _)) = targets else {
                bail!("only ids can be counted");
            };
            add(start, &ids.flatten_all()?.to_vec1()?, ids.dim(0)?)
        })?;
    }
    let (mut images, mut estimates) = (0, Vec::new());
    for tally in tallies {
        let (counted, own) = tally.finish(&|| cx.interrupted())?;
        images = counted;
        estimates.extend(own);
    }
    Ok((images, estimates))
}

/// Converts an interruption into one that the run recognises.
pub(super) fn interruption(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => tessera_models::Error::Interrupted.into(),
        _ => error.into(),
    }
}
