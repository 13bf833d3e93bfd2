//! Fields of `kind: kmeans` in a suite, and their checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::Config;
use crate::contract::MOST_CODES;
use crate::registry::BuildContext;

/// Maximum bytes of features for linfa's Lloyd, which holds all patches in memory.
const LINFA_BYTES: usize = 4 << 30;

/// Each pass is a look at every image, and no K-means needs so many.
const MOST_EPOCHS: usize = 1_000_000;

/// All features of a batch are in memory.
const MOST_IMAGES: usize = 1 << 20;

/// Each is a whole fit.
const MOST_RESTARTS: usize = 1000;

/// More than any split has; it must be below the number of train images.
const MOST_HELD_OUT: usize = 1 << 32;

/// The fields of `with:`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Features to cluster: `{kind: ..., ...}`, see `bench list features`.
    #[expect(dead_code, reason = "parsed separately, with positions in the suite")]
    features: serde_json::Value,
    /// Number of codes.
    #[schemars(range(min = 1, max = MOST_CODES))]
    pub k: usize,
    /// Passes over the train split. For `algorithm: lloyd` this is the maximum; the fit ends earlier when the centres stop moving.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images per mini-batch. For `algorithm: lloyd`, images in memory at a time.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    #[serde(default = "batch")]
    pub batch: usize,
    /// Shuffle the images every epoch. (ClusterMIM's loader does not shuffle; its batches are sorted by class.) For `algorithm: lloyd`
    /// it only affects the images for the first centres.
    #[serde(default = "shuffle")]
    pub shuffle: bool,
    /// Similarity by which a patch gets its code.
    #[serde(default)]
    pub matching: Matching,
    /// Algorithm of the fit.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Choice of the first centres.
    #[serde(default)]
    pub init: Init,
    /// Number of fits from different first centres; the one with the smallest inertia over the train split wins. If more than one, each
    /// costs `epochs` passes and one more for the inertia.
    #[schemars(range(min = 1, max = MOST_RESTARTS))]
    #[serde(default = "restarts")]
    pub restarts: usize,
    /// Implementation of the fit.
    #[serde(default)]
    pub engine: Engine,
    /// Number of train images, sampled with `fit_seed`, that are excluded from the fit to measure the inertia. If 0, the inertia is
    /// measured on all images of the fit.
    #[schemars(range(max = MOST_HELD_OUT))]
    #[serde(default)]
    pub held_out: usize,
}

/// Similarity by which a patch gets its code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Matching {
    /// The nearest centre.
    #[default]
    Euclidean,
    /// The largest inner product of the L2-normalised feature with the unnormalised centre (ClusterMIM's `--token_normalize`).
    InnerProduct,
    /// The largest cosine similarity.
    Cosine,
}

/// Algorithm of the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Centres move after every batch of images (Sculley 2010; scikit-learn's `MiniBatchKMeans` and ClusterMIM).
    #[default]
    MiniBatch,
    /// Centres move to the mean of their patches after every pass over the train split (scikit-learn's `KMeans`).
    Lloyd,
}

/// Choice of the first centres among random patches of the first images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Init {
    /// One after another, distant patches with higher probability (Arthur and Vassilvitskii 2007, with scikit-learn's trials).
    #[default]
    #[serde(rename = "k-means++")]
    PlusPlus,
    /// About `2 k` per round in five rounds over a larger sample, then k-means++ among these (Bahmani et al. 2012).
    #[serde(rename = "k-means||")]
    Parallel,
    /// Uniformly random patches.
    #[serde(rename = "random")]
    Random,
}

/// Implementation of the fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Tessera's implementation with matrix products.
    #[default]
    Gemm,
    /// The linfa-clustering crate with the same first centres, for comparison. It counts a centre's last position as one more patch,
    /// does not move empty centres, and holds all patches in memory for `algorithm: lloyd`.
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
    /// Parses the fields of `with` and checks them against `cx`.
    pub fn checked(with: &Config, cx: &BuildContext<'_>) -> Result<Self> {
        let fields: Self = with.parse()?;
        if fields.engine == Engine::Linfa && !cfg!(feature = "linfa") {
            let message = "found linfa, but this program was built without it, expected gemm; build it with `--features linfa` or \
                           leave the field out";
            return Err(with.error("engine", message).into());
        }
        if let Some(train) = cx.images.map(|[train, _]| train).or(cx.at_most) {
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

    /// Refuses a Lloyd fit by linfa that needs too much memory, with `dim` features per patch.
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
            "found linfa with `algorithm: lloyd`, which needs {:.1} GiB of features in memory, expected at most {} GiB; use \
             `engine: gemm`, which streams, or `algorithm: mini-batch`",
            bytes as f64 / f64::from(1 << 30),
            LINFA_BYTES >> 30
        );
        Err(with.error("engine", message).into())
    }

    /// Returns all fields that change the codebook, as text for the fingerprint.
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
