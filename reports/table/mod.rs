//! A table of numbers with directions, and its rendering as CSV, Markdown and LaTeX.

mod latex;

use crate::chance::SHOWN;
use crate::column::{Better, to_csv};
use crate::error::Result;
use crate::grid::Grid;
use crate::number::{difference, rounded};
use crate::text;

/// The header of a column.
#[derive(Clone, Debug)]
pub struct Header {
    /// Title in Markdown and LaTeX.
    pub title: String,
    /// Name in the CSV.
    pub name: String,
    /// Shown as an arrow; a number is bold if it is better than all others of its setting by more than the errors.
    pub better: Better,
    /// What the errors are, for the name of their column in the CSV: `sd` or `se`.
    pub error: &'static str,
    /// Whether only the CSV has the column.
    pub hidden: bool,
}

impl Header {
    /// Creates a header without a direction.
    pub fn new(title: &str, name: &str) -> Self {
        Self {
            title: title.to_owned(),
            name: name.to_owned(),
            better: Better::Undirected,
            error: "sd",
            hidden: false,
        }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Not measured.
    Empty,
    /// A name, a count or a remark.
    Text(String),
    /// A measured number, with its error if it is known.
    Number {
        /// Mean over the seeds.
        mean: f64,
        /// Standard deviation over the seeds if there are several, or a standard error.
        sd: Option<f64>,
        /// Whether `sd` covers all that varies. That of a codebook that was fitted once leaves out how much another fit would differ.
        whole: bool,
        /// Decimals in Markdown and LaTeX.
        decimals: usize,
    },
    /// A difference, and whether it is significant.
    Delta {
        /// The difference.
        value: f64,
        /// Whether p is below the level of significance.
        marked: bool,
    },
    /// A number quoted from elsewhere.
    Exact(f64),
}

impl Cell {
    /// Creates a text cell, or an empty cell for an empty text.
    pub fn text(text: impl Into<String>) -> Self {
        match text.into() {
            text if text.is_empty() => Self::Empty,
            text => Self::Text(text),
        }
    }

    /// Creates a cell with a count.
    pub fn count(count: Option<usize>) -> Self {
        count.map_or(Self::Empty, |count| Self::Text(count.to_string()))
    }

    /// Creates a cell with a number quoted from elsewhere.
    pub fn exact(value: Option<f64>) -> Self {
        value.map_or(Self::Empty, Self::Exact)
    }

    /// Returns the rounded form, for Markdown and LaTeX.
    pub fn pretty(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::Number {
                mean, sd, decimals, ..
            } => match sd {
                Some(sd) => format!("{} ± {sd:.decimals$}", rounded(*mean, *decimals)),
                None => rounded(*mean, *decimals),
            },
            Self::Delta { value, marked } => difference(*value, 1) + if *marked { "*" } else { "" },
            Self::Exact(value) => value.to_string(),
        }
    }

    /// Returns the form with all digits, for CSV.
    fn raw(&self) -> String {
        match self {
            Self::Number { mean: value, .. } | Self::Delta { value, .. } | Self::Exact(value) => {
                value.to_string()
            }
            other => other.pretty(),
        }
    }

    /// Returns a measured number, and its error if it covers all that varies.
    fn measured(&self) -> Option<(f64, Option<f64>)> {
        match self {
            Self::Number {
                mean, sd, whole, ..
            } => Some((*mean, sd.filter(|_| *whole))),
            _ => None,
        }
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Line {
    /// Numbers of one setting compete; a rule separates settings in LaTeX.
    pub setting: String,
    /// Whether it competes for the best number. A row that saw labels does not.
    pub ranked: bool,
    /// One per column.
    pub cells: Vec<Cell>,
}

/// Columns and rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Headers.
    pub columns: Vec<Header>,
    /// Rows.
    pub lines: Vec<Line>,
}

impl Table {
    /// Creates a table without rows.
    pub fn new(columns: Vec<Header>) -> Self {
        Self {
            columns,
            lines: Vec::new(),
        }
    }

