//! K-means over the patch features of any encoder: ClusterMIM's tokenizer (paper, section 3; `main_kmeans_cpu_patch.py`).

mod codebook;
mod fit;
mod nearest;
mod rows;
mod seeding;
mod step;

pub use nearest::NotFinite;
pub use step::{Step, Stepper, products};

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::{TargetSpec, Targets};

use crate::config::Config;
use crate::contract::{
    BuildContext, Facts, Features, Fingerprint, Grid, ImageStream, Tokenizer, TokenizerFactory,
};
use crate::view::View;
use crate::{Error, Result};

use codebook::Codebook;

/// Factory of `kmeans`.
pub(crate) struct KMeansFactory;

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// What is clustered: `{kind: ..., ...}`, see `bench list features`.
    #[expect(
        dead_code,
        reason = "built from its own piece of the suite, with positions"
    )]
    features: serde_json::Value,
    /// Number of codes.
    k: usize,
    /// Passes over the train split.
    epochs: usize,
    /// Images per mini-batch.
    #[serde(default = "batch")]
    batch: usize,
    /// Shuffle the images every epoch (ClusterMIM's loader does not: its batches come sorted by class).
    #[serde(default = "shuffle")]
    shuffle: bool,
    /// How a patch finds its code.
    #[serde(default)]
    matching: Matching,
}

/// How a patch finds its code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Matching {
    /// The nearest centre.
    #[default]
    Euclidean,
    /// The largest inner product of the L2-normalised feature with the centre as it is (ClusterMIM's `--token_normalize`).
    InnerProduct,
    /// The largest cosine.
    Cosine,
}

fn batch() -> usize {
    256
}

fn shuffle() -> bool {
    true
}

impl TokenizerFactory for KMeansFactory {
    fn kind(&self) -> &'static str {
        "kmeans"
    }

    fn summary(&self) -> &'static str {
        "mini-batch K-means over any features (ClusterMIM), k-means++ start"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn learns(&self) -> bool {
        true
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        let fields: Fields = with.parse()?;
        for (name, value) in [
            ("k", fields.k),
            ("epochs", fields.epochs),
            ("batch", fields.batch),
        ] {
            if value == 0 {
                return Err(with.error(name, "found 0, expected at least 1").into());
            }
        }
        if let Some([train, _]) = cx.images {
            let patches = train * cx.grid.num_patches();
            if fields.k > patches {
                return Err(with.error("k", format!(
                    "found {}, but the train split has only {patches} patches ({train} images x {}); lower k or add images",
                    fields.k, cx.grid.num_patches())).into());
            }
        }
        cx.registry
            .build_features(&with.nested("features"), cx)
            .map(drop)
    }

    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let Fields {
            k,
            epochs,
            batch,
            shuffle,
            ..
        } = fields;
        let about = format!(
            "kmeans {} k {k} epochs {epochs} batch {batch} shuffle {shuffle}",
            fit::VERSION
        );
        Ok(Fingerprint::of(&[
            about.as_bytes(),
            features.fingerprint().0.as_bytes(),
        ]))
    }

    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        self.validate(
            with,
            &BuildContext {
                images: Some([images.len(), 0]),
                ..*cx
            },
        )?;
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let settings = fit::Settings {
            k: fields.k,
            epochs: fields.epochs,
            batch: fields.batch,
            shuffle: fields.shuffle,
            seed,
        };
        let codebook = fit::fit(features.as_ref(), images, &settings, cx)?;
        Ok(Box::new(KMeans {
            features,
            codebook,
            matching: fields.matching,
            epochs: fields.epochs,
        }))
    }

    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let codebook = Codebook::load(&state.join("codebook.safetensors"))?;
        if (codebook.k, codebook.dim) != (fields.k, features.dim()) {
            return Err(Error::File {
                path: state.join("codebook.safetensors"),
                message: format!(
                    "holds {}x{} centres, expected {}x{}",
                    codebook.k,
                    codebook.dim,
                    fields.k,
                    features.dim()
                ),
            });
        }
        Ok(Box::new(KMeans {
            features,
            codebook,
            matching: fields.matching,
            epochs: fields.epochs,
        }))
    }
}

struct KMeans {
    features: Box<dyn Features>,
    codebook: Codebook,
    matching: Matching,
    epochs: usize,
}

impl KMeans {
    fn refused(&self, found: NotFinite, view: &View<'_>) -> Error {
        let patches = self.grid().num_patches();
        let id = view.samples()[found.row / patches].id;
        Error::Image {
            name: format!("{} of {:?}", id.index, id.split),
            message: format!(
                "patch {}: a feature is not a finite number, or too large for products in f32; expected finite \
                 features: check their input scaling and the encoder",
                found.row % patches
            ),
        }
    }
}

impl Tokenizer for KMeans {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.codebook.k,
        }
    }

    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        let matching = format!("{:?}", self.matching);
        let features = self.features.fingerprint();
        Fingerprint::of(&[
            b"kmeans",
            features.0.as_bytes(),
            matching.as_bytes(),
            &self.codebook.bytes(),
        ])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let values: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
        let ids = self.codebook.assign(&values, self.matching);
        let ids = ids.map_err(|e| self.refused(e, view))?;
        let shape = (view.batch(), self.grid().num_patches());
        let ids = candle_core::Tensor::from_vec(ids, shape, &candle_core::Device::Cpu)?;
        Ok(Targets::Ids(ids))
    }

    fn save(&self, state: &Path) -> Result<()> {
        self.codebook.save(&state.join("codebook.safetensors"))
    }

    fn facts(&self) -> Facts {
        Facts {
            kmeans_epochs: Some(self.epochs),
            ..self.features.facts()
        }
    }
}

#[cfg(test)]
mod tests;
