//! The fields of `kind: webdataset` in a suite.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, schemars};

use super::pattern::braces;
use crate::data::decoding::DecodedCache;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
/// The fields beside `kind`.
pub struct Fields {
    /// Local `.tar` shards of the train split: `train-{000000..000012}.tar`, a glob, a folder, or a list of these.
    pub train: Patterns,
    /// The same of the val split.
    pub val: Patterns,
    /// A file whose first line names label 0, the second label 1, and so on, where labels are numbers. Without it classes are
    /// named by their numbers.
    pub class_names: Option<PathBuf>,
    /// A file with the name of one class per line (what follows a tab, or a name and a space, is ignored), in label order: only these are taken.
    pub classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size where what is seen of them is rendered no larger than that. Faster on
    /// large images, but not the pixels of the whole image resampled: everything is computed anew, and tables say so.
    #[serde(default)]
    pub fast_decode: bool,
    /// `u8`: decode every image once, into a file of the store that is then mapped into memory. No result changes; `--dry-run` says
    /// how large it is (three bytes a pixel, images at their own size).
    pub decoded_cache: Option<DecodedCache>,
}

/// One pattern or several. A name is a list of one: the parser says which field is wrong.
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
                "found {value}, expected a path of shards or a list of them"
            ))
        })
}

/// Paths of shards with their braces expanded; globs and folders stay as they are until the scan.
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
                    "found `{pattern}`, expected local files: copy the shards to this machine; several patterns are a list"
                ),
            ));
        }
        let names = braces(pattern).map_err(|message| with.error(field, message))?;
        paths.extend(names.into_iter().map(|name| with.resolve_path(name)));
    }
    Ok(paths)
}
