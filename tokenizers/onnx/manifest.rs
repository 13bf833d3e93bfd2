//! The manifest beside a graph (`tokenizers/export/exporter.py` writes it).
//!
//! `NAME.yaml` or `NAME.yml` beside `NAME.onnx` is a manifest if it is a mapping with `sha256`. A file that looks like one but lacks the digest is
//! refused, and so is a manifest of a similar name (`NAME.json`, `NAME.onnx.yaml`); other files of that name, such as a suite, are ignored. Unknown keys are notes for people, except those that are nearly a key of the
//! manifest.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera_models::{Groups, files, foreign};

use super::input::Scale;
use super::plain;
use crate::config::Config;
use crate::contract::MOST_CODES;
use crate::view::MOST_PIXELS;
use crate::{Error, Result, schema};

/// Limit of a manifest in bytes, because nested lists need quadratic time. The exporters write less than a thousand.
const BYTES: u64 = 1 << 14;

/// Endings of a manifest's name.
pub const ENDINGS: [&str; 2] = ["yaml", "yml"];
/// Endings of names that people give a manifest, which are not read.
const OTHERS: [&str; 7] = [
    "YAML",
    "YML",
    "json",
    "JSON",
    "onnx.yaml",
    "onnx.yml",
    "onnx.json",
];
/// Keys that change numbers.
const KEYS: [&str; 7] = [
    "input",
    "kind",
    "grid",
    "codebook_size",
    "groups",
    "dim",
    "saw_labels",
];

/// Facts about a graph that the graph does not contain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The manifest's file.
    #[serde(skip)]
    pub path: PathBuf,
    /// SHA-256 of the graph's file, hex.
    sha256: String,
    /// Origin of the weights.
    source: Option<String>,
    /// Licence of the weights.
    licence: Option<String>,
    /// Checkpoint file, or `random`.
    weights: Option<String>,
    /// Size and scaling of the graph's input.
    #[serde(default)]
    pub input: Pixels,
    /// `onnx-ids` or `onnx`.
    kind: Option<String>,
    /// Rows and columns of patches.
    #[schemars(inner(range(min = 1)))]
    grid: Option<[usize; 2]>,
    /// Number of codes.
    #[schemars(range(min = 1, max = MOST_CODES))]
    pub codebook_size: Option<usize>,
    /// Number of codes of each group.
    pub groups: Option<Vec<usize>>,
    /// Features per patch.
    #[schemars(range(min = 1))]
    pub dim: Option<usize>,
    /// Whether training used labels.
    pub saw_labels: Option<bool>,
}

/// `input:` of a manifest, as in a suite.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Side, pixels.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub side: Option<usize>,
    /// Scaling.
    pub scale: Option<Scale>,
}

impl Manifest {
    /// Reads the manifest beside `graph`, if there is one, and checks its digest against the graph's `bytes`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, the digest differs, there are two, or one has another ending.
    pub fn beside(graph: &Path, bytes: &[u8]) -> Result<Option<Self>> {
        refuse_others(graph)?;
        let read = |ending| Self::read(graph.with_extension(ending), (graph, bytes));
        let [first, second] = ENDINGS.map(read);
        match (first?, second?) {
            (Some(first), Some(second)) => {
                let message = format!(
                    "is a second manifest, beside {}; remove one of the two",
                    first.path.display()
                );
                Err(refused(&second.path, message))
            }
            (first, second) => Ok(first.or(second)),
        }
    }

    /// Reads the manifest at `path` of a graph with these bytes; `None` if there is none.
    fn read(path: PathBuf, (graph, bytes): (&Path, &[u8])) -> Result<Option<Self>> {
        let text = match text(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(error) => return Err(refused(&path, error.to_string())),
        };
        let Some(mut manifest) = parsed(&text).map_err(|message| refused(&path, message))? else {
            return Ok(None);
        };
        manifest.path = path;
        let found: String = digest(&SHA256, bytes)
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        if !found.eq_ignore_ascii_case(&manifest.sha256) {
            return Err(refused(
                graph,
                format!(
                    "has SHA-256 {found}, expected {} by its manifest {}; fetch or export the file again, or move the manifest \
                     away if it belongs to another file",
                    manifest.sha256,
                    manifest.path.display()
                ),
            ));
        }
        Ok(Some(manifest))
    }

