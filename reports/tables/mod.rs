//! The paper's tables 1, 2 and 7 over the records of a run, and the summary.

mod footnotes;
mod rows;

use std::fmt::Write;

use crate::grid::Grid;
use crate::paired::Comparison;
use crate::paper::printed;
use crate::record::Record;
use crate::{Error, Result};
use footnotes::footnotes;
use rows::{Row, grouped};

/// A table that can be written.
#[derive(Clone, Copy, Debug)]
pub struct TableAbout {
    /// The paper's number.
    pub number: u32,
    /// What it shows.
    pub title: &'static str,
}

/// All tables.
pub fn tables() -> &'static [TableAbout] {
    &[
        TableAbout {
            number: 1,
            title: "Linear probing and fine-tuning accuracy of every target",
        },
        TableAbout {
            number: 2,
            title: "TCAS of every tokenizer",
        },
        TableAbout {
            number: 7,
            title: "TCAS and accuracy of every codebook, by its size",
        },
    ]
}

/// What tables say that records don't.
#[derive(Clone, Debug, Default)]
pub struct TableContext {
    /// (tokenizer, what its recipe overrides), for the footnotes.
    pub overrides: Vec<(String, String)>,
    /// Rows against the baseline, for the marks in table 1.
    pub comparisons: Vec<Comparison>,
    /// Footnotes of the suite: which class list, which view.
    pub notes: Vec<String>,
}

/// A written table.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// `table1.csv`.
    pub csv: String,
    /// `table1.md`.
    pub markdown: String,
}

/// Writes table `number` of `records`.
///
/// # Errors
/// [`Error::NoTable`].
pub fn render(number: u32, records: &[Record], cx: &TableContext) -> Result<Rendered> {
    let about = tables()
        .iter()
        .find(|t| t.number == number)
        .ok_or(Error::NoTable(number))?;
    let rows = grouped(records);
    let (pretty, plain) = match number {
        1 => (table1(&rows, cx, true), table1(&rows, cx, false)),
        2 => (table2(&rows, true), table2(&rows, false)),
        _ => (table7(&rows, true), table7(&rows, false)),
    };
    let mut markdown = format!(
        "# Table {number}. {}\n\n{}\n",
        about.title,
        pretty.without_empty_columns().markdown()
    );
    for note in footnotes(&rows, cx) {
        let _ = writeln!(markdown, "- {note}");
    }
    Ok(Rendered {
        csv: csv(&plain)?,
        markdown,
    })
}

/// The run on a terminal: accuracy and TCAS of every row.
pub fn summary(records: &[Record]) -> String {
    let rows = grouped(records);
    let mut grid = Grid::new(&[
        "",
        "LP",
        "FT",
        "k-NN",
        "TCAS",
        "null",
        "PNMI",
        "codes used",
        "status",
    ]);
    for row in &rows {
        let status = row.status();
        grid.rows.push(vec![
            row.name.clone(),
            row.percent(|r| r.lp_top1),
            row.percent(|r| r.ft_top1),
            row.percent(|r| r.knn_top1),
            row.number(|r| r.tcas),
            row.number(|r| r.tcas_null),
            row.number(|r| r.pnmi),
            row.used(),
            if status == "ok" {
                String::new()
            } else {
                status
            },
        ]);
    }
    grid.without_empty_columns().text()
}

/// Below which a difference is marked.
const SIGNIFICANT: f64 = 0.05;

/// The row that the others are compared with: the identity row, without one the row without pretraining.
pub fn baseline(records: &[Record]) -> Option<String> {
    base(&grouped(records)).map(|row| row.name.clone())
}

fn base<'a>(rows: &'a [Row<'a>]) -> Option<&'a Row<'a>> {
    let is_identity =
        |r: &&Row<'_>| r.first().kind == "continuous" && r.name.to_lowercase().contains("identity");
    let random = || rows.iter().find(|r| r.name == "No pretraining");
    rows.iter().find(is_identity).or_else(random)
}

