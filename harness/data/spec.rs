//! The suite's `dataset:` piece.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::config::nearest;
use tessera_tokenizers::{Config, ConfigError, schemars};

use super::shards::{Shards, braces};

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
    DatasetKind {
        kind: "webdataset",
        summary: "local .tar shards of JPEG, PNG or WebP, a .cls or .json with its label beside each",
        schema: || schemars::schema_for!(WebDatasetFields),
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
        /// How it is decoded.
        decoding: Decoding,
    },
    /// `.tar` shards.
    WebDataset {
        /// Where they are.
        shards: Shards,
        /// How it is decoded.
        decoding: Decoding,
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

/// How encoded images become pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// JPEGs are decoded no larger than they are rendered.
    pub fast: bool,
    /// Decoded images are kept in the store.
    pub cached: bool,
}

impl DatasetSpec {
    /// How encoded images become pixels; nothing special where there are none.
    pub fn decoding(&self) -> Decoding {
        match self {
            Self::ImageFolder { decoding, .. } | Self::WebDataset { decoding, .. } => *decoding,
            Self::CifarBinary { .. } | Self::Mosaics { .. } => Decoding::default(),
        }
    }
}

/// What a decoded image is kept as.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum DecodedCache {
    /// Its pixels, three bytes each, at its own size.
    U8,
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
    /// `u8`: decode every image once, into a file of the store that is then mapped into memory. No result changes; `--dry-run` says
    /// how large it is (three bytes a pixel, images at their own size).
    decoded_cache: Option<DecodedCache>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WebDatasetFields {
    /// Local `.tar` shards of the train split: `train-{000000..000012}.tar`, a glob, a folder, or a list of these.
    train: Patterns,
    /// The same of the val split.
    val: Patterns,
    /// A file whose first line names label 0, the second label 1, and so on, where labels are numbers. Without it classes are
    /// named by their numbers.
    class_names: Option<PathBuf>,
    /// A file with the name of one class per line (what follows a space or tab is ignored), in label order: only these are taken.
    classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size where what is seen of them is rendered no larger than that. Faster on
    /// large images, but not the pixels of the whole image resampled: everything is computed anew, and tables say so.
    #[serde(default)]
    fast_decode: bool,
    /// `u8`: decode every image once, into a file of the store that is then mapped into memory. No result changes; `--dry-run` says
    /// how large it is (three bytes a pixel, images at their own size).
    decoded_cache: Option<DecodedCache>,
}

/// One pattern or several. A name is a list of one: the parser says which field is wrong.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Patterns(#[serde(deserialize_with = "one_or_more")] Vec<String>);

impl JsonSchema for Patterns {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Patterns".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
        ]})
    }
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error;
    let value = serde_json::Value::deserialize(from)?;
    let text = |value: &serde_json::Value| value.as_str().map(String::from);
    let all = match &value {
        serde_json::Value::Array(items) => items.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    };
    all.filter(|all: &Vec<String>| !all.is_empty())
        .ok_or_else(|| {
            D::Error::custom(format!(
                "found {value}, expected a path of shards or a list of them"
            ))
        })
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
                decoding: decoding(&with, fields.fast_decode, fields.decoded_cache)?,
            })
        }
        "webdataset" => {
            let fields: WebDatasetFields = with.parse()?;
            Ok(DatasetSpec::WebDataset {
                shards: Shards {
                    train: patterns(&with, "train", &fields.train)?,
                    val: patterns(&with, "val", &fields.val)?,
                    class_names: fields.class_names.map(|c| with.resolve_path(c)),
                    classes: fields.classes.map(|c| with.resolve_path(c)),
                },
                decoding: decoding(&with, fields.fast_decode, fields.decoded_cache)?,
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

fn decoding(
    with: &Config,
    fast: bool,
    cached: Option<DecodedCache>,
) -> Result<Decoding, ConfigError> {
    let cached = matches!(cached, Some(DecodedCache::U8));
    if fast && cached {
        return Err(with.error(
            "decoded_cache",
            "found u8 beside `fast_decode: true`, expected one of them: the cache holds images at their own size; leave one out",
        ));
    }
    Ok(Decoding { fast, cached })
}

/// Paths of shards with their braces expanded; globs and folders stay as they are until the scan.
fn patterns(with: &Config, field: &str, patterns: &Patterns) -> Result<Vec<PathBuf>, ConfigError> {
    let mut paths = Vec::new();
    for pattern in &patterns.0 {
        if pattern.contains("://") || pattern.starts_with("pipe:") || pattern.contains("::") {
            return Err(with.error(
                field,
                format!(
                    "found `{pattern}`, expected local files: copy the shards to this machine; several patterns are a list"
                ),
            ));
        }
        let names = braces(pattern).map_err(|message| with.error(field, message))?;
        paths.extend(names.into_iter().map(|name| with.resolve_path(name)));
    }
    Ok(paths)
}
