//! A tokenizer of one's own, and the whole `bench` program with it: what README and CONTRIBUTING.md promise.

use std::process::ExitCode;

use candle_core::Tensor;
use serde::Deserialize;
use tessera::schemars::{self, JsonSchema};
use tessera::{
    BuildContext, Config, Fingerprint, Grid, InputSpec, Registry, Result, TargetSpec, Targets,
    Tokenizer, TokenizerFactory, View,
};

/// Ids by mean brightness of a patch, in equal steps.
struct BrightnessFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Number of steps.
    steps: usize,
}

impl TokenizerFactory for BrightnessFactory {
    fn kind(&self) -> &'static str {
        "brightness"
    }

    fn summary(&self) -> &'static str {
        "mean brightness of a patch in equal steps"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let Fields { steps } = with.parse()?;
        if steps == 0 {
            return Err(with.error("steps", "found 0, expected at least 1").into());
        }
        Ok(Box::new(Brightness { steps, grid: cx.grid, side: cx.image_size }))
    }
}

struct Brightness {
    steps: usize,
    grid: Grid,
    side: usize,
}

impl Tokenizer for Brightness {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids { codebook_size: self.steps }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        let about = format!("brightness 1, {} steps, {} px, {}", self.steps, self.side, self.grid);
        Fingerprint::of(&[about.as_bytes()])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let images = view.render(&InputSpec::imagenet(self.side))?;
        let patch = self.side / self.grid.rows;
        let means = images.mean(1)?.unsqueeze(1)?.avg_pool2d(patch)?.flatten_from(1)?;
        let means: Vec<Vec<f32>> = means.to_vec2()?;
        let step = |mean: f32| (((mean + 2.2) / 4.7 * self.steps as f32) as u32).min(self.steps as u32 - 1);
        let ids: Vec<u32> = means.iter().flatten().map(|mean| step(*mean)).collect();
        let shape = (means.len(), self.grid.num_patches());
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, images.device())?))
    }
}

fn main() -> ExitCode {
    tessera::bench(Registry::builtin().with(BrightnessFactory))
}
