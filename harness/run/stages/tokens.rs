//! `tokens`: the ids of the train split under the evaluation transform, and those of its mirror images, kept in the store for
//! training that sees nothing else (`augment: fixed-view`).
//!
//! The ids of a mirrored image are computed as well: mirroring the grid would not give them, since a mirrored patch has another
//! code. So an image is tokenized twice, however many epochs and seeds there are, and training gets the very ids that the
//! tokenizer would give it. Values are not kept: at 224 pixels they are several times as large as the images.

use std::path::Path;

use anyhow::bail;
use candle_core::{Device, Tensor};
use serde_json::json;
use tessera_models as models;
use tessera_models::Targets;
use tessera_tokenizers::{Bytes, Split, Tokenizer, ViewBuf};

use super::scan;
use super::targets::write_targets;
use crate::data::{ViewPlan, map, targets};
use crate::run::context::{Context, Images};
use crate::store::{Provenance, StoreError};
use crate::suite::{Augment, Pretrain};

const VERSION: u32 = 1;
const FILE: &str = "ids.npy";
/// Up to so many epochs, tokenizing what is seen costs no more than tokenizing everything.
const FEW_EPOCHS: usize = 2;

/// Whether pretraining by `recipe` takes ids from the store.
pub fn are_kept(recipe: &Pretrain, tokenizer: &dyn Tokenizer) -> bool {
    let ids = tokenizer.target().codebook_size().is_some();
    ids && keep_ids(recipe) && !tokenizer.looks_up()
}

