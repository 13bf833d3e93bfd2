//! Parses YAML to plain values and the line of every field.
//!
//! Scalars follow the core schema of YAML 1.2 (`yes` and `012` are text). Anchors and aliases are supported; merge keys (`<<`), tags
//! and several documents in a file are not.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};
use tessera_tokenizers::{ConfigError, Source};

/// Parses `text`, the content of `file`.
///
/// # Errors
/// [`ConfigError`] with the line if the text is not YAML or a key occurs twice.
pub fn parse(file: &Path, text: &str) -> Result<(Value, Source), ConfigError> {
    let found = read(text).map_err(|(line, message)| ConfigError {
        file: file.to_owned(),
        line: Some(line),
        field: "YAML".into(),
        message,
    })?;
    let source = Source {
        file: file.to_owned(),
        lines: found.lines,
        ..Source::default()
    };
    Ok((found.root.unwrap_or_default(), source))
}

/// Parses `text` to a value.
///
/// # Errors
/// A message if it is not YAML.
pub fn value(text: &str) -> Result<Value, String> {
    let found = read(text).map_err(|(_, message)| message)?;
    Ok(found.root.unwrap_or_default())
}

/// Maximum nesting; suites need 6. Values are visited and dropped by recursion, and paths grow with every level.
pub const LEVELS: usize = 64;

/// Maximum number of values, with those of every alias and a copy of those with an anchor.
const VALUES: usize = 1_000_000;

/// Maximum bytes of the paths of all fields. The path of a field repeats the keys above it.
const PATHS: usize = 1 << 26;

/// A line, and what is wrong in it.
type Wrong = (usize, String);

fn read(text: &str) -> Result<Reader, Wrong> {
    let mut reader = Reader::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let line = e.marker().line();
            tab(text, line).unwrap_or_else(|| (line, explained(e.info())))
        })?;
        let line = span.start.line();
        reader
            .take(event, line)
            .map_err(|message| (line, message))?;
    }
    Ok(reader)
}

/// Returns the error of the parser, with the remedy where it is short of words.
fn explained(info: &str) -> String {
    match info {
        "simple key expect ':'" => {
            "expected `key: value` with a colon and a space, in this line or the one before".into()
        }
        info => info.to_owned(),
    }
}

/// Returns the line with a tab after a colon or in its indentation, if it is that of an error of the parser or beside it. The parser refuses
/// such tabs, but reports what it misses after them.
fn tab(text: &str, line: usize) -> Option<Wrong> {
    let has_tab = |line: &str| {
        let indented = line.len() - line.trim_start_matches([' ', '-', '\t']).len();
        let text = line.split_once('#').map_or(line, |(text, _)| text);
        let refused = line[..indented].contains('\t') || text.contains(":\t");
        refused && !text.trim().is_empty()
    };
    let mut lines = (1..).zip(text.lines()).skip(line.saturating_sub(2)).take(3);
    let (line, _) = lines.find(|(_, line)| has_tab(line))?;
    let message = "found a tab, expected spaces; write spaces in its place";
    Some((line, message.into()))
}

/// A list or a mapping before its end.
struct Open {
    path: String,
    /// Number of its anchor; 0 if it has none.
    anchor: usize,
    items: Items,
    /// Levels of the lists and mappings in it.
    levels: usize,
    /// Number of values of the file before it.
    before: usize,
}

/// A value with an anchor.
struct Anchored {
    value: Value,
    levels: usize,
    /// Number of values, with those of every alias.
    values: usize,
}

enum Items {
    List(Vec<Value>),
    /// The mapping, and the key of the next value.
    Map(Map<String, Value>, Option<String>),
}

