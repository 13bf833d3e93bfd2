//! A table of texts as Markdown, CSV or aligned lines.

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
        let cut = |row: &mut Vec<String>| {
            let mut kept = keep.iter();
            row.retain(|_| *kept.next().unwrap_or(&true));
        };
        cut(&mut self.header);
        self.rows.iter_mut().for_each(cut);
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

    /// Returns aligned lines for a terminal.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let line = |cells: &Vec<String>| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(c, (t, w))| pad(c, t, *w))
                .collect();
            format!("{}\n", padded.join("  ").trim_end())
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
