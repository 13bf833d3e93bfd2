//! `continuous`: features as regression targets: pixels (MAE), HOG (MaskFeat), features of an encoder.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_kernels::device::launcher::Device;
use tessera_models::{TargetSpec, Targets};

use crate::Result;
use crate::config::Config;
use crate::contract::{Facts, Features, Fingerprint, Grid, Tokenizer};
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::View;

/// Factory of `continuous`.
pub struct ContinuousFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Features that are the targets: `{kind: ..., ...}`, see `bench list features`.
    #[expect(dead_code, reason = "parsed separately, with positions in the suite")]
    features: serde_json::Value,
}

impl TokenizerFactory for ContinuousFactory {
    fn kind(&self) -> &'static str {
        "continuous"
    }

    fn summary(&self) -> &'static str {
        "features as regression targets: identity (pixels), HOG, an encoder's features"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let Fields { .. } = with.parse()?;
        Ok(Box::new(Continuous {
            features: cx.registry.build_features(&with.nested("features"), cx)?,
            device: cx.device.cloned(),
        }))
    }
}

struct Continuous {
    features: Box<dyn Features>,
    /// Device for features that have kernels; `None` for the CPU.
    device: Option<Device>,
}

impl Tokenizer for Continuous {
    fn target(&self) -> TargetSpec {
        TargetSpec::Values {
            dim: self.features.dim(),
        }
    }

    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[b"continuous", self.features.fingerprint().0.as_bytes()])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let (batch, patches) = (view.batch(), self.grid().num_patches());
        let values: Tensor = match (&self.device, self.features.on_device()) {
            (Some(device), Some(features)) => {
                let shape = [batch, patches, self.features.dim()];
                device.tensor(features.extract(device, view)?, &shape)?
            }
            _ => self.features.extract(view)?,
        };
        Ok(Targets::Values(values).checked(self.target(), batch, patches)?)
    }

    fn facts(&self) -> Facts {
        self.features.facts()
    }
}
