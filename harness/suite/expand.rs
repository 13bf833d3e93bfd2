//! Expands `${ENV}`, `--set path=value` and `sweep:` in plain values, before typed parsing.

use std::env::VarError;

use serde_json::{Map, Value};
use tessera_tokenizers::{Config, ConfigError};

use super::yaml;

/// Replaces `${NAME}` and `${NAME:-default}` in every text of `config`.
///
/// # Errors
/// [`ConfigError`] with the variable's name if it is not set and has no default, or if it is not UTF-8.
pub fn env(config: &Config) -> Result<Value, ConfigError> {
    env_value(config.value(), "", &variable)
        .map_err(|(field, message)| config.error(&field, message))
}

/// Returns what to write so that [`env()`] gives `value` back: a folder may be called `${NAME}`. An optional row whose variables are not set keeps
/// them.
pub fn literal(value: &Value) -> Value {
    match value {
        // The variable without a name is never set, so its default counts.
        Value::String(text) => text.replace("${", "${:-$}{").into(),
        Value::Array(items) => items.iter().map(literal).collect(),
        Value::Object(map) => {
            let is_set = || env_value(value, "", &variable).is_ok();
            if map.get("optional") == Some(&Value::Bool(true)) && !is_set() {
                return value.clone();
            }
            let fields = map.iter();
            Value::Object(fields.map(|(k, v)| (k.clone(), literal(v))).collect())
        }
        other => other.clone(),
    }
}

type Lookup<'a> = &'a dyn Fn(&str) -> Result<Option<String>, String>;

fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(found) => Ok(Some(found)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(found)) => Err(format!(
            "environment variable `{name}` is not UTF-8: {}; set it to a text in UTF-8",
            found.display()
        )),
    }
}

