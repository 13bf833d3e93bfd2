//! The type of a CSV column, and conversion of rows to CSV. `columns.rs` defines the columns.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::text;

/// The direction of improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Larger numbers.
    Higher,
    /// Smaller numbers.
    Lower,
    /// Neither; smaller (seconds, loss) if a gate names the column.
    Undirected,
}

impl Better {
    /// Returns the arrow after the name of a column.
    pub fn arrow(self) -> &'static str {
        match self {
            Self::Higher => " ↑",
            Self::Lower => " ↓",
            Self::Undirected => "",
        }
    }
}

/// Kind of a column's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Identifies or describes the row.
    Identity,
    /// A training-free metric. `metrics.csv` has its error, and figures plot every accuracy against it.
    Metric,
    /// A count, which is in `metrics.csv` but is neither compared nor drawn.
    Count,
    /// The mean of the metric `NAME` under permuted labels, as `NAME_null`.
    Null,
    /// A number of an encoder's features, computed without labels, for every seed. Figures plot every accuracy against it.
    Encoder,
    /// Percent of the validation images.
    Accuracy,
    /// Loss or seconds of a stage.
    Stage,
    /// A number of another file than `results.csv`.
    Statistic,
}

/// A column of a CSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// Kind of its content.
    pub group: Group,
    /// Unit, or the range of a plain number (`0..1`, `0..`); empty for text and for numbers of any size.
    pub unit: &'static str,
    /// The direction of improvement.
    pub better: Better,
    /// Its definition, in one sentence or formula.
    pub definition: &'static str,
}

impl Column {
    /// Returns definition, unit and direction in a line.
    pub fn summary(&self) -> String {
        let better = match self.better {
            Better::Higher => "higher is better",
            Better::Lower => "lower is better",
            Better::Undirected => "",
        };
        let about: Vec<&str> = [self.unit, better]
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect();
        match about.is_empty() {
            true => self.definition.to_owned(),
            false => format!("{} [{}]", self.definition, about.join(", ")),
        }
    }

    /// Returns the smallest and the largest number that a run may measure; `None` for numbers of any size.
    pub fn range(&self) -> Option<(f64, f64)> {
        let (low, high) = match (self.unit, self.group) {
            ("%", Group::Accuracy) => ("0", "100"),
            ("codes", Group::Identity) => ("1", ""),
            ("%", Group::Identity) | ("s" | "MiB" | "images" | "codes" | "nats", _) => ("0", ""),
            (range, _) => range.split_once("..")?,
        };
        // The upper end may be a word: `1..classes`.
        Some((low.parse().ok()?, high.parse().unwrap_or(f64::MAX)))
    }

    /// Returns the range in words, if `number` lies outside it by more than rounding. NaN lies outside every range.
    pub fn misfit(&self, number: f64) -> Option<String> {
        const ROUNDING: f64 = 1e-6;
        let (low, high) = self.range()?;
        let outside = !(low - ROUNDING..=high + ROUNDING).contains(&number);
        outside.then(|| match high < f64::MAX {
            true => format!("{low} to {high}"),
            false => format!("at least {low}"),
        })
    }

    /// Returns whether `bench compare` compares it.
    pub fn is_compared(&self) -> bool {
        matches!(
            self.group,
            Group::Metric | Group::Encoder | Group::Accuracy | Group::Stage
        )
    }
}

/// A type that a column may have.
pub trait Value {
    /// Returns the number; `None` if it was not measured or the type has no measured numbers.
    fn number(&self) -> Option<f64> {
        None
    }
    /// Sets a number and returns `true`, or returns `false` if the type has no measured numbers.
    fn set(&mut self, _: Option<f64>) -> bool {
        false
    }
}

impl Value for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

macro_rules! values {
    (measured: $($number:ty)*; others: $($other:ty)*) => {
        $(impl Value for Option<$number> {
            fn number(&self) -> Option<f64> {
                self.map(|v| v as f64)
            }
            fn set(&mut self, value: Option<f64>) -> bool {
                *self = value.map(|v| v as $number);
                true
            }
        })*
        $(impl Value for $other {})*
    };
}
values!(measured: f64 usize; others: usize u64 bool String Option<u64>);

/// A row of a CSV file.
pub trait Measured {
    /// Returns the first number that no run measures, with its column and its range in words.
    fn misfit(&self) -> Option<(&'static str, f64, String)> {
        None
    }

    /// Returns what is expected in place of a cell of a column that is not of its type.
    fn refused(column: &str, cell: &str) -> Option<&'static str> {
        let _ = (column, cell);
        None
    }
}

