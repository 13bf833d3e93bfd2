//! A table of texts as Markdown, CSV or aligned lines.

use crate::text::wrapped;

/// Characters of a terminal's line.
const LINE: usize = 80;

/// A header and rows of equal length.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Rows of the length of the header.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// Creates a grid without rows.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Removes columns that are empty in every row.
    pub fn without_empty_columns(mut self) -> Self {
        let keep: Vec<bool> = (0..self.header.len())
            .map(|c| c == 0 || self.rows.iter().any(|r| !r[c].is_empty()))
            .collect();
        self.keep(&keep);
        self
    }

    fn keep(&mut self, columns: &[bool]) {
        let cut = |row: &mut Vec<String>| {
            let mut kept = columns.iter();
            row.retain(|_| *kept.next().unwrap_or(&true));
        };
        cut(&mut self.header);
        self.rows.iter_mut().for_each(cut);
    }

    /// Removes columns of `dispensable`, in this order, until [`text`](Self::text) leaves the first column 20 characters, or as many as it needs.
    pub fn narrowed(mut self, dispensable: &[&str]) -> Self {
        const FIRST: usize = 20;
        for name in dispensable {
            let widths = self.widths();
            let others: usize = widths.iter().skip(1).map(|width| width + 2).sum();
            if others + widths.first().map_or(0, |width| FIRST.min(*width)) <= LINE {
                break;
            }
            let keep: Vec<bool> = self.header.iter().map(|column| column != name).collect();
            self.keep(&keep);
        }
        self
    }

    /// Returns GitHub's Markdown. All columns but the first are aligned to the right.
    pub fn markdown(&self) -> String {
        let widths = self.widths();
        let line = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(c, (t, w))| pad(c, &escape(t), *w))
                .collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(c, w)| {
                if c == 0 {
                    "-".repeat(*w)
                } else {
                    format!("{}:", "-".repeat(w - 1))
                }
            })
            .collect();
        let body: String = self.rows.iter().map(|r| line(r)).collect();
        format!("{}| {} |\n{body}", line(&self.header), rule.join(" | "))
    }

    /// Returns aligned lines for a terminal of 80 characters; the first column is wrapped, at 12 characters or more.
    pub fn text(&self) -> String {
        let mut widths = self.widths();
        let others: usize = widths.iter().skip(1).map(|width| width + 2).sum();
        if let Some(first) = widths.first_mut() {
            *first = (*first).min(LINE.saturating_sub(others).max(12));
        }
        let line = |cells: &Vec<String>| {
            let names = wrapped(&cells[0], widths[0]);
            let rest = cells.iter().zip(&widths).skip(1);
            let numbers: String = rest
                .map(|(text, width)| format!("  {text:>width$}"))
                .collect();
            let line = format!("{:<width$}{numbers}", names[0], width = widths[0]);
            let more: String = names[1..]
                .iter()
                .map(|more| format!("  {more}\n"))
                .collect();
            format!("{}\n{more}", line.trim_end())
        };
        std::iter::once(&self.header)
            .chain(&self.rows)
            .map(line)
            .collect()
    }

    fn widths(&self) -> Vec<usize> {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        (0..self.header.len())
            .map(|c| {
                all()
                    .map(|r| escape(&r[c]).chars().count())
                    .max()
                    .unwrap_or(0)
                    .max(2)
            })
            .collect()
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn pad(column: usize, text: &str, width: usize) -> String {
    if column == 0 {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}