    /// Refuses a `kind` other than the manifest's.
    ///
    /// # Errors
    /// [`Error::Config`] on `model`.
    pub fn check_kind(&self, with: &Config, kind: &str) -> Result<()> {
        let Some(known) = self.kind.as_deref().filter(|known| *known != kind) else {
            return Ok(());
        };
        let remedy = match known {
            "onnx" => {
                "name it under `features: {kind: onnx, model: ...}` of a `continuous` or `kmeans` row"
            }
            "onnx-ids" => "use `kind: onnx-ids`",
            _ => "expected onnx or onnx-ids there; correct the manifest",
        };
        let message = format!(
            "the graph is for `kind: {known}` by its manifest {}, found `kind: {kind}`; {remedy}",
            self.path.display()
        );
        Err(with.error("model", message).into())
    }

    /// Checks that the manifest's value `expected`, if set, equals the graph's value `found`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn check<T: PartialEq + Serialize>(
        &self,
        key: &str,
        expected: Option<T>,
        found: T,
    ) -> Result<()> {
        match expected.filter(|expected| *expected != found) {
            None => Ok(()),
            Some(expected) => Err(refused(
                &self.path,
                format!(
                    "{key}: found {}, expected {} by the graph; export the graph again, or correct the manifest",
                    json!(expected),
                    json!(found)
                ),
            )),
        }
    }

    /// Checks the manifest's grid against the graph's (rows and columns, or the number of patches).
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn check_grid(&self, found: &[usize]) -> Result<()> {
        match (self.grid, found) {
            (Some(grid), [rows, cols]) => self.check("grid", Some(grid), [*rows, *cols]),
            (Some([rows, cols]), [patches]) => {
                let found = rows.saturating_mul(cols);
                self.check("grid (its number of patches)", Some(found), *patches)
            }
            _ => Ok(()),
        }
    }

    /// Returns the origin of the weights, for the results.
    pub fn provenance(&self) -> Value {
        json!({
            "source": self.source,
            "licence": self.licence,
            "weights": self.weights,
            "sha256": self.sha256,
        })
    }
}

/// Returns the value of `field` from the suite, else from the manifest.
///
/// # Errors
/// [`Error::Config`] on `field` if both are set and differ.
pub fn agreed<T: PartialEq + Serialize>(
    with: &Config,
    manifest: Option<&Manifest>,
    field: &str,
    written: Option<T>,
    known: impl FnOnce(&Manifest) -> Option<T>,
) -> Result<Option<T>> {
    let Some((manifest, known)) = manifest.and_then(|m| Some((m, known(m)?))) else {
        return Ok(written);
    };
    match written {
        Some(written) if written != known => {
            let message = format!(
                "found {}, expected {} by the model's manifest {}; leave `{field}` out, or correct the manifest",
                json!(written),
                json!(known),
                manifest.path.display()
            );
            Err(with.error(field, message).into())
        }
        _ => Ok(Some(known)),
    }
}

/// Refuses a manifest beside `graph` whose name has an ending that is not read: its values would be ignored.
fn refuse_others(graph: &Path) -> Result<()> {
    let own = ENDINGS.map(|ending| graph.with_extension(ending).canonicalize().ok());
    for path in OTHERS.map(|ending| graph.with_extension(ending)) {
        // Some file systems find `NAME.yaml` by the name `NAME.YAML`.
        let found = path.canonicalize().ok();
        if found.is_some() && own.contains(&found) {
            continue;
        }
        let text = match text(&path) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::InvalidData => continue,
            Err(error) => return Err(refused(&path, error.to_string())),
        };
        let value = plain::value(&text).unwrap_or_default();
        if value.get("sha256").is_some() && KEYS.iter().any(|key| value.get(key).is_some()) {
            let read = graph.with_extension(ENDINGS[0]);
            let message = format!(
                "looks like the graph's manifest, expected the name {}; rename it, or move it away if it is none",
                read.display()
            );
            return Err(refused(&path, message));
        }
    }
    Ok(())
}