/// Builds a value from events.
#[derive(Default)]
struct Reader {
    root: Option<Value>,
    lines: HashMap<String, usize>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    /// Number of values up to here, with those of every alias.
    values: usize,
    /// Number of values in `anchors`.
    copies: usize,
    /// Bytes of the keys of `lines`.
    paths: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err("found a second document, expected one".into());
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.is_key(&text, style, line)? {
                    return Ok(());
                }
                self.path_of_next(line)?;
                refuse_tag(tag.as_deref())?;
                let value = match style {
                    ScalarStyle::Plain => plain(&text)?,
                    _ => Value::String(text.into_owned()),
                };
                self.count(1)?;
                self.put(value, anchor, 0, 1)?;
            }
            Event::Alias(anchor) => {
                self.path_of_next(line)?;
                let found = self
                    .anchors
                    .get(&anchor)
                    .ok_or("an alias of a key or within its own anchor; write the value out")?;
                let (levels, values) = (found.levels, found.values);
                if self.open.len() + levels > LEVELS {
                    return Err(too_deep());
                }
                self.count(values)?;
                let value = self.anchors[&anchor].value.clone();
                self.put(value, 0, levels, values)?;
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref())?;
                self.begin(Items::List(Vec::new()), anchor, line)?;
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref())?;
                self.begin(Items::Map(Map::new(), None), anchor, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let value = match open.items {
                        Items::List(list) => Value::Array(list),
                        Items::Map(map, _) => Value::Object(map),
                    };
                    let values = self.values - open.before;
                    self.put(value, open.anchor, open.levels + 1, values)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Records a scalar as the next key of a mapping, if a key is expected. Returns whether it was.
    fn is_key(&mut self, text: &str, style: ScalarStyle, line: usize) -> Result<bool, String> {
        let Some(Open {
            path,
            items: Items::Map(map, key @ None),
            ..
        }) = self.open.last_mut()
        else {
            return Ok(false);
        };
        if text == "<<" && style == ScalarStyle::Plain {
            return Err("found the merge key `<<`, expected a field; write its fields out".into());
        }
        let invisible = |c: &char| matches!(c, '\u{a0}' | '\u{200b}'..='\u{200f}' | '\u{feff}');
        if let Some(c) = text.chars().find(invisible) {
            return Err(format!(
                "found the invisible character U+{:04X} in a key; delete it, or write a space",
                u32::from(c)
            ));
        }
        if map.contains_key(text) {
            return Err(format!("duplicate key `{text}`, expected each key once"));
        }
        *key = Some(text.to_owned());
        let here = join(path, text);
        self.name(here, line)?;
        Ok(true)
    }

    /// Returns the path of the value that begins here.
    fn path_of_next(&mut self, line: usize) -> Result<String, String> {
        match self.open.last() {
            None => Ok(String::new()),
            Some(Open { path, items, .. }) => match items {
                Items::List(list) => {
                    let here = format!("{path}[{}]", list.len());
                    self.name(here.clone(), line)?;
                    Ok(here)
                }
                Items::Map(_, Some(key)) => Ok(join(path, key)),
                Items::Map(_, None) => Err("expected text as a key".into()),
            },
        }
    }

    /// Records the line of a field.
    fn name(&mut self, path: String, line: usize) -> Result<(), String> {
        self.paths += path.len();
        if self.paths > PATHS {
            return Err(format!(
                "the paths of all fields have more than {PATHS} bytes; shorten the keys"
            ));
        }
        self.lines.insert(path, line);
        Ok(())
    }

    fn begin(&mut self, items: Items, anchor: usize, line: usize) -> Result<(), String> {
        if self.open.len() == LEVELS {
            return Err(too_deep());
        }
        let path = self.path_of_next(line)?;
        self.open.push(Open {
            path,
            anchor,
            items,
            levels: 0,
            before: self.values,
        });
        self.count(1)
    }

    /// Counts further values.
    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        self.limit()
    }

    fn limit(&self) -> Result<(), String> {
        if self.values + self.copies > VALUES {
            return Err(format!(
                "found more than {VALUES} values, with those of every alias"
            ));
        }
        Ok(())
    }

    /// Adds a complete value to the innermost list or mapping.
    fn put(
        &mut self,
        value: Value,
        anchor: usize,
        levels: usize,
        values: usize,
    ) -> Result<(), String> {
        if anchor > 0 {
            self.copies += values;
            self.limit()?;
            let value = value.clone();
            let anchored = Anchored {
                value,
                levels,
                values,
            };
            self.anchors.insert(anchor, anchored);
        }
        let open = self.open.last_mut().map(|open| {
            open.levels = open.levels.max(levels);
            &mut open.items
        });
        match open {
            None => self.root = Some(value),
            Some(Items::List(list)) => list.push(value),
            Some(Items::Map(map, key)) => {
                map.insert(key.take().unwrap_or_default(), value);
            }
        }
        Ok(())
    }
}

/// Returns the message for more than [`LEVELS`].
pub fn too_deep() -> String {
    format!("found more than {LEVELS} levels of lists and mappings")
}

fn refuse_tag(tag: Option<&Tag>) -> Result<(), String> {
    match tag {
        Some(tag) => Err(format!(
            "found the tag `{tag}`, expected none; leave it out, and put text in quotes"
        )),
        None => Ok(()),
    }
}

/// Returns the value of a scalar without quotes.
fn plain(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text if is_code(text) => text.into(),
        text => match integer(text)? {
            Some(number) => Value::Number(number),
            None => float(text)?.map_or_else(|| text.into(), Value::Number),
        },
    })
}