/// Whether `recipe` looks at the same views often enough to keep their ids.
pub fn keep_ids(recipe: &Pretrain) -> bool {
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
                "{}: found {} bytes, expected at least {}; remove this folder of the store",
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

    fn row(&self, image: usize) -> impl Iterator<Item = u32> {
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

/// The ids of the train split as `plan` looks at it (`Eval` or `Mirrored`), from the store, or computed and stored. Part of
/// whichever stage asks first, and of its time.
///
/// # Errors
/// As tokenizing; an interruption says so.
pub fn keep(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    plan: ViewPlan,
) -> anyhow::Result<Ids> {
    let engine = tokenizer.facts().engine;
    let mirrored = plan == ViewPlan::Mirrored;
    let (count, patches) = (
        images.dataset.len(Split::Train),
        tokenizer.grid().num_patches(),
    );
    let provenance = Provenance {
        stage: "tokens",
        label: format!(
            "{} train images{}",
            count,
            if mirrored { ", mirrored" } else { "" }
        ),
        inputs: json!({
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint(),
            "images": scan::provenance(cx, images),
            "mirrored": mirrored,
            "numerics": cx.numerics(engine.as_deref()),
        }),
    };
    let made = cx.store.get_or(&provenance, &|| cx.interrupted(), |work| {
        write_targets(
            cx,
            images,
            tokenizer,
            (Split::Train, plan),
            &work.out.join(FILE),
        )?;
        Ok(json!({"images": count, "patches": patches}))
    });
    let entry = made.map_err(|error| match error {
        StoreError::Stage(error) => error,
        StoreError::Interrupted => models::Error::Interrupted.into(),
        other => other.into(),
    })?;
    Ids::open(&entry.dir.join(FILE), count, patches)
}

/// Ids of every train image both ways round.
pub struct BothWays {
    plain: Ids,
    mirrored: Ids,
}

impl BothWays {
    /// As [`keep`].
    ///
    /// # Errors
    /// As [`keep`].
    pub fn keep(
        cx: &Context<'_>,
        images: &Images,
        tokenizer: &dyn Tokenizer,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            plain: keep(cx, images, tokenizer, ViewPlan::Eval)?,
            mirrored: keep(cx, images, tokenizer, ViewPlan::Mirrored)?,
        })
    }

    /// The ids of a view of train images that sees evaluation boxes only.
    ///
    /// # Shapes
    /// Returns `[batch, patches]` u32.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn of(&self, view: &ViewBuf) -> models::Result<Targets> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use crate::Registry;
    use models::pretrain::PretrainData;

    use super::*;
    use crate::run::Mode;
    use crate::run::reporter::Silent;
    use crate::run::stages::sources::{Looks, WithTargets};
    use crate::run::stages::{count, fit};
    use crate::store::Store;
    use crate::suite::Suite;

    const SUITE: &str = "version: 1
name: fixed
seeds: [0]
dataset: {kind: mosaics, seed: 3, train: 70, val: 8, size: 16}
image_size: 16
patch_size: 4
eval_transform: {resize_shorter: 16, crop: 14}
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 6, epochs: 1, batch: 32}}
pretrain: {epochs: 3, batch: 32, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: fixed-view}
";

    /// Calls `work` with the run of the suite with `epochs`, in a store of its own.
    fn with_run(epochs: usize, work: impl FnOnce(&Context<'_>, &Images, &fit::Fitted)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.yaml");
        std::fs::write(&path, SUITE).unwrap();
        let registry = Registry::builtin();
        let sets = [format!("pretrain.epochs={epochs}")];
        let suite = Suite::load(&path, &sets, &registry).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let stop = AtomicBool::new(false);
        let cx = Context::new(&suite, &registry, &store, &Silent, &stop, 1);
        let images = scan::scan(&cx).unwrap();
        let fitted = fit::fit(&cx, Mode::Compute, &images, &suite.rows[0]);
        work(&cx, &images, &fitted.unwrap().unwrap());
    }

    fn ids(targets: &Targets) -> Vec<u32> {
        match targets {
            Targets::Ids(ids) => ids.flatten_all().unwrap().to_vec1().unwrap(),
            Targets::Values(_) => unreachable!(),
        }
    }

    #[test]
    fn kept_ids_are_those_of_the_views_that_training_sees() {
        with_run(3, |cx, images, fitted| {
            let tokenizer = Arc::clone(&fitted.tokenizer);
            let recipe = cx.suite.file.pretrain.as_ref().unwrap();
            assert!(are_kept(recipe, tokenizer.as_ref()));
            let data = |kept| WithTargets {
                looks: Looks::train(cx, images, recipe.augment, recipe.crop_scale, 5),
                tokenizer: Arc::clone(&tokenizer),
                kept,
            };
            let kept = BothWays::keep(cx, images, tokenizer.as_ref()).unwrap();
            let (kept, asked) = (data(Some(kept)), data(None));
            for epoch in 0..4 {
                for shard in [[0, 1, 2, 3], [69, 35, 31, 32]] {
                    let (pixels, kept) = kept.shard(epoch, &shard).unwrap();
                    let (expected_pixels, asked) = asked.shard(epoch, &shard).unwrap();
                    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(values(pixels), values(expected_pixels));
                    assert_eq!(ids(&kept), ids(&asked));
                }
            }
            // Mirrored ids are not the ids with the grid mirrored.
            let row = |plan| {
                let ids = keep(cx, images, tokenizer.as_ref(), plan).unwrap();
                ids.row(0).collect::<Vec<_>>()
            };
            let (plain, other) = (row(ViewPlan::Eval), row(ViewPlan::Mirrored));
            let grid: Vec<u32> = plain
                .chunks(4)
                .flat_map(|r| r.iter().rev().copied())
                .collect();
            assert_ne!(other, plain);
            assert_ne!(other, grid);
        });
    }

    #[test]
    fn counts_are_the_same_from_kept_ids() {
        let counted = |epochs| {
            let mut bytes = Vec::new();
            with_run(epochs, |cx, images, fitted| {
                let made = count::count(cx, Mode::Compute, images, "K", fitted);
                let dir = made.unwrap().unwrap().dir;
                bytes = ["counts.npy", "images.npy"]
                    .map(|name| std::fs::read(dir.join(name)).unwrap())
                    .to_vec();
                let kept = cx.store.root().join("tokens").is_dir();
                assert_eq!(kept, epochs > FEW_EPOCHS);
            });
            bytes
        };
        assert_eq!(counted(2), counted(3));
    }
}
