//! Configuration with positions: every error names file, line, field, the found value and the remedy.
//!
//! The suite file is parsed twice: first into plain values, with the line of every field in a [`Source`]; then the owner of each
//! piece (the suite parser, a tokenizer's factory) parses it into a typed struct. A `Config` is one such piece. (Serde's tagged enums
//! lose the positions.)

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::schema;
pub use crate::schema::kind_of;

/// Lines of the fields of a suite file.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Path of the file as the user wrote it.
    pub file: PathBuf,
    /// Folder to which paths are relative, if it is not that of the file.
    pub base: Option<PathBuf>,
    /// Line (from 1) of each field, by path: `tokenizers[2].with.k`.
    pub lines: HashMap<String, usize>,
    /// Paths of the fields whose values are not those of the file, but of arguments `--set`.
    pub sets: BTreeSet<String>,
}

impl Source {
    /// Returns the line of `field`, or of its nearest parent that has one; `None` for a field that an argument sets.
    pub fn line(&self, field: &str) -> Option<usize> {
        let mut path = parents(field);
        path.find_map(|path| match self.sets.contains(path) {
            true => Some(None),
            false => self.lines.get(path).map(|line| Some(*line)),
        })?
    }

    /// Returns the field that an argument sets: `field`, or one that holds it.
    fn set_by<'a>(&self, field: &'a str) -> Option<&'a str> {
        parents(field).find(|path| self.sets.contains(*path))
    }
}

/// Returns `a.b[2]`, `a.b` and `a` for the field `a.b[2]`.
fn parents(field: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(field), |path| Some(&path[..path.rfind(['.', '['])?]))
}

/// Error of a field: its position, what was found and expected, and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{}: {}{message}", .file.display(), .line.map(|l| format!(":{l}")).unwrap_or_default(), prefix(.field))]
pub struct ConfigError {
    /// The suite file.
    pub file: PathBuf,
    /// Line, from 1, if known.
    pub line: Option<usize>,
    /// Path of the field: `tokenizers[2].with.k`.
    pub field: String,
    /// What was found and expected, and the remedy.
    pub message: String,
}

fn prefix(field: &str) -> String {
    match field {
        "" => String::new(),
        field => format!("{field}: "),
    }
}

/// A piece of a suite file: its value, its path, and the file.
#[derive(Clone, Debug)]
pub struct Config {
    value: Value,
    path: String,
    source: Arc<Source>,
}

impl Config {
    /// Creates the piece at `path` of `source`.
    pub fn new(value: Value, path: impl Into<String>, source: Arc<Source>) -> Self {
        Self {
            value,
            path: path.into(),
            source,
        }
    }

    /// Creates a piece without a file, for tests and programs that build tokenizers directly.
    pub fn from_value(value: Value) -> Self {
        Self::new(
            value,
            "with",
            Arc::new(Source {
                file: "<program>".into(),
                ..Source::default()
            }),
        )
    }

    /// Returns this piece with another value, for example after an expansion.
    #[must_use]
    pub fn with_value(&self, value: Value) -> Self {
        self.at(value, self.path.clone())
    }

    /// Returns another piece of the same file.
    #[must_use]
    pub fn at(&self, value: Value, path: impl Into<String>) -> Self {
        Self::new(value, path, Arc::clone(&self.source))
    }

    /// Returns the value after `${ENV}` and `sweep:` expansion.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns this piece with paths relative to `folder`, which is relative to the folder of the suite file.
    #[must_use]
    pub fn relative_to(&self, folder: &str) -> Self {
        let source = Source {
            base: Some(self.resolve_path(folder)),
            ..Source::clone(&self.source)
        };
        Self::new(self.value.clone(), self.path.clone(), Arc::new(source))
    }

    /// Returns the folder to which paths are relative: that of the suite file, or the one that it names.
    pub fn base_dir(&self) -> &Path {
        let own = || self.source.file.parent().unwrap_or(Path::new(""));
        self.source.base.as_deref().unwrap_or_else(own)
    }

