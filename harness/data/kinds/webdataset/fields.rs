//! The fields of `kind: webdataset` in a suite.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, schemars};

use super::pattern::braces;
use crate::data::decoding::DecodedCache;

/// The fields beside `kind`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Local `.tar` shards of the train split: `train-{000000..000012}.tar`, a glob, a folder, or a list of these.
    pub train: Patterns,
    /// Shards of the val split, in the same form. To score, train shards alone are enough.
    pub val: Option<Patterns>,
    /// Fraction of the images of each class that become the val split, for shards without `val`.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub hold_out: Option<f64>,
    /// Seed of the draw of `hold_out`.
    #[serde(default)]
    #[schemars(range(min = 0, max = u64::MAX))]
    pub hold_out_seed: u64,
    /// A file whose lines name labels 0, 1, and so on (what follows a tab or a WordNet id is ignored). Without it, numeric labels are class names.
    pub class_names: Option<PathBuf>,
    /// A file with the name of one class per line (what follows a tab or a WordNet id is ignored), in label order: only these are taken.
    pub classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size if no more is rendered. Faster on large images, but the pixels differ from
    /// those of the resampled original: everything is computed again, and tables say so.
    #[serde(default)]
    pub fast_decode: bool,
    /// `u8`: decode every image once into a file of the store, which is mapped into memory. No result changes. `--dry-run` prints its
    /// size (three bytes per pixel, images at their own size).
    pub decoded_cache: Option<DecodedCache>,
}

/// One pattern or several.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patterns(#[serde(deserialize_with = "one_or_more")] Vec<String>);

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
                "found {value}, expected a path of shards or a list of paths"
            ))
        })
}

/// Returns paths of shards with expanded braces. The scan expands globs and folders.
pub fn patterns(
    with: &Config,
    field: &str,
    patterns: &Patterns,
) -> Result<Vec<PathBuf>, ConfigError> {
    let mut paths = Vec::new();
    for pattern in &patterns.0 {
        if pattern.contains("://") || pattern.starts_with("pipe:") || pattern.contains("::") {
            return Err(with.error(
                field,
                format!(
                    "found `{pattern}`, expected local files; copy the shards to this machine, and write several patterns as a list"
                ),
            ));
        }
        let names = braces(pattern).map_err(|message| with.error(field, message))?;
        paths.extend(names.into_iter().map(|name| with.resolve_path(name)));
    }
    Ok(paths)
}
