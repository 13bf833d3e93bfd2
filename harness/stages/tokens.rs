//! `tokens`: stores the ids of the train split under the evaluation transform and of its mirror images, for `augment: fixed-view`.
//!
//! An image is tokenized twice for any number of epochs and seeds. The ids of the mirror image are computed, because a mirrored patch
//! has another code. Values are not stored, because at 224 pixels they are several times as large as the images.

use std::sync::Arc;

use anyhow::bail;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tessera_models as models;
use tessera_models::{Groups, Targets};
use tessera_tokenizers::{Bytes, Split, Tokenizer, ViewBuf};

use super::common::context::StageError;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Inputs, Stage, provenance};
use super::common::targets::write_targets;
use crate::data::{ViewPlan, map, targets};
use crate::store::{Held, StoreError, Workspace};
use crate::suite::{Augment, Pretrain};

const VERSION: u32 = 1;
const FILE: &str = "ids.npy";
/// Maximum epochs for which tokenizing every view costs no more than tokenizing all images and their mirror images.
pub const FEW_EPOCHS: usize = 2;

/// Returns whether pretraining by `recipe` reads ids from the store.
pub fn are_stored(recipe: &Pretrain, tokenizer: &dyn Tokenizer) -> bool {
    let ids = tokenizer.target().is_discrete();
    ids && stores_ids(recipe) && !tokenizer.looks_up()
}

/// Returns whether `recipe` repeats the same views often enough to store their ids.
pub fn stores_ids(recipe: &Pretrain) -> bool {
    let again = recipe.augment == Augment::FixedView && recipe.epochs > FEW_EPOCHS;
    again && recipe.checkpoint.is_none()
}

/// Returns the bytes of the stored ids of `images` images with `each` ids, mirrored or not.
pub fn bytes(images: usize, each: usize) -> u64 {
    images as u64 * each as u64 * 4
}

/// The memory-mapped ids of every train image, `[images, patches]`, or codes `[images, patches, groups]`.
pub struct Ids {
    rows: Bytes,
    /// Its file, compared again before a stage that read it is stored.
    _file: Arc<Held>,
    /// Ids or codes of an image.
    each: usize,
}

impl Ids {
    /// Maps a file of [`write_targets`]: a header, then rows of little-endian u32.
    fn open(held: Arc<Held>, images: usize, each: usize) -> anyhow::Result<Self> {
        let file = map(&held.path)?;
        let Some(header) = (file.len() as u64).checked_sub(bytes(images, each)) else {
            bail!(
                "{}: found {} bytes, expected at least {}",
                held.path.display(),
                file.len(),
                bytes(images, each)
            );
        };
        Ok(Self {
            rows: file.slice(header as usize..),
            _file: held,
            each,
        })
    }

    /// Returns the ids of one image.
    pub fn row(&self, image: usize) -> impl Iterator<Item = u32> {
        let row = 4 * self.each;
        let bytes = &self.rows[image * row..][..row];
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
    }

    /// Calls `take` for each batch of images in scan order with the first image's index, the ids and the number of images.
    ///
    /// # Errors
    /// Errors of `take`.
    pub fn each_batch(
        &self,
        mut take: impl FnMut(usize, &[u32], usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let images = self.rows.len() / (4 * self.each);
        for start in (0..images).step_by(targets::BATCH) {
            let batch = start..(start + targets::BATCH).min(images);
            let count = batch.len();
            let ids: Vec<u32> = batch.flat_map(|image| self.row(image)).collect();
            take(start, &ids, count)?;
        }
        Ok(())
    }
}

/// The stage that stores the ids of the train split.
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

    /// Zero: the first stage that needs the ids includes their cost.
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

/// Returns the stored ids of the train split under the evaluation transform, `mirrored` or not; computes and stores them first if
/// necessary, as part of the stage that needs them.
///
/// # Errors
/// Errors of tokenizing, and interruption.
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
    let each = tokenizer.grid().num_patches() * tokenizer.target().per_patch();
    Ids::open(entry.hold(FILE)?, stage.images, each)
}

/// Ids of every train image and its mirror image.
pub struct BothWays {
    plain: Ids,
    mirrored: Ids,
    /// Groups of codes; `None` for ids.
    groups: Option<Groups>,
}

impl BothWays {
    /// Returns both, as [`ids`].
    ///
    /// # Errors
    /// As for [`ids`].
    pub fn of(on: &Inputs<'_>, tokenizer: &dyn Tokenizer) -> anyhow::Result<Self> {
        Ok(Self {
            plain: ids(on, tokenizer, false)?,
            mirrored: ids(on, tokenizer, true)?,
            groups: tokenizer.target().groups(),
        })
    }

    /// Returns the ids of a view of train images whose boxes are evaluation boxes.
    ///
    /// # Shapes
    /// Returns `[batch, patches]` u32, or codes `[batch, patches, groups]`.
    ///
    /// # Errors
    /// If the tensor cannot be created.
    pub fn of_view(&self, view: &ViewBuf) -> models::Result<Targets> {
        let rows = view.0.iter().flat_map(|sample| {
            let ids = if sample.flip {
                &self.mirrored
            } else {
                &self.plain
            };
            ids.row(sample.id.index)
        });
        let (rows, images) = (Tensor::from_iter(rows, &Device::Cpu)?, view.0.len());
        Ok(match self.groups {
            Some(groups) => Targets::Codes(rows.reshape((images, (), groups.count()))?, groups),
            None => Targets::Ids(rows.reshape((images, self.plain.each))?),
        })
    }
}