    /// Adds a column that only the CSV has.
    pub fn add_hidden(&mut self, name: &str, cells: impl Iterator<Item = Cell>) {
        self.columns.push(Header {
            hidden: true,
            ..Header::new("", name)
        });
        for (line, cell) in self.lines.iter_mut().zip(cells) {
            line.cells.push(cell);
        }
    }

    /// Returns whether a cell is better than those of all other ranked rows of its setting by more than [`SHOWN`] times the errors of both, combined. Where
    /// an error is unknown or leaves something out, that is unknown.
    fn is_best(&self, line: &Line, column: usize) -> bool {
        let sign = match self.columns[column].better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
            Better::Undirected => return false,
        };
        let own = line.cells[column].measured().filter(|_| line.ranked);
        let Some((own, Some(error))) = own else {
            return false;
        };
        let rivals = self.lines.iter();
        let rivals = rivals.filter(|l| l.ranked && l.setting == line.setting);
        let mut rivals = rivals
            .filter(|l| !std::ptr::eq(*l, line))
            .filter_map(|l| l.cells[column].measured())
            .peekable();
        let is_beaten = |(other, its): (f64, Option<f64>)| {
            its.is_some_and(|its| sign * (own - other) > SHOWN * error.hypot(its))
        };
        rivals.peek().is_some() && rivals.all(is_beaten)
    }

    /// Returns the footnote on bold numbers, if there are any.
    pub fn note(&self) -> Option<String> {
        let shown = self.shown();
        let mut lines = self.lines.iter();
        let any = lines.any(|line| shown.iter().any(|c| self.is_best(line, *c)));
        let labelled = match self.lines.iter().any(|line| !line.ranked) {
            true => " of the rows built without labels",
            false => "",
        };
        any.then(|| {
            format!(
                "Bold: the best number{labelled}, if it is ahead of every other by more than {SHOWN} times the two errors (±) combined, the root of the sum of their squares; it is no test of a difference."
            )
        })
    }

    /// Returns the columns of Markdown and LaTeX: those that are neither hidden nor empty.
    fn shown(&self) -> Vec<usize> {
        let filled = |c: &usize| self.lines.iter().any(|l| l.cells[*c] != Cell::Empty);
        (0..self.columns.len())
            .filter(|c| !self.columns[*c].hidden && (*c == 0 || filled(c)))
            .collect()
    }

    /// Returns GitHub's Markdown.
    pub fn markdown(&self) -> String {
        let shown = self.shown();
        let header = shown.iter().map(|c| {
            let column = &self.columns[*c];
            format!("{}{}", column.title, column.better.arrow())
        });
        let rows = self.lines.iter().map(|line| {
            let cells = shown.iter().map(|c| {
                let text = match &line.cells[*c] {
                    Cell::Text(text) => text::markdown(text),
                    number => number.pretty(),
                };
                match self.is_best(line, *c) {
                    true => format!("**{text}**"),
                    false => text,
                }
            });
            cells.collect()
        });
        Grid {
            header: header.collect(),
            rows: rows.collect(),
        }
        .markdown()
    }

    /// Returns CSV with every column and all digits. The error of a number follows it as `NAME_sd` or `NAME_se`.
    ///
    /// # Errors
    /// [`Error::Csv`](crate::Error::Csv).
    pub fn csv(&self) -> Result<String> {
        let spread: Vec<bool> = (0..self.columns.len())
            .map(|c| {
                let has = |l: &Line| matches!(l.cells[c], Cell::Number { sd: Some(_), .. });
                self.lines.iter().any(has)
            })
            .collect();
        let mut rows = vec![Vec::new()];
        for (column, spread) in self.columns.iter().zip(&spread) {
            rows[0].push(column.name.clone());
            if *spread {
                rows[0].push(format!("{}_{}", column.name, column.error));
            }
        }
        for line in &self.lines {
            let mut row = Vec::new();
            for (cell, spread) in line.cells.iter().zip(&spread) {
                row.push(cell.raw());
                if *spread {
                    row.push(match cell {
                        Cell::Number { sd: Some(sd), .. } => sd.to_string(),
                        _ => String::new(),
                    });
                }
            }
            rows.push(row);
        }
        to_csv(&rows)
    }
}

#[cfg(test)]
mod tests;
