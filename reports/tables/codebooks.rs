//! Tables of codebooks: 2 (TCAS), 4 (K), 5 (passes of K-means), 7 (TCAS and accuracy by size).

use super::rows::Row;
use super::setting_column;
use crate::column::Better;
use crate::paper::printed;
use crate::table::{Cell, Column, Table, directed, plain};

const TCAS: Column = directed("TCAS", "tcas", Better::Lower);
const LP: Column = directed("LP acc.", "lp_acc", Better::Higher);
const FT: Column = directed("FT acc.", "ft_acc", Better::Higher);
const PAPER_TCAS: Column = plain("paper TCAS", "paper_tcas");
const PAPER_LP: Column = plain("paper LP", "paper_lp_acc");
const PAPER_FT: Column = plain("paper FT", "paper_ft_acc");
const STATUS: Column = plain("status", "status");
const SETTING: Column = plain("setting", "setting");

pub fn table2(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        plain("Tokenizer", "tokenizer"),
        TCAS,
        plain("null", "tcas_null"),
        directed("PNMI", "pnmi", Better::Higher),
        plain("null PNMI", "pnmi_null"),
        plain("codes", "codebook_size"),
        plain("used", "codebook_used"),
        PAPER_TCAS,
        STATUS,
        SETTING,
    ]);
    for row in rows.iter().filter(|r| r.first().kind != "none") {
        let paper = printed(2, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::text(&row.name),
            row.metric(|r| r.tcas),
            row.metric(|r| r.tcas_null),
            row.metric(|r| r.pnmi),
            row.metric(|r| r.pnmi_null),
            Cell::count(row.first().codebook_size),
            row.used(),
            Cell::exact(paper.tcas),
            row.problem(),
            setting_column(rows, row),
        ];
        table.push(&row.setting(), cells);
    }
    table
}

/// The K-means rows, by `key`; rows of one method compete.
fn kmeans<'a>(rows: &'a [Row<'a>], key: fn(&Row<'_>) -> Option<usize>) -> Vec<&'a Row<'a>> {
    let mut found: Vec<&Row<'_>> = rows.iter().filter(|r| r.first().kind == "kmeans").collect();
    found.sort_by_key(|r| (key(r), r.family()));
    found
}

pub fn table4(rows: &[Row<'_>]) -> Table {
    by_key(rows, plain("K", "k"), 4, |r| r.first().codebook_size)
}

pub fn table5(rows: &[Row<'_>]) -> Table {
    let column = plain("K-means epochs", "kmeans_epochs");
    by_key(rows, column, 5, |r| r.first().kmeans_epochs)
}

fn by_key(
    rows: &[Row<'_>],
    column: Column,
    number: u32,
    key: fn(&Row<'_>) -> Option<usize>,
) -> Table {
    let mut table = Table::new(&[
        column,
        plain("Method", "method"),
        TCAS,
        LP,
        FT,
        PAPER_LP,
        PAPER_FT,
        STATUS,
        SETTING,
    ]);
    for row in kmeans(rows, key) {
        let paper = printed(number, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::count(key(row)),
            Cell::text(&row.name),
            row.metric(|r| r.tcas),
            row.accuracy(|r| r.lp_top1),
            row.accuracy(|r| r.ft_top1),
            Cell::exact(paper.lp),
            Cell::exact(paper.ft),
            row.problem(),
            setting_column(rows, row),
        ];
        table.push(&row.setting(), cells);
    }
    table
}

pub fn table7(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        plain("Tokenizer", "tokenizer"),
        plain("K", "k"),
        plain("k-means epochs", "kmeans_epochs"),
        TCAS,
        LP,
        FT,
        directed("k-NN", "knn_acc", Better::Higher),
        PAPER_TCAS,
        PAPER_LP,
        PAPER_FT,
        STATUS,
        SETTING,
    ]);
    let mut discrete: Vec<&Row<'_>> = rows
        .iter()
        .filter(|r| r.first().codebook_size.is_some() || r.first().kind == "none")
        .collect();
    discrete.sort_by_key(|r| r.first().codebook_size);
    for row in discrete {
        let paper = printed(7, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::text(&row.name),
            Cell::count(row.first().codebook_size),
            Cell::count(row.first().kmeans_epochs),
            row.metric(|r| r.tcas),
            row.accuracy(|r| r.lp_top1),
            row.accuracy(|r| r.ft_top1),
            row.accuracy(|r| r.knn_top1),
            Cell::exact(paper.tcas),
            Cell::exact(paper.lp),
            Cell::exact(paper.ft),
            row.problem(),
            setting_column(rows, row),
        ];
        table.push(&row.setting(), cells);
    }
    table
}
