//! YAML text to plain values, with the line of every field kept.
//!
//! The text is read twice: by serde_yaml for the values, by an event parser for the positions, which serde loses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, Span};
use serde_json::Value;
use tessera_tokenizers::{ConfigError, Source};

/// Parses `text`, which stands in `file`.
///
/// # Errors
/// [`ConfigError`] with the line when the text is no YAML, or has a key twice.
pub fn parse(file: &Path, text: &str) -> Result<(Value, Arc<Source>), ConfigError> {
    let wrong = |e: serde_yaml::Error| ConfigError {
        file: file.to_owned(),
        line: e.location().map(|l| l.line()),
        field: "YAML".into(),
        message: e.to_string(),
    };
    // By way of YAML's own value, which refuses a key that stands twice.
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(wrong)?;
    let value: Value = serde_yaml::from_value(value).map_err(wrong)?;
    let lines = positions(text).unwrap_or_default();
    let source = Source {
        file: file.to_owned(),
        lines,
    };
    Ok((value, Arc::new(source)))
}

/// What the event parser is inside of: a list at its next index, or a mapping, waiting for a key or a key's value.
enum Frame {
    List { path: String, next: usize },
    Map { path: String, key: Option<String> },
}

fn positions(text: &str) -> Option<HashMap<String, usize>> {
    let mut lines = HashMap::new();
    let mut stack: Vec<Frame> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span): (Event<'_>, Span) = event.ok()?;
        let line = span.start.line();
        match event {
            Event::Scalar(text, ..) => {
                if let Some(Frame::Map {
                    path,
                    key: key @ None,
                }) = stack.last_mut()
                {
                    lines.insert(join(path, &text), line);
                    *key = Some(text.into_owned());
                } else {
                    value_at(&mut stack, &mut lines, line);
                }
            }
            Event::Alias(_) => {
                value_at(&mut stack, &mut lines, line);
            }
            Event::SequenceStart(..) => {
                let path = value_at(&mut stack, &mut lines, line);
                stack.push(Frame::List { path, next: 0 });
            }
            Event::MappingStart(..) => {
                let path = value_at(&mut stack, &mut lines, line);
                stack.push(Frame::Map { path, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                stack.pop();
            }
            _ => {}
        }
    }
    Some(lines)
}

/// The path of the value that starts here; the frame moves on to its next key or index.
fn value_at(stack: &mut [Frame], lines: &mut HashMap<String, usize>, line: usize) -> String {
    match stack.last_mut() {
        None => String::new(),
        Some(Frame::List { path, next }) => {
            let here = format!("{path}[{next}]");
            *next += 1;
            lines.insert(here.clone(), line);
            here
        }
        Some(Frame::Map { path, key }) => join(path, &key.take().unwrap_or_default()),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_knows_its_line() {
        let text = "a: 1\nlist:\n  - {name: x,\n     k: 5}\n  - name: y\n    with:\n      k: 7\n";
        let (value, source) = parse(Path::new("s.yaml"), text).unwrap();
        assert_eq!(value["list"][1]["with"]["k"], 7);
        for (field, line) in [
            ("a", 1),
            ("list", 2),
            ("list[0].name", 3),
            ("list[0].k", 4),
            ("list[1]", 5),
            ("list[1].with.k", 7),
            ("list[1].with.absent", 6),
        ] {
            assert_eq!(source.line(field), Some(line), "{field}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let error = parse(Path::new("s.yaml"), "a: 1\na: 2\n").unwrap_err();
        assert!(error.message.contains("duplicate"), "{error}");
    }

    #[test]
    fn numbers_in_exponent_form_are_numbers() {
        let (value, _) = parse(Path::new("s.yaml"), "a: 1.5e-4\nb: 1e-3").unwrap();
        assert_eq!(value["a"], 1.5e-4);
        assert_eq!(value["b"], 1e-3);
    }
}