fn env_value(value: &Value, path: &str, lookup: Lookup<'_>) -> Result<Value, (String, String)> {
    Ok(match value {
        Value::String(text) => {
            Value::String(env_text(text, lookup).map_err(|m| (path.to_owned(), m))?)
        }
        Value::Array(items) => {
            let expanded = items.iter().enumerate();
            let expanded =
                expanded.map(|(i, item)| env_value(item, &format!("{path}[{i}]"), lookup));
            Value::Array(expanded.collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let mut expanded = Map::new();
            for (key, item) in map {
                let at = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                expanded.insert(key.clone(), env_value(item, &at, lookup)?);
            }
            Value::Object(expanded)
        }
        other => other.clone(),
    })
}

fn env_text(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else {
            return Err(format!(
                "`{text}` has `${{` without `}}`; close it, or write `${{:-$}}{{` for these two characters"
            ));
        };
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..start + length];
        if inner.contains("${") {
            return Err(format!(
                "`{text}` has a variable in the default of another, which is not expanded; write `${{NAME:-default}}` with plain text as default"
            ));
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        match lookup(name)?
            .filter(|v| !v.is_empty())
            .or(default.map(str::to_owned))
        {
            Some(found) => out.push_str(&found),
            None => {
                return Err(format!(
                    "environment variable `{name}` is not set; set it, write `${{{name}:-default}}`, or write `${{:-$}}{{` if `${{` is meant as it is"
                ));
            }
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Applies an `assignment` `path=text`: sets the field at `path` (`pretrain.epochs`, `tokenizers[1].with.k`) to `text`, read as YAML.
/// `tokenizers[]` adds an item to a list. Returns the path of the field, with the number of such an item.
///
/// # Errors
/// If the path or the text is wrong.
pub fn set(root: &mut Value, assignment: &str) -> Result<String, String> {
    let (path, text) = assignment.split_once('=').ok_or_else(|| {
        format!("--set {assignment}: expected path=value, as in pretrain.epochs=5")
    })?;
    let value = yaml::value(text).map_err(|e| format!("--set {assignment}: value: {e}"))?;
    if path.split(['.', '[']).count() > yaml::LEVELS {
        return Err(format!("--set: {}", yaml::too_deep()));
    }
    let mut at = root;
    let mut steps = Vec::new();
    for step in path.split('.') {
        let (key, indices) = match step.find('[') {
            Some(cut) => (&step[..cut], &step[cut..]),
            None => (step, ""),
        };
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else {
            return Err(format!(
                "--set {assignment}: `{key}` is not inside a mapping"
            ));
        };
        at = map.entry(key).or_insert(Value::Null);
        let mut named = key.to_owned();
        for index in indices.split('[').skip(1) {
            let (index, found) = item(at, index.trim_end_matches(']')).ok_or_else(|| {
                format!("--set {assignment}: the list at `{step}` has no such item")
            })?;
            named.push_str(&format!("[{index}]"));
            at = found;
        }
        steps.push(named);
    }
    *at = value;
    Ok(steps.join("."))
}

/// Refuses assignments that a later one replaces: of the same field, or of one that holds it.
///
/// # Errors
/// Both arguments, and the remedy.
pub fn refuse_without_effect(sets: &[String]) -> Result<(), String> {
    let field = |set: &String| set.split('=').next().unwrap_or_default().to_owned();
    for (at, first) in sets.iter().enumerate() {
        let replaces = |later: &&String| {
            let rest = field(first);
            // `seeds[]` adds another item each time.
            let rest = rest
                .strip_prefix(&field(later))
                .filter(|_| !field(later).ends_with("[]"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if let Some(later) = sets[at + 1..].iter().find(replaces) {
            return Err(format!(
                "--set {later}: it replaces the value of the earlier --set {first}; expected one of them; a part of a field is set after the whole"
            ));
        }
    }
    Ok(())
}

/// Returns the item `index` of a list and its number, or a new one for an empty `index`. An absent field is an empty list.
fn item<'a>(list: &'a mut Value, index: &str) -> Option<(usize, &'a mut Value)> {
    if !index.is_empty() {
        let index = index.parse().ok()?;
        return Some((index, list.get_mut(index)?));
    }
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    let items = list.as_array_mut()?;
    items.push(Value::Null);
    Some((items.len() - 1, items.last_mut()?))
}

/// Maximum number of rows of a suite; a table of more is not readable.
pub const MOST_ROWS: usize = 1000;

/// Returns the product of `sweep`'s values as (name, `with`), with keys in the order of the file and the last key varying fastest.
/// `{key}` in the name is replaced by the value.
pub fn sweep(
    name: &str,
    with: &Value,
    sweep: &Map<String, Value>,
) -> Result<Vec<(String, Value)>, (String, String)> {
    let mut rows = vec![(name.to_owned(), with.clone())];
    for (key, values) in sweep {
        let field = || format!("sweep.{key}");
        let Some(values) = values.as_array().filter(|v| !v.is_empty()) else {
            return Err((field(), "expected a list of at least one value".into()));
        };
        let product = rows.len().saturating_mul(values.len());
        if product > MOST_ROWS {
            let message = format!("found {product} rows, expected at most {MOST_ROWS}");
            return Err((field(), message));
        }
        if key.split('.').count() > yaml::LEVELS {
            return Err((field(), yaml::too_deep()));
        }
        if let Some((there, found)) = rows.iter().find_map(|(_, with)| occupied(with, key)) {
            let message = format!(
                "found `with.{there}` beside it, {found}, which no row would have; expected one of them; remove it from `with`, or the other \
                 key from `sweep`"
            );
            return Err((field(), message));
        }
        let mut next = Vec::new();
        for (name, with) in &rows {
            for value in values {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                let mut with = with.clone();
                set_nested(&mut with, key, value.clone());
                next.push((name.replace(&format!("{{{key}}}"), &text), with));
            }
        }
        rows = next;
    }
    Ok(rows)
}

/// Returns what [`set_nested`] would replace, and its key: the value of `key`, or one on the way to it that is no mapping.
fn occupied(with: &Value, key: &str) -> Option<(String, Value)> {
    let (mut at, mut way) = (with, Vec::new());
    for step in key.split('.') {
        if !at.is_object() && !at.is_null() {
            break;
        }
        at = at.get(step)?;
        way.push(step);
    }
    Some((way.join("."), at.clone()))
}

/// Sets `key` of `with`, which may be dotted: `features.normalize`.
fn set_nested(with: &mut Value, key: &str, value: Value) {
    let mut at = with;
    for step in key.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        // The lines above made it a mapping.
        let Value::Object(map) = at else { return };
        at = map.entry(step).or_insert(Value::Null);
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fake(name: &str) -> Result<Option<String>, String> {
        match name {
            "BYTES" => Err("not UTF-8".to_owned()),
            _ => Ok((name == "DATA").then(|| "/d".to_owned())),
        }
    }

    #[test]
    fn environment_variables_and_their_defaults() {
        assert_eq!(env_text("${DATA}/x", &fake).unwrap(), "/d/x");
        assert_eq!(env_text("${NO:-a b}/${DATA}", &fake).unwrap(), "a b//d");
        assert!(
            env_text("${NO}", &fake)
                .unwrap_err()
                .contains("`NO` is not set")
        );
        // A default does not hide it.
        assert!(
            env_text("${BYTES:-x}", &fake)
                .unwrap_err()
                .contains("UTF-8")
        );
        for nested in ["${NO:-${DATA}}", "${DATA:-${NO:-x}}/y"] {
            let error = env_text(nested, &fake).unwrap_err();
            assert!(
                error.contains("a variable in the default of another"),
                "{error}"
            );
        }
        assert_eq!(env_text("${:-$}{DATA}", &fake).unwrap(), "${DATA}");
        assert!(env_text("${NO", &fake).unwrap_err().contains("without"));
    }

    #[test]
    fn what_this_program_writes_is_read_as_it_was() {
        let value = json!({"a": ["${X}/${", 1], "b": {"c": "$x {y}"}});
        let written = literal(&value);
        assert_eq!(env_value(&written, "", &fake).unwrap(), value);
        assert_eq!(written["b"], value["b"]);
        let row = json!([{"optional": true, "with": {"file": "${NO_SUCH}/x"}}]);
        assert_eq!(literal(&row), row);
    }

    #[test]
    fn a_field_is_set_by_its_path() {
        let mut root = json!({"pretrain": {"epochs": 5}, "tokenizers": [{"with": {"k": 1}}]});
        set(&mut root, "pretrain.epochs=7").unwrap();
        set(&mut root, "tokenizers[0].with.k=[1, 2]").unwrap();
        assert_eq!(root["pretrain"]["epochs"], 7);
        assert_eq!(root["tokenizers"][0]["with"]["k"], json!([1, 2]));
        assert!(set(&mut root, "tokenizers[1].name=x").is_err());
        let new = set(&mut root, "tokenizers[]={name: new}").unwrap();
        assert_eq!(new, "tokenizers[1]");
        set(&mut root, "seeds[]=3").unwrap();
        assert_eq!(root["tokenizers"][1]["name"], "new");
        assert_eq!(root["seeds"], json!([3]));
        assert!(set(&mut root, "pretrain.epochs[]=1").is_err());
        set(&mut root, "seeds=0").unwrap();
        assert!(set(&mut root, "seeds").unwrap_err().contains("path=value"));
        let deep = format!("{}=1", "a.".repeat(50_000) + "a");
        assert!(set(&mut root, &deep).unwrap_err().contains("64 levels"));
    }

    #[test]
    fn an_assignment_without_effect_is_refused() {
        let found = |sets: &[&str]| {
            let sets = Vec::from_iter(sets.iter().map(|set| set.to_string()));
            refuse_without_effect(&sets)
        };
        for sets in [
            ["pretrain.epochs=5", "pretrain.epochs=7"],
            ["pretrain.epochs=5", "pretrain={epochs: 7}"],
            ["tokenizers[0].with.k=5", "tokenizers[0]={name: a}"],
            ["seeds[]=5", "seeds=[1]"],
        ] {
            let error = found(&sets).unwrap_err();
            assert!(sets.iter().all(|set| error.contains(set)), "{error}");
        }
        for sets in [
            ["pretrain={epochs: 7}", "pretrain.epochs=5"],
            ["seeds[]=1", "seeds[]=1"],
            ["seed=1", "seeds=1"],
            ["a.b=1", "a.c=1"],
        ] {
            assert_eq!(found(&sets), Ok(()));
        }
    }

    #[test]
    fn a_sweep_is_the_product_of_its_keys() {
        let keys = json!({"k": [1, 2], "epochs": [10, 20]});
        let rows = sweep(
            "K={k}, {epochs}",
            &json!({"features": {"kind": "pixels"}}),
            keys.as_object().unwrap(),
        )
        .unwrap();
        let names: Vec<_> = rows.iter().map(|r| r.0.as_str()).collect();
        assert_eq!(names, ["K=1, 10", "K=1, 20", "K=2, 10", "K=2, 20"]);
        let with = json!({"features": {"kind": "pixels"}, "k": 2, "epochs": 20});
        assert_eq!(rows[3].1, with);
        for key in ["k", "features.kind"] {
            let (field, message) =
                sweep("K", &with, json!({key: [1]}).as_object().unwrap()).unwrap_err();
            assert_eq!(field, format!("sweep.{key}"));
            assert!(
                message.contains(&format!("found `with.{key}` beside it")),
                "{message}"
            );
        }
        // A later key lost the values of an earlier one, and rows had names of values that they did not have.
        for (keys, there) in [
            (
                json!({"features.normalize": ["none"], "features": [{"kind": "pixels"}]}),
                "features",
            ),
            (json!({"a": [1, 2], "a.b": [3]}), "a"),
            (json!({"a": [{"b": 1}], "a.b": [3]}), "a.b"),
        ] {
            let error = sweep("K", &json!({}), keys.as_object().unwrap()).unwrap_err();
            let said = format!("found `with.{there}` beside it");
            assert!(error.1.contains(&said), "{}", error.1);
        }
        let keys = json!({"a": [{"b": 1}], "a.c": [3]});
        let rows = sweep("K", &json!({}), keys.as_object().unwrap()).unwrap();
        assert_eq!(rows[0].1, json!({"a": {"b": 1, "c": 3}}));
        let many = Vec::from_iter(0..40);
        let keys = json!({"a": many, "b": many, "c": many, "d": many, "e": many});
        let error = sweep("K", &json!({}), keys.as_object().unwrap()).unwrap_err();
        assert_eq!(error.0, "sweep.b");
        assert!(error.1.contains("found 1600 rows, expected at most 1000"));
    }
}