/// Defines the struct of a row and the columns of its file, from one line per column: `name: type, group, unit, direction, definition;`.
macro_rules! rows {
    ($($(#[$about:meta])* $row:ident {
        $($(#[$attribute:meta])* $name:ident: $type:ty, $group:ident, $unit:literal, $better:ident, $definition:literal;)*
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $row {
            $(#[doc = $definition] $(#[$attribute])* #[serde(deserialize_with = "crate::cell::read")] pub $name: $type,)*
        }

        impl crate::column::Measured for $row {
            fn misfit(&self) -> Option<(&'static str, f64, String)> {
                Self::COLUMNS.iter().find_map(|column| {
                    let number = self.number(column)?;
                    Some((column.name, number, column.misfit(number)?))
                })
            }

            fn refused(column: &str, cell: &str) -> Option<&'static str> {
                match column {
                    $(stringify!($name) => crate::cell::refused::<$type>(cell),)*
                    _ => None,
                }
            }
        }

        impl $row {
            /// The columns, in the order of the file.
            pub const COLUMNS: &'static [Column] = &[$(Column {
                name: stringify!($name),
                group: Group::$group,
                unit: $unit,
                better: Better::$better,
                definition: $definition,
            },)*];

            fn value(&self, name: &str) -> Option<&dyn Value> {
                match name {
                    $(stringify!($name) => Some(&self.$name),)*
                    _ => None,
                }
            }

            fn value_mut(&mut self, name: &str) -> Option<&mut dyn Value> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            /// Returns the measured number in a column; `None` if nothing was measured.
            pub fn number(&self, column: &Column) -> Option<f64> {
                self.value(column.name)?.number()
            }

            /// Sets a measured number by the name of its column.
            ///
            /// # Errors
            /// [`Error::NoColumn`] if no column of that name has measured numbers.
            pub fn set(&mut self, name: &str, value: Option<f64>) -> Result<()> {
                match self.value_mut(name).is_some_and(|column| column.set(value)) {
                    true => Ok(()),
                    false => Err(Error::NoColumn(name.to_owned())),
                }
            }
        }
    )*};
}
pub(crate) use rows;

/// Writes rows as CSV with a header. A spreadsheet does not take any text for a formula; [`from_csv`] returns it as it was.
///
/// # Errors
/// [`Error::Csv`].
pub fn to_csv<T: Serialize>(rows: &[T]) -> Result<String> {
    let failed = |error| Error::Csv {
        what: "writing CSV".into(),
        error,
    };
    let write = |fill: &dyn Fn(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>| {
        let mut writer = csv::Writer::from_writer(Vec::new());
        fill(&mut writer).map_err(failed)?;
        let bytes = writer.into_inner();
        bytes.map_err(|e| failed(e.into_error().into()))
    };
    let bytes = write(&|writer| rows.iter().try_for_each(|row| writer.serialize(row)))?;
    let mut plain = csv::ReaderBuilder::new();
    let mut plain = plain.has_headers(false).from_reader(&bytes[..]);
    let records = plain.records().collect::<csv::Result<Vec<_>>>();
    let records = records.map_err(failed)?;
    let bytes = match records.iter().flatten().any(text::is_formula) {
        true => write(&|writer| {
            let mut cells = records.iter().map(|r| r.iter().map(text::to_cell));
            cells.try_for_each(|cells| writer.write_record(cells.map(|c| c.into_owned())))
        })?,
        false => bytes,
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses the rows of a CSV text. `what` names it in errors.
///
/// # Errors
/// [`Error::Csv`], or [`Error::Cell`] for a number that no run measures.
pub fn from_csv<T: for<'de> Deserialize<'de> + Measured>(text: &str, what: &str) -> Result<Vec<T>> {
    let failed = |error| Error::Csv {
        what: what.to_owned(),
        error,
    };
    let wrong = |found: String, expected: String| Error::Cell {
        what: what.to_owned(),
        found,
        expected,
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(failed)?.clone();
    if let (1, Some(other)) = (headers.len(), text.find([';', '\t'])) {
        let found = format!("{:?} between columns", char::from(text.as_bytes()[other]));
        return Err(wrong(found, "commas".into()));
    }
    let rows = reader.records().map(|row| {
        let row = row.map_err(failed)?;
        let mut cells: csv::StringRecord = row.iter().map(text::of_cell).collect();
        cells.set_position(row.position().cloned());
        let of = |column: &str| named((&headers, &cells), column, text);
        let parsed: T = cells.deserialize(Some(&headers)).map_err(|error| {
            let mut all = headers.iter().zip(&cells);
            let found = all.find_map(|(column, cell)| {
                let expected = T::refused(column, cell)?.to_owned();
                Some((format!("{column} {cell:?} of {}", of(column)), expected))
            });
            found.map_or_else(|| failed(error), |(found, expected)| wrong(found, expected))
        })?;
        match parsed.misfit() {
            Some((column, number, expected)) => Err(wrong(
                format!("{column} {number} of {}", of(column)),
                expected,
            )),
            None => Ok(parsed),
        }
    });
    rows.collect()
}

/// Names a row by its tokenizer and seed if the file has them, otherwise by its line, as where one of them is the wrong `column`.
fn named(
    (headers, cells): (&csv::StringRecord, &csv::StringRecord),
    column: &str,
    text: &str,
) -> String {
    let cell = |name: &str| cells.get(headers.iter().position(|header| header == name)?);
    if let (Some(row), Some(seed)) = (cell("tokenizer"), cell("seed"))
        && column != "seed"
    {
        return format!("{row}, seed {seed}");
    }
    // The reader counts a line when it reads the next one.
    let at = cells.position().map_or(0, |at| at.byte() as usize);
    let (before, rest) = text.split_at_checked(at).unwrap_or_default();
    let breaks = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
    let line = 1 + (before.matches('\n').count() + rest[..breaks].matches('\n').count());
    format!("line {line}")
}
