//! `random`: ids that depend on the place of a patch only, never on pixels: a lower bound for tables, and a test of the theory.

use candle_core::{Device, Tensor};
use rand::Rng;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::rng::{ChaCha8Rng, keyed_rng};
use tessera_models::{TargetSpec, Targets};

use crate::Result;
use crate::config::Config;
use crate::contract::{Fingerprint, Grid, MOST_CODES, Tokenizer};
use crate::features::Patches;
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::{SampleId, View};

/// Factory of `random`.
pub struct RandomFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// What has an id of its own: `patch` (each position of each image), `position` (the same in every image), or `image` (all its patches
    /// have one id). Ids do not depend on crops, and under a mirrored view they stay at their positions.
    #[serde(default)]
    per: Per,
    /// Number of different ids.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: usize,
    /// Seed of the ids.
    #[serde(default)]
    #[schemars(range(min = 0, max = u64::MAX))]
    seed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Per {
    #[default]
    Patch,
    Position,
    Image,
}

impl TokenizerFactory for RandomFactory {
    fn kind(&self) -> &'static str {
        "random"
    }

    fn summary(&self) -> &'static str {
        "control: random ids without any information; per: patch | position | image"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let Patches { grid, .. } = Patches::of(with, cx)?;
        Ok(Box::new(Random { grid, fields }))
    }
}

struct Random {
    grid: Grid,
    fields: Fields,
}

impl Random {
    /// Appends the ids of an image.
    fn extend(&self, ids: &mut Vec<u32>, id: SampleId) {
        let Fields {
            per,
            codebook_size,
            seed,
        } = self.fields;
        let draw = |rng: &mut ChaCha8Rng| rng.random_range(0..codebook_size as u32);
        let of_image = || {
            let stage = format!("random ids of {}", id.split.name());
            keyed_rng(seed, &stage, 0, id.index as u64)
        };
        let patches = self.grid.num_patches();
        match per {
            Per::Image => ids.resize(ids.len() + patches, draw(&mut of_image())),
            Per::Patch => {
                let mut rng = of_image();
                ids.extend((0..patches).map(|_| draw(&mut rng)));
            }
            Per::Position => {
                let mut rng = keyed_rng(seed, "random ids of positions", 0, 0);
                ids.extend((0..patches).map(|_| draw(&mut rng)));
            }
        }
    }
}

impl Tokenizer for Random {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.fields.codebook_size,
        }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        let Fields {
            per,
            codebook_size,
            seed,
        } = &self.fields;
        let about = format!("random 1 {per:?} {codebook_size} {seed} {}", self.grid);
        Fingerprint::of(&[about.as_bytes()])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let shape = (view.batch(), self.grid.num_patches());
        let mut ids = Vec::with_capacity(shape.0 * shape.1);
        for sample in view.samples() {
            self.extend(&mut ids, sample.id);
        }
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn looks_up(&self) -> bool {
        true
    }
}
