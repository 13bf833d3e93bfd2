//! One learning rate, or several to choose from.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum number of rates. Each costs one training; more than one per factor of two over four decades is of no use.
const MOST: usize = 16;

/// Maximum of learning rates, decays, temperatures and beta parameters: f32 loses all digits beyond.
pub(super) const MOST_RATE: f64 = 1000.0;

/// Learning rates at batch 256: `0.1`, or `[0.01, 0.1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates(Vec<f64>);

impl Rates {
    /// Valid values, for errors.
    pub(super) const EXPECTED: &str = "a number above 0, or a list of 1 to 16 of them, each once";

    /// Creates a list.
    pub(super) fn of(rates: &[f64]) -> Self {
        Self(rates.to_vec())
    }

    /// Returns the rates.
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// Returns whether they are [as expected](Self::EXPECTED).
    pub(super) fn are_valid(&self) -> bool {
        let is_new = |at: usize| !self.0[..at].contains(&self.0[at]);
        let in_range = (1..=MOST).contains(&self.0.len());
        in_range && (0..self.0.len()).all(|at| is_rate(self.0[at]) && is_new(at))
    }
}

/// A single rate is written as a number, whether it was read as one or as a list.
impl Serialize for Rates {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0[..] {
            [one] => one.serialize(to),
            _ => self.0.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Self)
    }
}

fn is_rate(value: f64) -> bool {
    value > 0.0 && value <= MOST_RATE
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Vec<f64>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(Rates::EXPECTED)
    }

    fn visit_f64<E>(self, rate: f64) -> Result<Vec<f64>, E> {
        Ok(vec![rate])
    }

    fn visit_u64<E>(self, rate: u64) -> Result<Vec<f64>, E> {
        Ok(vec![rate as f64])
    }

    fn visit_i64<E>(self, rate: i64) -> Result<Vec<f64>, E> {
        Ok(vec![rate as f64])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<f64>, A::Error> {
        let mut rates = Vec::new();
        while let Some(rate) = list.next_element()? {
            rates.push(rate);
        }
        Ok(rates)
    }
}

impl JsonSchema for Rates {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rates".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let rate =
            serde_json::json!({"type": "number", "exclusiveMinimum": 0, "maximum": MOST_RATE});
        schemars::json_schema!({"anyOf": [
            rate,
            {"type": "array", "items": rate, "minItems": 1, "maxItems": MOST},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(text: &str) -> Result<Rates, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_number_and_a_list_are_read_and_a_single_rate_is_written_as_a_number() {
        for (text, values, written) in [
            ("0.1", &[0.1][..], "0.1"),
            ("1", &[1.0], "1.0"),
            ("[0.1]", &[0.1], "0.1"),
            ("[0.1, 1]", &[0.1, 1.0], "[0.1,1.0]"),
        ] {
            let read = rates(text).unwrap();
            assert_eq!(read.all(), values);
            assert!(read.are_valid());
            assert_eq!(serde_json::to_string(&read).unwrap(), written);
        }
    }

    #[test]
    fn other_values_are_refused() {
        let many: Vec<String> = (1..=17).map(|rate| rate.to_string()).collect();
        let many = format!("[{}]", many.join(","));
        for text in ["-1", "0", "[]", "[0.1, 0]", "[0.1, 0.1]", many.as_str()] {
            assert!(!rates(text).unwrap().are_valid(), "{text}");
        }
        for text in ["null", "\"0.1\"", "[\"0.1\"]", "[null]", "{}"] {
            assert!(rates(text).is_err(), "{text}");
        }
        let error = rates("\"fast\"").unwrap_err().to_string();
        assert!(error.contains(Rates::EXPECTED), "{error}");
    }
}
