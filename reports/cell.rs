//! Reads cells of CSV files, also as pandas writes them: `True`, and `50.0` for a whole number in a column with empty cells.

use std::fmt;

use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A type that a column may have.
pub trait FromCell: DeserializeOwned {
    /// What a cell holds, for errors.
    const EXPECTED: &'static str;
    /// Reads a cell.
    ///
    /// # Errors
    /// If the cell is not of the type.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

/// As [`FromCell::read`], for serde's `deserialize_with`.
pub fn read<'de, T: FromCell, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    T::read(from)
}

/// Returns what is expected in place of a cell that is not of the type.
pub fn refused<T: FromCell>(cell: &str) -> Option<&'static str> {
    struct Only<T>(T);

    impl<'de, T: FromCell> Deserialize<'de> for Only<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            T::read(from).map(Self)
        }
    }

    let record = csv::StringRecord::from(vec![cell]);
    let read = record.deserialize::<(Only<T>,)>(None);
    read.is_err().then_some(T::EXPECTED)
}

macro_rules! plain {
    ($($type:ty, $expected:literal;)*) => {$(
        impl FromCell for $type {
            const EXPECTED: &'static str = $expected;
        }
    )*};
}
plain! {
    String, "text";
    f64, "a number";
    Option<f64>, "a number or nothing";
}

impl FromCell for bool {
    const EXPECTED: &'static str = "true or false";

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Truth)
    }
}

struct Truth;

impl Visitor<'_> for Truth {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E: Error>(self, found: bool) -> Result<bool, E> {
        Ok(found)
    }

    fn visit_str<E: Error>(self, found: &str) -> Result<bool, E> {
        match found.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(found), &self)),
        }
    }
}

/// A whole number of at least 0.
struct Whole(u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WholeNumber).map(Whole)
    }
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of at least 0")
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<u64, E> {
        Ok(found)
    }

    fn visit_f64<E: Error>(self, found: f64) -> Result<u64, E> {
        // Above 2^53 a float need not be the number that was written.
        let is_exact = (0.0..=9_007_199_254_740_992.0).contains(&found) && found.fract() == 0.0;
        match is_exact {
            true => Ok(found as u64),
            false => Err(E::invalid_value(serde::de::Unexpected::Float(found), &self)),
        }
    }
}

macro_rules! whole {
    ($($number:ty)*) => {$(
        impl FromCell for $number {
            const EXPECTED: &'static str = "a whole number of at least 0";

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let Whole(found) = Whole::deserialize(from)?;
                <$number>::try_from(found).map_err(D::Error::custom)
            }
        }

        impl FromCell for Option<$number> {
            const EXPECTED: &'static str = "a whole number of at least 0, or nothing";

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let found = Option::<Whole>::deserialize(from)?;
                let number = found.map(|Whole(found)| <$number>::try_from(found));
                number.transpose().map_err(D::Error::custom)
            }
        }
    )*};
}
whole!(u64 usize);

#[cfg(test)]
mod tests {
    use crate::columns::Record;
    use crate::{from_csv, to_csv};

    #[test]
    fn cells_are_read_as_pandas_writes_them() {
        let record = Record {
            tokenizer: "True".into(),
            codebook_size: Some(50),
            saw_labels: true,
            n_train: 1600,
            ..Record::default()
        };
        let csv = to_csv(std::slice::from_ref(&record)).unwrap();
        let (header, row) = csv.split_once('\n').unwrap();
        let row = row.replace(",true,", ",True,").replace(",50,", ",50.0,");
        assert!(row.contains(",True,") && row.contains(",50.0,"));
        let read = |row: &str| from_csv::<Record>(&format!("{header}\n{row}"), "results.csv");
        assert_eq!(read(&row).unwrap(), [record]);
        for wrong in ["50.5", "-1", "many", "50 "] {
            let error = read(&row.replace("50.0", wrong)).unwrap_err().to_string();
            let expected = "of True, seed 0, expected a whole number of at least 0, or nothing";
            let found = format!("found codebook_size {wrong:?} {expected}");
            assert!(error.contains(&found), "{error}");
        }
        let error = read(&row.replace(",True,", ",yes,")).unwrap_err();
        assert!(error.to_string().contains("true or false"), "{error}");
        let other = format!("{header}\n{row}").replace(',', ";");
        let error = from_csv::<Record>(&other, "results.csv").unwrap_err();
        assert!(
            error.to_string().contains("found ';' between columns"),
            "{error}"
        );
    }
}
