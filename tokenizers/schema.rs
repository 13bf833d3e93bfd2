//! Checks a plain value against the JSON Schema of the struct that it will become: types, ranges of numbers, lengths of lists.
//!
//! Serde reads any number that fits the type, and a list where a struct is expected. The ranges stand beside the fields
//! (`#[schemars(range(min = 1, max = 4096))]`), so editors know them too.

use serde_json::Value;

/// A wrong value: its path in the checked value, and what was found and expected.
pub type Wrong = (String, String);

/// Checks `value` against `schema`. Unknown and missing fields are left to serde.
///
/// # Errors
/// [`Wrong`] for the first wrong value.
pub fn check(schema: &Value, value: &Value) -> Result<(), Wrong> {
    let all = &schema["$defs"];
    walk(schema, value, "", all)
}

/// Returns the required fields that are missing in `value` and in the mappings in it: the path of each mapping, and their names.
pub fn missing(schema: &Value, value: &Value) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    search_missing(schema, value, String::new(), &schema["$defs"], &mut found);
    found
}

fn search_missing(
    schema: &Value,
    value: &Value,
    path: String,
    all: &Value,
    found: &mut Vec<(String, Vec<String>)>,
) {
    let (Some(schema), Value::Object(fields)) = (chosen(schema, value, all), value) else {
        return;
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let required = required.filter_map(Value::as_str);
    let absent = required.filter(|key| !fields.contains_key(*key));
    let absent: Vec<String> = absent.map(str::to_owned).collect();
    if !absent.is_empty() {
        found.push((path.clone(), absent));
    }
    for (key, field) in fields {
        let at = match path.as_str() {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        search_missing(&schema["properties"][key], field, at, all, found);
    }
}

fn walk(schema: &Value, value: &Value, path: &str, all: &Value) -> Result<(), Wrong> {
    let Some(schema) = chosen(schema, value, all) else {
        return Ok(());
    };
    let refuse = |message: String| Err((path.to_owned(), message));
    if !has_type(schema, value) {
        return refuse(format!(
            "found {}, expected {}",
            shown(value),
            expected(schema)
        ));
    }
    match value {
        Value::Number(number) => match number.as_f64().is_none_or(|n| in_range(schema, n)) {
            true => Ok(()),
            false => refuse(format!("found {number}, expected {}", expected(schema))),
        },
        Value::Object(fields) => fields.iter().try_for_each(|(key, field)| {
            let at = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            walk(&schema["properties"][key], field, &at, all)
        }),
        Value::Array(items) => {
            let limit = |key: &str, default| schema[key].as_u64().unwrap_or(default);
            let (least, most) = (limit("minItems", 0), limit("maxItems", u64::MAX));
            if !(least..=most).contains(&(items.len() as u64)) {
                let items = items.len();
                return refuse(format!(
                    "found {items} items, expected {}",
                    span(least, most)
                ));
            }
            items.iter().enumerate().try_for_each(|(at, item)| {
                walk(&schema["items"], item, &format!("{path}[{at}]"), all)
            })
        }
        _ => Ok(()),
    }
}

/// Follows references and picks the alternative of the value's type; `None` if any value is right or none has the type.
fn chosen<'a>(schema: &'a Value, value: &Value, all: &'a Value) -> Option<&'a Value> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/")?;
        return chosen(&all[name], value, all);
    }
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    let Some(alternatives) = alternatives.and_then(Value::as_array) else {
        return schema.is_object().then_some(schema);
    };
    let found = alternatives
        .iter()
        .filter_map(|one| chosen(one, value, all));
    let found: Vec<&Value> = found.collect();
    let typed = found.iter().find(|one| has_type(one, value));
    // Without one of the value's type, the first explains what is expected.
    typed.or(found.first()).copied()
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    let types = types(schema);
    let is = |name: &&str| match *name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    types.is_empty() || types.iter().any(is)
}

fn in_range(schema: &Value, number: f64) -> bool {
    let holds = |key: &str, test: fn(&f64, &f64) -> bool| {
        let bound = schema[key].as_f64();
        bound.is_none_or(|bound| test(&number, &bound))
    };
    holds("minimum", f64::ge)
        && holds("maximum", f64::le)
        && holds("exclusiveMinimum", f64::gt)
        && holds("exclusiveMaximum", f64::lt)
}

