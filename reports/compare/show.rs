//! Shows the comparison of two runs as text, for a terminal and for a pull request.

use serde_json::{Value, json};

use super::{CANNOT_TELL, Regression, Verdict};
use crate::grid::Grid;
use crate::number::decimals;
use crate::text::{markdown, markdown_sentence};

/// Returns the Markdown of a comparison that ended with an error.
pub fn cannot_tell(error: &str) -> String {
    format!(
        "### bench compare: {CANNOT_TELL}\n\n{}\n",
        markdown_sentence(error)
    )
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Moved => "moved",
            Self::Unknown => "no error known",
            Self::OtherFit => "not comparable: seeds of codebooks differ",
            Self::NoOrder => "no order",
        }
    }
}

impl Regression {
    /// Returns the changes for a terminal; `all` includes changes within their error, and seconds that decide nothing.
    pub fn text(&self, all: bool) -> String {
        let grid = self.grid(all);
        if grid.rows.is_empty() {
            return self.head();
        }
        let grid = grid.narrowed(&["error by", "2 SE", "old"]);
        format!("{}{}", self.head(), grid.text())
    }

    /// Returns the changes as Markdown, for a pull request.
    pub fn markdown(&self) -> String {
        let mut shown = self.grid(false);
        let body = match shown.rows.is_empty() {
            _ if self.refused => {
                "Nothing is judged: the runs differ in the fields above.\n".to_owned()
            }
            true if self.compared() => "No metric moved beyond its error.\n".to_owned(),
            true => "No deciding metric was compared.\n".to_owned(),
            false => {
                for row in &mut shown.rows {
                    row[0] = markdown(&row[0]);
                }
                shown.markdown()
            }
        };
        let head = self.remarks().map(|line| markdown_sentence(&line) + "\n");
        let head = head.collect::<String>();
        format!("### bench compare: {}\n\n{head}\n{body}", self.verdict())
    }

    /// Returns all changes, those within their error too, as JSON.
    pub fn json(&self) -> Value {
        let changes = self.changes.iter().map(|change| {
            json!({
                "tokenizer": change.tokenizer,
                "metric": change.metric,
                "old": change.old,
                "new": change.new,
                "se": change.se,
                "error_by": change.by,
                "verdict": change.verdict.word(),
                "gates": change.gates,
            })
        });
        json!({
            "verdict": self.verdict(),
            "regressed": self.regressed(),
            "differing": self.differing,
            "computed_otherwise": self.otherwise,
            "notes": self.notes,
            "lost": self.lost,
            "not_compared": self.unfinished.iter().chain(&self.added).collect::<Vec<_>>(),
            "changes": changes.collect::<Vec<_>>(),
        })
    }

    fn head(&self) -> String {
        self.remarks().map(|line| line + "\n").collect()
    }

    /// Returns the lines above the changes.
    fn remarks(&self) -> impl Iterator<Item = String> {
        let differing = self.differing.iter().map(|d| format!("differs: {d}"));
        let otherwise = self.otherwise.iter();
        let otherwise = otherwise.map(|o| format!("computed otherwise: {o}"));
        let lost = self.lost.iter().map(|l| format!("lost: {l}"));
        let unfinished = self
            .unfinished
            .iter()
            .chain(&self.added)
            .map(|u| format!("not compared: {u}"));
        let differing = differing.chain(otherwise);
        let notes = self.notes.iter().map(|n| format!("note: {n}"));
        let all = differing.chain(notes).chain(lost).chain(unfinished);
        all.map(|line| line.replace(['\n', '\r'], " "))
    }

    fn grid(&self, all: bool) -> Grid {
        let mut grid = Grid::new(&[
            "Tokenizer",
            "metric",
            "old",
            "new",
            "change",
            "2 SE",
            "verdict",
            "error by",
        ]);
        for change in &self.changes {
            // Seconds are never equal.
            let is_time = change.metric.ends_with("_seconds") && !change.gates;
            if !all && (is_time || change.verdict == Verdict::Same) {
                continue;
            }
            let mut word = change.verdict.word().to_owned();
            if !change.gates && !word.is_empty() && change.verdict != Verdict::OtherFit {
                word.push_str(" (not gating)");
            }
            let difference = change.new - change.old;
            let decimals = decimals(difference, 4);
            let number = |value: f64| format!("{value:.decimals$}");
            grid.rows.push(vec![
                change.tokenizer.clone(),
                change.metric.to_owned(),
                number(change.old),
                number(change.new),
                format!("{difference:+.decimals$}"),
                change.se.map(|se| number(2.0 * se)).unwrap_or_default(),
                word,
                change.by.to_owned(),
            ]);
        }
        grid
    }
}
