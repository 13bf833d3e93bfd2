//! The manifest beside a graph (`tokenizers/export/exporter.py` writes it).
//!
//! `NAME.yaml` or `NAME.yml` beside `NAME.onnx` is a manifest if it is a mapping with `sha256`. A file that looks like one but lacks the digest is
//! refused; other files of that name, such as a suite, are ignored. Unknown keys are notes for people, except those that are nearly a key of the
//! manifest.

use std::io::Read;
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
    /// [`Error::File`] if it cannot be read, the digest differs, or there are two.
    pub fn beside(graph: &Path, bytes: &[u8]) -> Result<Option<Self>> {
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

/// Reads a file of at most [`BYTES`]; `None` if there is none.
fn text(path: &Path) -> std::io::Result<Option<String>> {
    let Some(file) = files::open_optional(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES {
        return Err(std::io::Error::other(format!(
            "has more than {BYTES} bytes, expected a manifest; move it away if it is none"
        )));
    }
    let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    Ok(Some(text))
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
    const KEYS: [&str; 7] = [
        "input",
        "kind",
        "grid",
        "codebook_size",
        "groups",
        "dim",
        "saw_labels",
    ];
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
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_looks_like_a_number_is_text() {
        for digest in [
            "1".repeat(64),
            format!("{}e{}", "1".repeat(30), "2".repeat(33)),
            "0".repeat(64),
        ] {
            let manifest = parsed(&format!("sha256: {digest}\n")).unwrap().unwrap();
            assert_eq!(manifest.sha256, digest);
        }
    }

    #[test]
    fn the_exporters_manifest_is_read_and_notes_are_ignored() {
        let text = "sha256: ab\nsource: \"DALL-E\"\nlicence: \"MIT\"\nweights: \"encoder.pkl\"\ninput: {side: 112, scale: dvae}\n\
                    kind: onnx-ids\ngrid: [14, 14]\ncodebook_size: 8192\nsaw_labels: false\nagreement: \"all\"\nnote: mine\n";
        let manifest = parsed(text).unwrap().unwrap();
        assert_eq!(manifest.input.side, Some(112));
        assert_eq!(manifest.input.scale, Some(Scale::Dvae));
        assert_eq!(
            (manifest.codebook_size, manifest.saw_labels),
            (Some(8192), Some(false))
        );
        assert_eq!(manifest.grid, Some([14, 14]));
        assert_eq!(manifest.provenance()["licence"], "MIT");
        let custom = parsed(
            "sha256: ab\ninput: {side: 8, scale: {custom: {mean: [0, 0.5, 1], std: [1, 1, 1]}}}\n",
        );
        let scale = custom.unwrap().unwrap().input.scale;
        assert_eq!(
            scale,
            Some(Scale::Custom {
                mean: [0.0, 0.5, 1.0],
                std: [1.0; 3]
            })
        );
    }

    #[test]
    fn a_misspelt_key_is_no_note() {
        for (text, said) in [
            ("saw_label: true", "did you mean `saw_labels`?"),
            ("codebok_size: 8", "did you mean `codebook_size`?"),
            ("codebook-size: 8", "did you mean `codebook_size`?"),
            ("Grid: [4, 4]", "did you mean `grid`?"),
            ("input: {side: 8, scael: dvae}", "scael"),
            (
                "input: {scale: {mean: [0], std: [1]}}",
                "input.scale: missing field `custom`",
            ),
        ] {
            let error = parsed(&format!("sha256: ab\n{text}\n")).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let notes = "id: 3\ninputs: 3\ngroup: x\nlicense: MIT\ncodebook_dim: 3\nnum_labels: 10\n";
        parsed(&format!("sha256: ab\n{notes}")).unwrap();
    }

    #[test]
    fn groups_are_read_and_those_that_no_head_predicts_are_refused() {
        let groups = |text: &str| parsed(&format!("sha256: ab\n{text}\n"));
        let manifest = groups("groups: [8, 5, 5]").unwrap().unwrap();
        assert_eq!(manifest.groups, Some(vec![8, 5, 5]));
        for (text, expected) in [
            ("groups: [8, 0]", "at least 1 in each"),
            ("groups: []", "expected 1 to 16"),
            ("groups: [8]\ncodebook_size: 8", "beside codebook_size"),
        ] {
            let error = groups(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_scale_that_does_not_divide_is_refused() {
        for (mean, std, expected) in [
            ("[0, 0, 0]", "[1, 0, 1]", "above 0"),
            ("[0, 0, 0]", "[-1, 1, 1]", "above 0"),
            ("[0, 0, 0]", "[1, 1, 1e39]", "above 0 and at most 1000"),
            (
                "[0, 1e39, 0]",
                "[1, 1, 1]",
                "at least -1000 and at most 1000",
            ),
        ] {
            let scale = format!("{{custom: {{mean: {mean}, std: {std}}}}}");
            let error = parsed(&format!("sha256: ab\ninput: {{scale: {scale}}}\n")).unwrap_err();
            assert!(
                error.contains("input.scale") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn a_suite_of_the_same_name_is_not_a_manifest() {
        assert!(
            parsed("version: 1\nname: x\ntokenizers: []\n")
                .unwrap()
                .is_none()
        );
        assert!(parsed("- a\n").unwrap().is_none());
        assert!(parsed("sha256: [").is_err());
        assert!(
            parsed("sha256: ab\ngrid: 5\n")
                .unwrap_err()
                .contains("grid")
        );
    }

    #[test]
    fn a_manifest_without_its_digest_is_refused() {
        for (text, expected) in [
            ("", "is empty"),
            (" \n", "is empty"),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
                "git lfs pull",
            ),
            ("sha_256: ab\nnote: x\n", "`sha_256`"),
            ("SHA256: ab\n", "`SHA256`"),
            ("sha256sum: ab\n", "`sha256sum`"),
            ("saw_labels: true\n", "no `sha256`"),
            ("dim: 8\nnote: x\n", "has `dim`"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