/// Describes what a schema allows.
fn expected(schema: &Value) -> String {
    let names = |key: &str| {
        let fields = schema[key].as_object().into_iter().flatten();
        fields
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match types(schema).first() {
        Some(&"object") => match names("properties").as_str() {
            "" => "a mapping".into(),
            fields => format!("a mapping with fields of {fields}"),
        },
        Some(&"array") => "a list".into(),
        Some(&"boolean") => "true or false".into(),
        Some(&"integer") => format!("a whole number{}", range(schema)),
        Some(&"number") => format!("a number{}", range(schema)),
        Some(&"null") => "nothing".into(),
        _ => "text".into(),
    }
}

/// Describes the range of a number.
fn range(schema: &Value) -> String {
    let bound = |key: &str, words: &str| {
        let bound = schema.get(key)?;
        let whole = bound
            .as_f64()
            .filter(|b| b.fract() == 0.0 && b.abs() < 1e15);
        let bound = whole.map_or_else(|| bound.to_string(), |whole| format!("{whole:.0}"));
        Some(format!("{words} {bound}"))
    };
    let low = bound("exclusiveMinimum", "above").or_else(|| bound("minimum", "of at least"));
    let high = bound("exclusiveMaximum", "below").or_else(|| bound("maximum", "at most"));
    match (low, high) {
        (Some(low), Some(high)) => format!(" {low} and {high}"),
        (Some(one), None) | (None, Some(one)) => format!(" {one}"),
        (None, None) => String::new(),
    }
}

fn span(least: u64, most: u64) -> String {
    match (least, most) {
        (least, most) if least == most => least.to_string(),
        (least, u64::MAX) => format!("at least {least}"),
        (least, most) => format!("{least} to {most}"),
    }
}

/// Describes a value of a wrong type.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {text:?}"),
        other => kind_of(other).to_owned(),
    }
}

/// Names the type of a YAML value for messages: "a mapping", "text", ...
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true/false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Returns the paths of the numbers in a schema that lack a lower or an upper bound, and of the lists of them without a maximum length.
pub fn unbounded(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    search(schema, "", &mut found);
    found
}

fn search(schema: &Value, path: &str, found: &mut Vec<String>) {
    let has = |keys: [&str; 2]| keys.iter().any(|key| schema.get(*key).is_some());
    let is_number = |schema: &Value| {
        let types = types(schema);
        types.contains(&"integer") || types.contains(&"number")
    };
    let is_bounded = has(["minimum", "exclusiveMinimum"]) && has(["maximum", "exclusiveMaximum"]);
    let is_bounded = is_bounded || schema.get("enum").is_some();
    let is_endless = is_number(&schema["items"]) && schema.get("maxItems").is_none();
    if (is_number(schema) && !is_bounded) || is_endless {
        found.push(path.to_owned());
    }
    match schema {
        Value::Object(map) => {
            for (key, inner) in map {
                search(inner, &format!("{path}/{key}"), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| search(inner, path, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde_json::json;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Inner {
        #[schemars(range(min = 1, max = 4096))]
        k: usize,
        #[schemars(range(max = 2), extend("exclusiveMinimum" = 0))]
        rate: Option<f64>,
        #[schemars(inner(range(min = 0, max = 1)))]
        scale: [f32; 2],
    }

    /// Several kinds of values.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Mode {
        /// One.
        Plain,
        /// Two.
        Custom(Inner),
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Outer {
        inner: Option<Inner>,
        mode: Mode,
        any: Value,
        #[schemars(length(min = 1, max = 3))]
        seeds: Vec<u64>,
        #[schemars(inner(range(min = 0, max = 9)))]
        tables: Vec<u32>,
    }

    fn said(value: Value) -> String {
        match check(&json!(schemars::schema_for!(Outer)), &value) {
            Ok(()) => String::new(),
            Err((path, message)) => format!("{path}: {message}"),
        }
    }

    #[test]
    fn types_ranges_and_lengths_are_checked_at_every_level() {
        for right in [
            json!({"inner": {"k": 4096, "rate": 2, "scale": [0, 1]}, "mode": "Plain", "any": [1], "seeds": [1]}),
            json!({"inner": null, "mode": {"Custom": {"k": 1, "rate": null}}, "unknown": 1}),
        ] {
            assert_eq!(said(right), "");
        }
        for (wrong, message) in [
            (
                json!([]),
                ": found a list, expected a mapping with fields of inner, mode, any, seeds, tables",
            ),
            (
                json!({"inner": [5]}),
                "inner: found a list, expected a mapping with fields of k, rate, scale",
            ),
            (
                json!({"inner": {"k": 0}}),
                "inner.k: found 0, expected a whole number of at least 1 and at most 4096",
            ),
            (
                json!({"inner": {"k": 2.5}}),
                "inner.k: found 2.5, expected a whole number of at least 1 and at most 4096",
            ),
            (
                json!({"inner": {"k": "x"}}),
                "inner.k: found the text \"x\", expected a whole number of at least 1 and at most 4096",
            ),
            (
                json!({"inner": {"rate": 0}}),
                "inner.rate: found 0, expected a number above 0 and at most 2",
            ),
            (
                json!({"inner": {"scale": [0, 2]}}),
                "inner.scale[1]: found 2, expected a number of at least 0 and at most 1",
            ),
            (
                json!({"inner": {"scale": [0]}}),
                "inner.scale: found 1 items, expected 2",
            ),
            (
                json!({"mode": {"Custom": {"k": -1}}}),
                "mode.Custom.k: found -1, expected a whole number of at least 1 and at most 4096",
            ),
            (json!({"mode": 5}), "mode: found 5, expected text"),
            (
                json!({"seeds": []}),
                "seeds: found 0 items, expected 1 to 3",
            ),
            (json!({"seeds": 3}), "seeds: found 3, expected a list"),
        ] {
            assert_eq!(said(wrong), message);
        }
    }

    #[test]
    fn numbers_without_bounds_are_found() {
        let found = unbounded(&json!(schemars::schema_for!(Outer)));
        assert_eq!(found, ["/properties/seeds/items", "/properties/tables"]);
    }
}
