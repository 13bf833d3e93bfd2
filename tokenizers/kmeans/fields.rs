//! The fields of `kind: kmeans` in a suite, and what is wrong with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::Config;
use crate::registry::BuildContext;

/// linfa holds all patches in memory: refused beyond this.
const LINFA_BYTES: usize = 4 << 30;

/// The fields of `with:`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// What is clustered: `{kind: ..., ...}`, see `bench list features`.
    #[expect(
        dead_code,
        reason = "built from its own piece of the suite, with positions"
    )]
    features: serde_json::Value,
    /// Number of codes.
    pub k: usize,
    /// Passes over the train split; for `algorithm: lloyd` at most so many (it ends when the centres stand still).
    pub epochs: usize,
    /// Images per mini-batch; for `algorithm: lloyd` images in memory at a time.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Shuffle the images every epoch (ClusterMIM's loader does not: its batches come sorted by class). With
    /// `algorithm: lloyd` it only says which images the first centres come from.
    #[serde(default = "shuffle")]
    pub shuffle: bool,
    /// How a patch finds its code.
    #[serde(default)]
    pub matching: Matching,
    /// How centres move.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How the first centres are chosen.
    #[serde(default)]
    pub init: Init,
    /// Fits from different starts; the one with the smallest inertia over the train split is kept. Every one costs
    /// `epochs` passes, and one more to measure it.
    #[serde(default = "restarts")]
    pub restarts: usize,
    /// What computes it.
    #[serde(default)]
    pub engine: Engine,
    /// Train images that the fit never sees, to measure the inertia on: a fixed sample under `fit_seed`. With 0 the
    /// inertia is measured on 64 train images that the fit does see.
    #[serde(default)]
    pub held_out: usize,
}

/// How a patch finds its code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Matching {
    /// The nearest centre.
    #[default]
    Euclidean,
    /// The largest inner product of the L2-normalised feature with the centre as it is (ClusterMIM's `--token_normalize`).
    InnerProduct,
    /// The largest cosine.
    Cosine,
}

/// How centres move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// A little after every batch of images (Sculley 2010, as scikit-learn's `MiniBatchKMeans` and ClusterMIM).
    #[default]
    MiniBatch,
    /// To the mean of their patches after every pass over the train split (scikit-learn's `KMeans`).
    Lloyd,
}

/// How the first centres are chosen, among random patches of the first images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Init {
    /// One after another, far ones with larger probability (Arthur and Vassilvitskii 2007, with scikit-learn's trials).
    #[default]
    #[serde(rename = "k-means++")]
    PlusPlus,
    /// About `2 k` at a time in five rounds over a larger sample, then k-means++ among these (Bahmani et al. 2012).
    #[serde(rename = "k-means||")]
    Parallel,
    /// Any patches.
    #[serde(rename = "random")]
    Random,
}

/// What computes the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Tessera's own, by matrix products.
    #[default]
    Gemm,
    /// The linfa-clustering crate, from the same first centres: to check against. A centre's last place counts as one
    /// more patch, empty centres stay where they are, and `algorithm: lloyd` holds all patches in memory.
    Linfa,
}

fn batch() -> usize {
    256
}

fn shuffle() -> bool {
    true
}

fn restarts() -> usize {
    1
}

impl Fields {
    /// The fields of `with`, checked as far as `cx` allows.
    pub fn checked(with: &Config, cx: &BuildContext<'_>) -> Result<Self> {
        let fields: Self = with.parse()?;
        for (name, value) in [
            ("k", fields.k),
            ("epochs", fields.epochs),
            ("batch", fields.batch),
            ("restarts", fields.restarts),
        ] {
            if value == 0 {
                return Err(with.error(name, "found 0, expected at least 1").into());
            }
        }
        if fields.engine == Engine::Linfa && !cfg!(feature = "linfa") {
            let message = "found linfa, but this program was built without it, expected gemm; build it with \
                           `--features linfa` or leave the field out";
            return Err(with.error("engine", message).into());
        }
        if let Some([train, _]) = cx.images {
            fields.check_images(with, train, cx.grid.num_patches())?;
        }
        Ok(fields)
    }

    fn check_images(&self, with: &Config, train: usize, patches: usize) -> Result<()> {
        if train > 0 && self.held_out >= train {
            let message = format!(
                "found {}, but the train split has only {train} images, expected fewer; lower held_out",
                self.held_out
            );
            return Err(with.error("held_out", message).into());
        }
        let images = train.saturating_sub(self.held_out);
        if self.k > images * patches {
            let of = match self.held_out {
                0 => String::new(),
                held_out => format!(" after {held_out} held out"),
            };
            let message = format!(
                "found {}, but the train split has only {} patches{of} ({images} images x {patches}); lower k or add images",
                self.k,
                images * patches
            );
            return Err(with.error("k", message).into());
        }
        Ok(())
    }

    /// Refuses what linfa's Lloyd would need too much memory for; `dim` numbers per patch.
    pub fn check_memory(&self, with: &Config, cx: &BuildContext<'_>, dim: usize) -> Result<()> {
        let (Engine::Linfa, Algorithm::Lloyd, Some([train, _])) =
            (self.engine, self.algorithm, cx.images)
        else {
            return Ok(());
        };
        let bytes = train * cx.grid.num_patches() * dim * size_of::<f32>();
        if bytes <= LINFA_BYTES {
            return Ok(());
        }
        let message = format!(
            "found linfa with `algorithm: lloyd`, which would hold {:.1} GiB of features in memory, expected at most {} GiB; \
             use `engine: gemm`, which streams, or `algorithm: mini-batch`",
            bytes as f64 / f64::from(1 << 30),
            LINFA_BYTES >> 30
        );
        Err(with.error("engine", message).into())
    }

    /// Everything of the fields that changes the codebook.
    pub fn about(&self) -> String {
        let Self {
            k,
            epochs,
            batch,
            shuffle,
            algorithm,
            init,
            restarts,
            engine,
            held_out,
            ..
        } = self;
        format!(
            "k {k} epochs {epochs} batch {batch} shuffle {shuffle} {algorithm:?} {init:?} restarts {restarts} \
             {engine:?} held out {held_out}"
        )
    }
}
