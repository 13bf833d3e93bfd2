//! The suite's `dataset:` piece.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::config::nearest;
use tessera_tokenizers::{Config, ConfigError, schemars};

/// One kind of dataset, for `bench list` and the JSON Schema.
pub struct DatasetKind {
    /// Name in suites.
    pub kind: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Schema of the fields beside `kind`.
    pub schema: fn() -> schemars::Schema,
}

/// All kinds.
pub const DATASETS: &[DatasetKind] = &[
    DatasetKind {
        kind: "cifar-binary",
        summary: "CIFAR-10 or CIFAR-100, the official binary archive's files",
        schema: || schemars::schema_for!(CifarFields),
    },
    DatasetKind {
        kind: "image-folder",
        summary: "train/<class>/* and val/<class>/*, JPEG, PNG or WebP",
        schema: || schemars::schema_for!(FolderFields),
    },
    DatasetKind {
        kind: "mosaics",
        summary: "images drawn by this program from a seed: ten textures on objects; nothing to download",
        schema: || schemars::schema_for!(MosaicFields),
    },
];

/// Where the images come from, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetSpec {
    /// `train/<class>/*` and `val/<class>/*`.
    ImageFolder {
        /// The folder with `train` and `val`.
        root: PathBuf,
        /// A file with one class folder name per line, in label order.
        classes: Option<PathBuf>,
        /// JPEGs are decoded no larger than they are rendered.
        fast_decode: bool,
    },
    /// The official binary files.
    CifarBinary {
        /// The folder with `*.bin`.
        root: PathBuf,
        /// 10 or 100.
        classes: usize,
    },
    /// Drawn from a seed.
    Mosaics {
        /// The seed.
        seed: u64,
        /// Number of train images.
        train: usize,
        /// Number of val images.
        val: usize,
        /// Side of an image, pixels.
        size: usize,
    },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FolderFields {
    /// The folder with `train` and `val`.
    root: PathBuf,
    /// A file with one class folder name per line (what follows a space or tab is ignored), in label order.
    classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size where what is seen of them is rendered no larger than that. Faster on
    /// large images, but not the pixels of the whole image resampled: everything is computed anew, and tables say so.
    #[serde(default)]
    fast_decode: bool,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CifarFields {
    /// The folder with `data_batch_1.bin` ... (or `train.bin`).
    root: PathBuf,
    /// 10 or 100.
    #[serde(default = "ten")]
    classes: usize,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MosaicFields {
    /// Seed of the drawing.
    #[serde(default)]
    seed: u64,
    /// Number of train images.
    train: usize,
    /// Number of val images.
    val: usize,
    /// Side of an image, pixels.
    size: usize,
}

fn ten() -> usize {
    10
}

/// Reads `{kind: ..., ...}`; paths are relative to the suite file.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub fn parse(at: &Config) -> Result<DatasetSpec, ConfigError> {
    let (kind, with) = at.split_kind()?;
    match kind.as_str() {
        "image-folder" => {
            let fields: FolderFields = with.parse()?;
            Ok(DatasetSpec::ImageFolder {
                root: with.resolve_path(fields.root),
                classes: fields.classes.map(|c| with.resolve_path(c)),
                fast_decode: fields.fast_decode,
            })
        }
        "cifar-binary" => {
            let CifarFields { root, classes } = with.parse()?;
            if classes != 10 && classes != 100 {
                return Err(with.error("classes", format!("found {classes}, expected 10 or 100")));
            }
            Ok(DatasetSpec::CifarBinary {
                root: with.resolve_path(root),
                classes,
            })
        }
        "mosaics" => {
            let MosaicFields {
                seed,
                train,
                val,
                size,
            } = with.parse()?;
            if train == 0 || val == 0 || size < 8 {
                return Err(with.error(
                    "",
                    format!(
                        "found train {train}, val {val}, size {size}; expected at least 1, 1 and 8"
                    ),
                ));
            }
            Ok(DatasetSpec::Mosaics {
                seed,
                train,
                val,
                size,
            })
        }
        other => {
            let known = DATASETS.iter().map(|d| d.kind);
            let hint = nearest(other, known.clone())
                .map(|n| format!("; did you mean `{n}`?"))
                .unwrap_or_default();
            let list = known.collect::<Vec<_>>().join(", ");
            Err(at.error(
                "kind",
                format!("unknown dataset kind `{other}`, expected one of {list}{hint}"),
            ))
        }
    }
}
