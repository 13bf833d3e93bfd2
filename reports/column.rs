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
    /// Unit; empty for text and plain numbers.
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
values!(measured: f64 usize; others: f64 usize u64 bool String Option<u64>);

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
/// [`Error::Csv`].
pub fn from_csv<T: for<'de> Deserialize<'de>>(text: &str, what: &str) -> Result<Vec<T>> {
    let failed = |error| Error::Csv {
        what: what.to_owned(),
        error,
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().map_err(failed)?.clone();
    let rows = reader.records().map(|row| {
        let row = row?;
        let mut cells: csv::StringRecord = row.iter().map(text::of_cell).collect();
        cells.set_position(row.position().cloned());
        cells.deserialize(Some(&headers))
    });
    rows.collect::<csv::Result<_>>().map_err(failed)
}