/// Reads a file of at most [`BYTES`]; `None` if there is none.
///
/// # Errors
/// [`ErrorKind::InvalidData`] if it is longer or no text.
fn text(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = files::open_optional(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES {
        let message =
            format!("has more than {BYTES} bytes, expected a manifest; move it away if it is none");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    let text = foreign::utf8(bytes).map_err(|found| {
        let message = format!("found {found}, expected UTF-8; save the manifest in that encoding");
        io::Error::new(ErrorKind::InvalidData, message)
    })?;
    // Windows' editors begin a text with a byte order mark.
    Ok(Some(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }))
}

/// Returns `None` if `text` is not a manifest.
fn parsed(text: &str) -> Result<Option<Manifest>, String> {
    if let Some(what) = foreign::told(text.as_bytes()).filter(|_| !text.is_empty()) {
        return Err(what.into());
    }
    if text.trim().is_empty() {
        return Err(
            "is empty, expected a manifest with `sha256`; export or fetch it again, or remove it"
                .into(),
        );
    }
    let wrong = |e: serde_yaml::Error| format!("is not a readable manifest: {e}");
    let mut value = plain::value(text).map_err(wrong)?;
    if value.get("sha256").is_none() {
        return match lookalike(&value) {
            None => Ok(None),
            Some(key) => Err(format!(
                "has `{key}` but no `sha256`, expected a manifest with the digest of the graph; write `sha256`, or move the file away \
                 if it is no manifest"
            )),
        };
    }
    // YAML reads a digest of digits only, or of digits and an `e`, as a number.
    let AsText { sha256 } = serde_yaml::from_str(text).map_err(wrong)?;
    value["sha256"] = json!(sha256);
    let own = json!(schemars::schema_for!(Manifest));
    schema::check(&own, &value)
        .map_err(|(field, wrong)| format!("{field}: {wrong}; correct the manifest"))?;
    if let Some((field, names)) = schema::missing(&own, &value).first() {
        let names = names.join("`, `");
        return Err(format!(
            "{field}: missing field `{names}`; correct the manifest"
        ));
    }
    if let Some((wrong, meant)) = misspelt(&value) {
        return Err(format!(
            "{wrong}: unknown key, did you mean `{meant}`? correct the manifest, or give a note another name"
        ));
    }
    let manifest: Result<Manifest, _> = serde_path_to_error::deserialize(value);
    let manifest = manifest.map_err(|e| format!("{}: {}", e.path(), e.inner()))?;
    if let Some(groups) = &manifest.groups {
        let wrong = |message| format!("groups: {message}; correct the manifest");
        Groups::new(groups).map_err(wrong)?;
    }
    if let (Some(_), Some(groups)) = (manifest.codebook_size, &manifest.groups) {
        return Err(format!(
            "groups: found {groups:?} beside codebook_size, expected one of the two; correct the manifest"
        ));
    }
    if let Some(scale) = manifest.input.scale {
        let wrong = |message| format!("input.scale: {message}; correct the manifest");
        scale.check().map_err(wrong)?;
    }
    Ok(Some(manifest))
}

/// Returns a key that is nearly one that changes numbers, and that one: a misspelt key would be taken for a note. Other words are notes.
fn misspelt(value: &Value) -> Option<(&str, &'static str)> {
    let letters = |key: &str| -> String {
        let letters = key.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|c| c.to_ascii_lowercase()).collect()
    };
    let is_meant = |key: &str, name: &str| {
        let (key, name) = (letters(key), letters(name));
        key == name || (name.len() > 8 && strsim::damerau_levenshtein(&key, &name) == 1)
    };
    let mut others = value
        .as_object()?
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()));
    others.find_map(|key| {
        let name = KEYS.into_iter().find(|name| is_meant(key, name))?;
        Some((key.as_str(), name))
    })
}

/// Returns a key by which a mapping without `sha256` is meant as a manifest: a misspelt digest, or another key of manifests.
fn lookalike(value: &Value) -> Option<&str> {
    let mapping = value.as_object()?;
    if mapping.contains_key("tokenizers") || mapping.contains_key("dataset") {
        return None;
    }
    let digest = |key: &str| {
        let letters = key.chars().filter(char::is_ascii_alphanumeric);
        let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
        letters.starts_with("sha256")
    };
    let schema = json!(schemars::schema_for!(Manifest));
    let mut keys = mapping.keys().map(String::as_str);
    keys.find(|key| digest(key) || !schema["properties"][key].is_null())
}

#[derive(Deserialize)]
struct AsText {
    sha256: String,
}

fn refused(path: &Path, message: String) -> Error {
    Error::File {
        path: path.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests;
