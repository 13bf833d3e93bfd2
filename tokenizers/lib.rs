//! The contract of visual tokenizers, the registry, and the built-in tokenizers.
//!
//! Start at [`contract`]: two traits, [`Features`] and [`Tokenizer`], each with a factory ([`registry`]). All tokenizers of the paper are
//! one of four small implementations, and new ones combine with them.

mod builtin;
mod codes;
pub mod config;
mod continuous;
pub mod contract;
pub mod error;
mod features;
mod input;
pub mod kmeans;
pub mod layer;
pub mod memory;
pub mod numpy;
#[cfg(feature = "onnx")]
pub mod onnx;
mod oracle;
mod pool;
mod program;
mod random;
mod random_projection;
pub mod registry;
pub mod schema;
mod token_file;
pub mod view;

pub use bytes::Bytes;
pub use config::{Config, ConfigError, Source};
pub use contract::{
    Facts, Features, Fingerprint, FitCost, Grid, ImageStream, Labels, MOST_CODES, MOST_GROUPS,
    Needs, Plan, Tokenizer,
};
pub use error::{Error, Result};
pub use input::Scale;
#[cfg(feature = "onnx")]
pub use onnx::engines;
pub use program::read_replies;
pub use registry::{
    BuildContext, FeaturesFactory, ImageNames, LabelsInOrder, Programs, Registry, RowEncoder, Rows,
    TokenizerFactory, no_rows,
};
pub use schemars;
pub use tessera_models::{Groups, TargetSpec, Targets};
pub use view::{CropBox, Edit, Image, InputSpec, Rendered, Sample, SampleId, Split, View, ViewBuf};

/// Returns lines for `bench doctor` about the ONNX engines: label and text.
#[cfg(not(feature = "onnx"))]
pub fn engines() -> Vec<(String, String)> {
    vec![(
        "ONNX".to_owned(),
        "not in this program; build with `--features onnx`".to_owned(),
    )]
}
