//! `tokens`: the ids of the train split under the evaluation transform, and those of its mirror images, stored for
//! training that sees nothing else (`augment: fixed-view`).
//!
//! The ids of a mirrored image are computed as well: mirroring the grid would not give them, since a mirrored patch has another
//! code. So an image is tokenized twice, however many epochs and seeds there are, and training gets the very ids that the
//! tokenizer would give it. Values are not stored: at 224 pixels they are several times as large as the images.

use std::path::Path;

use anyhow::bail;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tessera_models as models;
use tessera_models::Targets;
use tessera_tokenizers::{Bytes, Split, Tokenizer, ViewBuf};

use super::common::context::StageError;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Inputs, Stage, provenance};
use super::common::targets::write_targets;
use crate::data::{ViewPlan, map, targets};
use crate::store::{StoreError, Workspace};
use crate::suite::{Augment, Pretrain};

const VERSION: u32 = 1;
const FILE: &str = "ids.npy";
/// Up to so many epochs, tokenizing every view costs no more than tokenizing all images both ways round.
pub const FEW_EPOCHS: usize = 2;

/// Whether pretraining by `recipe` takes ids from the store.
pub fn are_stored(recipe: &Pretrain, tokenizer: &dyn Tokenizer) -> bool {
    let ids = tokenizer.target().codebook_size().is_some();
    ids && stores_ids(recipe) && !tokenizer.looks_up()
}

/// Whether `recipe` takes the same views often enough to store their ids.
pub fn stores_ids(recipe: &Pretrain) -> bool {
    let again = recipe.augment == Augment::FixedView && recipe.epochs > FEW_EPOCHS;
    again && recipe.checkpoint.is_none()
}

/// Bytes that the ids of so many images take in the store, mirrored or not.
pub fn bytes(images: usize, patches: usize) -> u64 {
    images as u64 * patches as u64 * 4
}

/// The ids of every train image, `[images, patches]`, mapped.
pub struct Ids {
    rows: Bytes,
    patches: usize,
}

impl Ids {
    /// Maps what [`write_targets`] wrote: rows of little-endian u32 behind a header.
    fn open(path: &Path, images: usize, patches: usize) -> anyhow::Result<Self> {
        let file = map(path)?;
        let Some(header) = (file.len() as u64).checked_sub(bytes(images, patches)) else {
            bail!(
                "{}: found {} bytes, expected at least {}",
                path.display(),
                file.len(),
                bytes(images, patches)
            );
        };
        Ok(Self {
            rows: file.slice(header as usize..),
            patches,
        })
    }

    /// The ids of one image.
    pub fn row(&self, image: usize) -> impl Iterator<Item = u32> {
        let row = 4 * self.patches;
        let bytes = &self.rows[image * row..][..row];
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
    }

    /// All ids in scan order, a batch of images at a time: the first image, the ids, the number of images.
    ///
    /// # Errors
    /// What `take` refuses.
    pub fn each_batch(
        &self,
        mut take: impl FnMut(usize, &[u32], usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let images = self.rows.len() / (4 * self.patches);
        for start in (0..images).step_by(targets::BATCH) {
            let batch = start..(start + targets::BATCH).min(images);
            let count = batch.len();
            let ids: Vec<u32> = batch.flat_map(|image| self.row(image)).collect();
            take(start, &ids, count)?;
        }
        Ok(())
    }
}

/// The ids of the train split, stored.
struct StoredIds<'t> {
    tokenizer: &'t dyn Tokenizer,
    mirrored: bool,
    images: usize,
}

impl Stage for StoredIds<'_> {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        let engine = self.tokenizer.facts().engine;
        Ok(json!({
            "version": VERSION,
            "tokenizer": self.tokenizer.fingerprint(),
            "images": on.images.provenance(on.cx),
            "mirrored": self.mirrored,
            "numerics": on.cx.numerics(engine.as_deref()),
        }))
    }

    /// In the cost of the stage that needs the ids first.
    fn cost(&self, _: &Rates<'_>) -> anyhow::Result<Cost> {
        Ok(Cost::default())
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let plan = match self.mirrored {
            true => ViewPlan::Mirrored,
            false => ViewPlan::Eval,
        };
        let (split, path) = ((Split::Train, plan), work.out.join(FILE));
        write_targets(on.cx, on.images, self.tokenizer, split, &path)?;
        let patches = self.tokenizer.grid().num_patches();
        Ok(json!({"images": self.images, "patches": patches}))
    }
}

/// The ids of the train split under the evaluation transform, `mirrored` or not, from the store, or computed and stored. Part of
/// whichever stage needs them first, and of its time.
///
/// # Errors
/// As tokenizing; an interruption says so.
pub fn ids(on: &Inputs<'_>, tokenizer: &dyn Tokenizer, mirrored: bool) -> anyhow::Result<Ids> {
    let stage = StoredIds {
        tokenizer,
        mirrored,
        images: on.images.dataset.len(Split::Train),
    };
    let mirrored = if mirrored { ", mirrored" } else { "" };
    let label = format!("{} train images{mirrored}", stage.images);
    let provenance = provenance(&stage, label, on)?;
    let stored = (on.cx.store).get_or(&provenance, &|| on.cx.interrupted(), |work| {
        stage.run(on, work)
    });
    let entry = stored.map_err(|error| match error {
        StoreError::Stage(error) => error,
        StoreError::Interrupted => models::Error::Interrupted.into(),
        other => other.into(),
    })?;
    let patches = tokenizer.grid().num_patches();
    Ids::open(&entry.file(FILE)?, stage.images, patches)
}

/// Ids of every train image both ways round.
pub struct BothWays {
    plain: Ids,
    mirrored: Ids,
}

impl BothWays {
    /// As [`ids`].
    ///
    /// # Errors
    /// As [`ids`].
    pub fn of(on: &Inputs<'_>, tokenizer: &dyn Tokenizer) -> anyhow::Result<Self> {
        Ok(Self {
            plain: ids(on, tokenizer, false)?,
            mirrored: ids(on, tokenizer, true)?,
        })
    }

    /// The ids of a view of train images that sees evaluation boxes only.
    ///
    /// # Shapes
    /// Returns `[batch, patches]` u32.
    ///
    /// # Errors
    /// When the tensor cannot be created.
    pub fn of_view(&self, view: &ViewBuf) -> models::Result<Targets> {
        let rows = view.0.iter().flat_map(|sample| {
            let ids = if sample.flip {
                &self.mirrored
            } else {
                &self.plain
            };
            ids.row(sample.id.index)
        });
        let shape = (view.0.len(), self.plain.patches);
        Ok(Targets::Ids(
            Tensor::from_iter(rows, &Device::Cpu)?.reshape(shape)?,
        ))
    }
}