fn table1(rows: &[Row<'_>], cx: &TableContext, pretty: bool) -> Grid {
    let header = [
        "Tokenizer",
        "LP acc.",
        "delta LP",
        "FT acc.",
        "delta FT",
        "k-NN",
        "paper LP",
        "paper FT",
        "status",
        "",
        "",
    ];
    let names = [
        "tokenizer",
        "lp_acc",
        "lp_delta",
        "ft_acc",
        "ft_delta",
        "knn_acc",
        "paper_lp_acc",
        "paper_ft_acc",
        "status",
        "lp_p",
        "ft_p",
    ];
    let base = base(rows);
    let mut grid = Grid::new(if pretty { &header } else { &names });
    for row in rows {
        let p = |evaluation| cx.p(evaluation, &row.name);
        let delta = |of: fn(&Record) -> Option<f64>, evaluation| {
            let base = base.filter(|b| b.name != row.name)?.mean(of)?;
            let marked = pretty && p(evaluation).is_some_and(|p| p < SIGNIFICANT);
            let mark = if marked { "*" } else { "" };
            Some(format!("{:+.1}{mark}", row.mean(of)? - base))
        };
        let written = |evaluation| text(p(evaluation).filter(|_| !pretty));
        let paper = printed(1, row.first()).unwrap_or_default();
        grid.rows.push(vec![
            row.name.clone(),
            row.accuracy(|r| r.lp_top1, pretty),
            delta(|r| r.lp_top1, "lp").unwrap_or_default(),
            row.accuracy(|r| r.ft_top1, pretty),
            delta(|r| r.ft_top1, "ft").unwrap_or_default(),
            row.accuracy(|r| r.knn_top1, pretty),
            text(paper.lp),
            text(paper.ft),
            row.problem(),
            written("lp"),
            written("ft"),
        ]);
    }
    grid
}

impl TableContext {
    /// p of a row against the baseline, after Holm: over the seeds where there are several, else of the one seed.
    fn p(&self, evaluation: &str, tokenizer: &str) -> Option<f64> {
        let of_row = |c: &&Comparison| c.evaluation == evaluation && c.tokenizer == tokenizer;
        let over = self
            .comparisons
            .iter()
            .filter(of_row)
            .find(|c| c.seed.is_none())?;
        if over.seeds > 1 {
            return Some(over.p_holm);
        }
        let one = self
            .comparisons
            .iter()
            .filter(of_row)
            .find(|c| c.seed.is_some())?;
        Some(one.p_holm)
    }
}

fn table2(rows: &[Row<'_>], pretty: bool) -> Grid {
    let header = [
        "Tokenizer",
        "TCAS (lower is better)",
        "null",
        "PNMI",
        "null PNMI",
        "codes",
        "used",
        "paper TCAS",
        "status",
    ];
    let names = [
        "tokenizer",
        "tcas",
        "tcas_null",
        "pnmi",
        "pnmi_null",
        "codebook_size",
        "codebook_used",
        "paper_tcas",
        "status",
    ];
    let mut grid = Grid::new(if pretty { &header } else { &names });
    for row in rows.iter().filter(|r| r.first().kind != "none") {
        let paper = printed(2, row.first()).unwrap_or_default();
        grid.rows.push(vec![
            row.name.clone(),
            row.number(|r| r.tcas),
            row.number(|r| r.tcas_null),
            row.number(|r| r.pnmi),
            row.number(|r| r.pnmi_null),
            row.codes(),
            row.used(),
            text(paper.tcas),
            row.problem(),
        ]);
    }
    grid
}

fn table7(rows: &[Row<'_>], pretty: bool) -> Grid {
    let header = [
        "Tokenizer",
        "K",
        "k-means epochs",
        "TCAS",
        "LP acc.",
        "FT acc.",
        "k-NN",
        "paper TCAS",
        "paper LP",
        "paper FT",
        "status",
    ];
    let names = [
        "tokenizer",
        "k",
        "kmeans_epochs",
        "tcas",
        "lp_acc",
        "ft_acc",
        "knn_acc",
        "paper_tcas",
        "paper_lp_acc",
        "paper_ft_acc",
        "status",
    ];
    let mut grid = Grid::new(if pretty { &header } else { &names });
    let mut discrete: Vec<&Row<'_>> = rows
        .iter()
        .filter(|r| r.first().codebook_size.is_some() || r.first().kind == "none")
        .collect();
    discrete.sort_by_key(|r| r.first().codebook_size);
    for row in discrete {
        let paper = printed(7, row.first()).unwrap_or_default();
        grid.rows.push(vec![
            row.name.clone(),
            row.codes(),
            row.first()
                .kmeans_epochs
                .map(|e| e.to_string())
                .unwrap_or_default(),
            row.number(|r| r.tcas),
            row.accuracy(|r| r.lp_top1, pretty),
            row.accuracy(|r| r.ft_top1, pretty),
            row.accuracy(|r| r.knn_top1, pretty),
            text(paper.tcas),
            text(paper.lp),
            text(paper.ft),
            row.problem(),
        ]);
    }
    grid
}

fn text(value: Option<f64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn csv(grid: &Grid) -> Result<String> {
    let mut rows = vec![grid.header.clone()];
    rows.extend(grid.rows.iter().cloned());
    let failed = |source| Error::Csv {
        what: "writing a table".into(),
        source,
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter()
        .try_for_each(|row| writer.write_record(row))
        .map_err(failed)?;
    let bytes = writer
        .into_inner()
        .map_err(|e| failed(e.into_error().into()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