    /// Resolves `path` relative to [`base_dir`](Self::base_dir). A path that begins with `~/` is relative to the user's home (`HOME`).
    pub fn resolve_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        match (path.strip_prefix("~"), std::env::var_os("HOME")) {
            (Ok(rest), Some(home)) if !home.is_empty() => Path::new(&home).join(rest),
            _ => self.base_dir().join(path),
        }
    }

    /// Parses this piece into a typed struct, which should have `#[serde(deny_unknown_fields)]`. Numbers must be in the ranges of its
    /// schema: `#[schemars(range(min = 1, max = 4096))]`.
    ///
    /// # Errors
    /// [`ConfigError`] with the field's line. For an unknown field it suggests the nearest valid name.
    pub fn parse<T: DeserializeOwned + JsonSchema>(&self) -> Result<T, ConfigError> {
        self.parse_with(&[])
    }

    /// As [`parse`](Self::parse). If fields are missing, one error names all, with those of `absent`: paths of mappings and the names of
    /// fields in them that this schema does not require.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn parse_with<T: DeserializeOwned + JsonSchema>(
        &self,
        absent: &[(String, Vec<String>)],
    ) -> Result<T, ConfigError> {
        let schema = json!(schemars::schema_for!(T));
        schema::check(&schema, &self.value)
            .map_err(|(field, message)| self.error(&field, message))?;
        serde_path_to_error::deserialize(&self.value).map_err(|e| {
            let inner = e.path().to_string();
            let field = if inner == "." { String::new() } else { inner };
            let message = e.inner().to_string();
            match message.starts_with("missing field ") {
                true => self.missing(&schema, absent, &field, message),
                false => self.error(&field, with_suggestion(&message)),
            }
        })
    }

    /// Returns an error that names all of `absent`: paths of mappings and the names of fields that are missing in them.
    ///
    /// # Errors
    /// If there are any.
    pub fn refuse_missing(&self, absent: Vec<(String, Vec<String>)>) -> Result<(), ConfigError> {
        let said = |names: &[String]| missing(names.iter().map(String::as_str)).unwrap_or_default();
        let Some(((first, names), others)) = absent.split_first() else {
            return Ok(());
        };
        let mut text = said(names);
        for (path, names) in others {
            let line = self.error(path, "").line;
            let line = line.map_or_else(String::new, |line| format!(" (line {line})"));
            text.push_str(&format!("; {}{line}: {}", self.field(path), said(names)));
        }
        Err(self.error(first, text))
    }

    /// Returns the error about all missing fields, or `message` about `field` if the schema finds none.
    fn missing(
        &self,
        schema: &Value,
        absent: &[(String, Vec<String>)],
        field: &str,
        message: String,
    ) -> ConfigError {
        let mut all = schema::missing(schema, &self.value);
        for (path, names) in absent {
            match all.iter_mut().find(|(known, _)| known == path) {
                Some((_, known)) => known.extend(names.iter().cloned()),
                None => all.push((path.clone(), names.clone())),
            }
        }
        match self.refuse_missing(all) {
            Err(error) => error,
            Ok(()) => self.error(field, message),
        }
    }

    /// Returns the piece under `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key)?.clone();
        Some(self.at(value, self.field(key)))
    }

    /// Returns the piece under `key`, or an empty mapping if there is none.
    pub fn nested(&self, key: &str) -> Self {
        let absent = || self.at(Value::Object(Default::default()), self.field(key));
        self.get(key).unwrap_or_else(absent)
    }

    /// Splits `{kind: x, ...rest}` into `x` and the rest.
    ///
    /// # Errors
    /// [`ConfigError`] if `kind` is missing or not text.
    pub fn split_kind(&self) -> Result<(String, Self), ConfigError> {
        let Value::Object(map) = &self.value else {
            return Err(self.error(
                "",
                format!(
                    "expected a mapping with `kind:`, found {}",
                    kind_of(&self.value)
                ),
            ));
        };
        let Some(Value::String(kind)) = map.get("kind") else {
            return Err(self.error("kind", "missing; write `kind: NAME`, see `bench list`"));
        };
        Ok((kind.clone(), self.without("kind")))
    }

    /// Returns this piece without the field `key`.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let Value::Object(map) = &self.value else {
            return self.clone();
        };
        let rest = map.iter().filter(|(k, _)| *k != key);
        let rest = rest.map(|(k, v)| (k.clone(), v.clone()));
        self.with_value(Value::Object(rest.collect()))
    }

    /// Returns an error about `field` of this piece; an empty `field` means the piece itself.
    pub fn error(&self, field: &str, message: impl Into<String>) -> ConfigError {
        let field = self.field(field);
        let mut message = message.into();
        if let Some(set) = self.source.set_by(&field) {
            message.push_str(&format!(" (from --set {set})"));
        }
        ConfigError {
            file: self.source.file.clone(),
            line: self.source.line(&field),
            field,
            message,
        }
    }

    /// Returns the full path of `field` of this piece.
    pub fn field(&self, field: &str) -> String {
        match (self.path.as_str(), field) {
            (path, "") => path.to_owned(),
            ("", field) => field.to_owned(),
            (path, field) if field.starts_with('[') => format!("{path}{field}"),
            (path, field) => format!("{path}.{field}"),
        }
    }
}