/// Returns whether the text has digits after a leading zero, as in `007`, and so is not a number.
fn is_code(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

fn integer(text: &str) -> Result<Option<Number>, String> {
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.split_at_checked(2) {
        Some(("0x", rest)) => (16, rest),
        Some(("0o", rest)) => (8, rest),
        Some(("0b", rest)) => (2, rest),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    let digits = format!("{minus}{digits}");
    let signed = i64::from_str_radix(&digits, radix).map(Number::from);
    let number = signed.or_else(|_| u64::from_str_radix(&digits, radix).map(Number::from));
    let refuse = |_| format!("found the integer {text}, expected at most 64 bits");
    number.map(Some).map_err(refuse)
}

fn float(text: &str) -> Result<Option<Number>, String> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"].contains(&unsigned) {
        return Err(format!("found {text}, expected a finite number"));
    }
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = text.parse().ok().filter(|_| is_number);
    Ok(value.and_then(Number::from_f64))
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
    fn every_field_has_its_line() {
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
    fn a_duplicate_key_is_refused() {
        let error = parse(Path::new("s.yaml"), "a: 1\na: 2\n").unwrap_err();
        assert!(error.message.contains("duplicate"), "{error}");
    }

    #[test]
    fn numbers_in_exponent_form_are_numbers() {
        let (value, _) = parse(Path::new("s.yaml"), "a: 1.5e-4\nb: 1e-3").unwrap();
        assert_eq!(value["a"], 1.5e-4);
        assert_eq!(value["b"], 1e-3);
    }

    /// serde_yaml, which writes run folders, reads the same values.
    #[test]
    fn values_equal_serde_yamls() {
        for text in [
            "[1, -1, +1, 0, -0, 0x1f, -0x1f, 0o17, 0b101, 18446744073709551615, -9223372036854775808]",
            "[1.5, -1.5, +1.5, .5, 1., 1e3, 1E-3, -1.5e+4, 1_000, 1e400, 0.1]",
            "[012, +012, -012, 0, 00, 0x, 0xg, 1a, +-1, --1, infinity, nan, inf]",
            "[~, null, Null, NULL, true, True, TRUE, false, yes, no, on, off, y, n]",
            "[\"5\", '5', 'it''s', \"a\\tb\\u00e9\"]",
            "a:\nb: ''\nc: ~\nd: {}\ne: []\nf: [a, {b: c}]",
            "lines: |\n  one\n  two\nfolded: >-\n  one\n  two\nplain: one\n  two\n",
            "base: &b {x: 1}\nlist: &l [1, 2]\ncopy: *b\nagain: [*l, *b]",
            "merged: {'<<': {a: 1}, b: 2}",
            "\u{feff}a: 1",
            "--- # a comment\na: [1,\n  2] # another\n...\n",
            "? a\n: 1\n\"b c\": 2\n'd': 3",
            "text",
            "",
        ] {
            let written: Value = serde_yaml::from_str(text).unwrap();
            assert_eq!(value(text).unwrap(), written, "{text}");
        }
    }

    #[test]
    fn unsupported_yaml_is_refused_with_its_line() {
        // Line n has 10^n values, respectively n levels.
        let nested = |first: &str, lines: usize, times: usize| {
            let mut text = format!("a0: &a0 {first}\n");
            for line in 1..lines {
                let alias = format!("*a{}, ", line - 1).repeat(times);
                text += &format!("a{line}: &a{line} [{alias}]\n");
            }
            text
        };
        // Every level has an anchor, and every value the path of a long key.
        let inner = "1, ".repeat(30_000);
        let anchors: String = (0..50).map(|n| format!("&a{n} [")).collect();
        let anchors = format!("{anchors}{inner}{}", "]".repeat(50));
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let long = format!("{}: [{}]", "a".repeat(1000), "[1], ".repeat(40_000));
        for (text, line, part) in [
            ("a: 1\nb: !mine 2\n", 2, "the tag `!mine`"),
            ("a: 1\nb: !mine [2]\n", 2, "the tag `!mine`"),
            ("a: !!str 5\n", 1, "in quotes"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a:\n  [1]: 2\n", 2, "as a key"),
            ("a: 99999999999999999999\n", 1, "64 bits"),
            ("a: .inf\n", 1, "finite"),
            ("base: &b {x: 1}\nrow:\n  <<: *b\n", 3, "merge key `<<`"),
            ("a:\n  b: 1\n\n  b: 2\n", 4, "duplicate key `b`"),
            ("a: 0xffffffffffffffffff\n", 1, "0xffffffffffffffffff"),
            ("a: &x [*x]\n", 1, "its own anchor"),
            ("&k a: 1\nb: *k\n", 2, "an alias of a key"),
            (&nested("1", 30, 10), 7, "1000000 values"),
            (&nested("[1]", 100, 1), 64, "64 levels"),
            (&anchors, 1, "1000000 values"),
            (&long, 1, "67108864 bytes"),
            ("a: {b: 1\nc: 2\n", 2, ""),
            ("a: 1\n\tb: 2\n", 2, "a tab"),
            ("a:\n\tb: 2\nc: 3\n", 2, "a tab"),
            ("a:\n  b: 2\n\tc: 3\nd: 4\n", 3, "a tab"),
            ("a:\n  b: 2\n  \tc: 3\nd: 4\n", 3, "a tab"),
            ("a:\n  -\tb: 2\n  \tc: 3\nd: 4\n", 2, "a tab"),
            ("a:\n\t- b: 2\n\t- c: 3\nd: 4\n", 2, "a tab"),
            ("\ta: 1\nb: 2\n", 1, "a tab"),
            ("a: 1\nb:\tx\nc: 2\n", 2, "a tab"),
            ("a: 1 # b:\tx\nb:[2]\nc: 3\n", 3, "with a colon and a space"),
            ("a: 1\n\u{a0}b: 2\n", 2, "invisible character U+00A0"),
            ("a: 1\nb:[2]\nc: 3\n", 3, "with a colon and a space"),
            ("a: [1, 2\n", 2, ""),
            (&deep, 1, "64 levels"),
        ] {
            let error = parse(Path::new("s.yaml"), text).unwrap_err();
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}
