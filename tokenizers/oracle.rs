//! `oracle`: the image's label as the token of every patch, the optimum of the paper's Theorem 1. No real tokenizer can do it: it is an
//! upper bound for tables, and a test of the theory.

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets};

use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, Needs, Plan, Tokenizer};
use crate::features::Patches;
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::{Split, View};
use crate::{Error, Result};

/// Factory of `oracle`.
pub struct OracleFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {}

impl TokenizerFactory for OracleFactory {
    fn kind(&self) -> &'static str {
        "oracle"
    }

    fn summary(&self) -> &'static str {
        "control: the image's label as the token of every patch (the optimum of Theorem 1); sees labels"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn needs(&self) -> Needs {
        Needs::Labels
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        let Fields {} = with.parse()?;
        Patches::of(with, cx).map(drop)
    }

    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        self.validate(with, cx)?;
        let target = cx.labels.map(|labels| TargetSpec::Ids {
            codebook_size: labels.classes,
        });
        Ok(Plan {
            target,
            looks_up: true,
            fit: None,
        })
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        self.validate(with, cx)?;
        let Some(labels) = cx.labels else {
            let message =
                "found no labels, expected those of scanned images (`BuildContext::labels`)";
            return Err(with.error("", message).into());
        };
        Ok(Box::new(Oracle {
            grid: cx.grid,
            classes: labels.classes,
            train: labels.train.to_vec(),
            val: labels.val.to_vec(),
        }))
    }
}

struct Oracle {
    grid: Grid,
    classes: usize,
    /// Label of each image, in scan order.
    train: Vec<u32>,
    val: Vec<u32>,
}

impl Tokenizer for Oracle {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.classes,
        }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        let about = format!("oracle 1 {} {}", self.classes, self.grid);
        let [train, val] = [&self.train, &self.val].map(|labels| {
            let bytes = labels.iter().flat_map(|label| label.to_le_bytes());
            bytes.collect::<Vec<u8>>()
        });
        Fingerprint::of(&[about.as_bytes(), &train, &val])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let patches = self.grid.num_patches();
        let mut ids = Vec::with_capacity(view.batch() * patches);
        for sample in view.samples() {
            let labels = match sample.id.split {
                Split::Train => &self.train,
                Split::Val => &self.val,
            };
            let label = labels.get(sample.id.index).ok_or_else(|| Error::Image {
                name: format!("{} of {}", sample.id.index, sample.id.split.name()),
                message: format!("it has no label; there are {}", labels.len()),
            })?;
            ids.resize(ids.len() + patches, *label);
        }
        let shape = (view.batch(), patches);
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn looks_up(&self) -> bool {
        true
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: true,
            ..Facts::default()
        }
    }
}