/// Returns the message about missing fields: "missing field `a`", "missing fields `a`, `b`"; `None` if there are none.
pub fn missing<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => None,
        1 => Some(format!("missing field {}", names[0])),
        _ => Some(format!("missing fields {}", names.join(", "))),
    }
}

/// Returns the one of `names` that is closest to `wrong`, if any is close. Capitals count only between equally close ones.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let small = wrong.to_lowercase();
    let distance = |name: &str| {
        let without = strsim::damerau_levenshtein(&small, &name.to_lowercase());
        (without, strsim::damerau_levenshtein(wrong, name))
    };
    names
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|((distance, _), name)| *distance <= 2.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

/// Returns the message for a name that is not in `names`: "expected one of a, b; did you mean `b`?".
pub fn expected_one_of<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let hint = nearest(wrong, names.iter().copied());
    let hint = hint.map(|name| format!("; did you mean `{name}`?"));
    let list = names.join(", ");
    format!("expected one of {list}{}", hint.unwrap_or_default())
}

/// Adds "did you mean" to serde's "unknown field/variant `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next().unwrap_or_default();
    match nearest(wrong, quoted) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is tested")]
    struct KMeans {
        k: usize,
        epochs: Option<usize>,
    }

    fn config(value: Value) -> Config {
        let lines = HashMap::from([
            ("tokenizers[1].with".to_owned(), 7),
            ("tokenizers[1].with.k".to_owned(), 9),
        ]);
        Config::new(
            value,
            "tokenizers[1].with",
            Arc::new(Source {
                file: "a/s.yaml".into(),
                lines,
                ..Source::default()
            }),
        )
    }

    #[test]
    fn wrong_type_names_file_line_and_field() {
        let error = config(json!({"k": "fifty"})).parse::<KMeans>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a/s.yaml:9: tokenizers[1].with.k: found the text \"fifty\", expected a whole number of at least 0"
        );
    }

    #[test]
    fn a_name_that_differs_in_capitals_is_the_nearest() {
        assert_eq!(nearest("kp", ["KH", "KP", "Kp"]), Some("Kp"));
        assert_eq!(nearest("kp", ["KH", "KP"]), Some("KP"));
    }

    #[test]
    fn unknown_field_suggests_the_nearest() {
        let error = config(json!({"k": 5, "epohcs": 1}))
            .parse::<KMeans>()
            .unwrap_err();
        assert_eq!(error.line, Some(7));
        assert!(
            error.message.ends_with("did you mean `epochs`?"),
            "{}",
            error.message
        );
    }

    #[test]
    fn paths_are_relative_to_the_suite_file() {
        assert_eq!(
            config(json!({})).resolve_path("m.onnx"),
            Path::new("a/m.onnx")
        );
    }
}
