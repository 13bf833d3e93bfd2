//! Recipes of the attentive probe, and of the classifier on counts of codes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::vit::Layer;
use tessera_tokenizers::layer::layer_schema;

use super::choices::{
    Augment, MOST_EPOCHS, MOST_IMAGES, ProbeOptimizer, probe_warmup, random_resized_crop_tf,
    train_scale,
};
use super::rates::{MOST_RATE, Rates};

/// More than any model has channels.
const MOST_QUERIES: usize = 4096;

/// Attentive probing: learned queries read the frozen patch tokens by one cross-attention, a linear layer classifies what they read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttentiveProbe {
    /// Passes over the train split. A last batch that is not whole is left out; the order differs in each.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub epochs: usize,
    /// Images per step, at least 2, because BatchNorm needs the spread of a batch; larger than the split means the whole split. The patch
    /// tokens of a batch are in memory.
    #[schemars(range(min = 2, max = MOST_IMAGES))]
    pub batch: usize,
    /// Learning rate at batch 256, or a list: each row and seed uses the best rate on a tenth of the train images that is held out. Each
    /// rate of a list costs a training.
    pub base_lr: Rates,
    /// Form of the cross-attention.
    #[serde(default)]
    pub form: AttentiveForm,
    /// Queries of the multi-query form, a divisor of the backbone's width. Default: 32, as in arXiv 2506.10178.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_QUERIES))]
    pub queries: Option<usize>,
    /// Epochs of linear warm-up. Default: 10, or a tenth of `epochs` if there are fewer than 20.
    #[serde(default = "probe_warmup")]
    #[schemars(range(min = 0, max = MOST_EPOCHS))]
    pub warmup_epochs: f64,
    /// Weight decay of the matrices.
    #[serde(default)]
    #[schemars(range(min = 0, max = MOST_RATE))]
    pub weight_decay: f64,
    /// Optimiser.
    #[serde(default = "adamw")]
    pub optimizer: ProbeOptimizer,
    /// Augmentation; with `none` the tokens are computed only once if those of the train split fit into 512 MiB.
    #[serde(default = "random_resized_crop_tf")]
    pub augment: Augment,
    /// Smallest and largest area of a random crop, as fractions of the image's.
    #[serde(default = "train_scale")]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub crop_scale: [f64; 2],
    /// Block whose patch tokens are read, through the encoder's final norm: a number from 1, or `last-N` for the N last blocks side by side.
    /// Default: the last block.
    #[serde(default, skip_serializing_if = "Layer::is_default")]
    #[schemars(schema_with = "layer_schema")]
    pub layer: Layer,
}

/// Forms of an attentive probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttentiveForm {
    /// arXiv 2506.10178 ("efficient probing"): several queries on the tokens themselves, each reads a group of the values' channels.
    #[default]
    MultiQuery,
    /// CAE, and V-JEPA without its MLP: one query, keys and values in as many heads as the backbone has, an output projection.
    SingleQuery,
}

impl AttentiveProbe {
    /// Number of queries of the multi-query form.
    pub fn multi_queries(&self) -> usize {
        self.queries.unwrap_or(32)
    }

    /// Returns whether `queries` fits the form and a backbone of width `width`.
    pub(super) fn queries_fit(&self, width: Option<usize>) -> bool {
        let queries = self.multi_queries();
        match self.form {
            AttentiveForm::MultiQuery => width.is_none_or(|width| width.is_multiple_of(queries)),
            AttentiveForm::SingleQuery => self.queries.is_none(),
        }
    }
}

/// A linear classifier on the counts of codes in an image, without an encoder: what a row's tokens say about the class. Rows with values
/// have none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BagOfTokens {
    /// Strengths of the L2 penalty; each row uses the best one on a tenth of the train images that is held out.
    #[serde(default = "strengths")]
    pub l2: Rates,
}

fn adamw() -> ProbeOptimizer {
    ProbeOptimizer::Adamw
}
fn strengths() -> Rates {
    Rates::of(&[1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6])
}
