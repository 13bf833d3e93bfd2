//! Parses YAML of few values.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Limit of the values of a text with those of every alias. Aliases of aliases repeat a list millions of times.
const VALUES: usize = 10_000;

/// Parses `text`.
///
/// # Errors
/// If it is not YAML, or has more than [`VALUES`] values.
pub fn value(text: &str) -> Result<Value, serde_yaml::Error> {
    let left = Cell::new(VALUES);
    Counted(&left).deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Takes one from the number of values that are left.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom(format!("more than {VALUES} values")))?;
        self.0.set(left);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value without a tag")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    /// An empty text.
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = items.next_key::<String>()? {
            // Which of two values is meant cannot be told.
            if map.contains_key(&key) {
                let message = format!("duplicate key `{key}`, expected each key once");
                return Err(A::Error::custom(message));
            }
            map.insert(key, items.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            "a: [1, -2, 1.5, x, null, true]\nb: &b {c: d}\ne: *b\nf: .nan\n1: 2",
            "",
            "x",
            "a: !tag 1",
            "99999999999999999999",
            "? [a]\n: b",
            "[",
        ] {
            let expected = serde_yaml::from_str::<Value>(text);
            assert_eq!(value(text).ok(), expected.ok(), "{text}");
        }
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused() {
        for text in ["a: 1\na: 2", "a: {b: 1, b: 1}", r#"{"a": 1, "a": 1}"#] {
            let error = value(text).unwrap_err().to_string();
            assert!(error.contains("duplicate key"), "{text}: {error}");
        }
    }

    #[test]
    fn aliases_of_aliases_do_not_multiply() {
        let lists = (1..9).map(|n| {
            format!(
                "x{n}: &x{n} [{}]\n",
                "*x, ".repeat(9).replace('x', &format!("x{}", n - 1))
            )
        });
        let text = format!(
            "x0: &x0 [{}]\n{}",
            "1, ".repeat(1000),
            lists.collect::<String>()
        );
        let error = value(&text).unwrap_err().to_string();
        assert!(error.contains("10000 values"), "{error}");
    }
}
