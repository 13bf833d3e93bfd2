//! Tables of accuracies: 1 (every target), 3 (dataset x backbone), 6 (epochs of pretraining).

use super::rows::{Row, by_setting};
use super::{TableContext, base_of, setting_column};
use crate::column::Better;
use crate::columns::Comparison;
use crate::columns::Record;
use crate::paper::printed;
use crate::table::{Cell, Column, Table, directed, hidden, plain};

/// Below which a difference is marked.
const SIGNIFICANT: f64 = 0.05;

const LP: Column = directed("LP acc.", "lp_acc", Better::Higher);
const FT: Column = directed("FT acc.", "ft_acc", Better::Higher);
const KNN: Column = directed("k-NN", "knn_acc", Better::Higher);
const PAPER_LP: Column = plain("paper LP", "paper_lp_acc");
const PAPER_FT: Column = plain("paper FT", "paper_ft_acc");
const STATUS: Column = plain("status", "status");

pub fn table1(rows: &[Row<'_>], cx: &TableContext) -> Table {
    let mut table = Table::new(&[
        plain("Tokenizer", "tokenizer"),
        LP,
        plain("Δ LP", "lp_delta"),
        FT,
        plain("Δ FT", "ft_delta"),
        KNN,
        PAPER_LP,
        PAPER_FT,
        STATUS,
        hidden("lp_p"),
        hidden("ft_p"),
        plain("setting", "setting"),
    ]);
    for row in rows {
        let base = base_of(rows, row);
        // Comparisons are the first run's own.
        let own = row.first().suite == rows[0].first().suite && row.setting() == rows[0].setting();
        let p = |evaluation| p_of(cx, evaluation, &row.name).filter(|_| own);
        let delta = |of: fn(&Record) -> Option<f64>, evaluation| {
            let base = base.filter(|b| b.name != row.name);
            match base.and_then(|b| row.ahead_of(b, of)) {
                Some(value) => Cell::Delta {
                    value,
                    marked: p(evaluation).is_some_and(|p| p < SIGNIFICANT),
                },
                None => Cell::Empty,
            }
        };
        let paper = printed(1, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::text(&row.name),
            row.accuracy(|r| r.lp_top1),
            delta(|r| r.lp_top1, "lp"),
            row.accuracy(|r| r.ft_top1),
            delta(|r| r.ft_top1, "ft"),
            row.accuracy(|r| r.knn_top1),
            Cell::exact(paper.lp),
            Cell::exact(paper.ft),
            row.problem(),
            Cell::exact(p("lp")),
            Cell::exact(p("ft")),
            setting_column(rows, row),
        ];
        table.push(&row.setting(), cells);
    }
    table
}

/// p of a row against the baseline, after Holm: over the seeds where there are several, else of the one seed.
fn p_of(cx: &TableContext, evaluation: &str, tokenizer: &str) -> Option<f64> {
    let of_row = |c: &&Comparison| c.evaluation == evaluation && c.tokenizer == tokenizer;
    let mut all = cx.comparisons.iter().filter(of_row);
    let over = cx
        .comparisons
        .iter()
        .filter(of_row)
        .find(|c| c.seed.is_none())?;
    match over.seeds {
        0 | 1 => Some(all.find(|c| c.seed.is_some())?.p_holm),
        _ => Some(over.p_holm),
    }
}

pub fn table3(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        plain("Dataset", "dataset"),
        plain("Backbone", "backbone"),
        plain("Method", "method"),
        LP,
        FT,
        PAPER_LP,
        PAPER_FT,
        STATUS,
    ]);
    for row in by_setting(rows) {
        let paper = printed(3, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::text(&row.first().dataset),
            Cell::text(format!("ViT-{}", row.first().backbone)),
            Cell::text(&row.name),
            row.accuracy(|r| r.lp_top1),
            row.accuracy(|r| r.ft_top1),
            Cell::exact(paper.lp),
            Cell::exact(paper.ft),
            row.problem(),
        ];
        table.push(&row.setting(), cells);
    }
    table
}

pub fn table6(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&[
        plain("Method", "method"),
        plain("Backbone", "backbone"),
        plain("epochs", "epochs"),
        LP,
        FT,
        PAPER_LP,
        PAPER_FT,
        STATUS,
    ]);
    let mut trained: Vec<&Row<'_>> = by_setting(rows)
        .into_iter()
        .filter(|r| r.first().pretrain_epochs.is_some())
        .collect();
    trained.sort_by_key(|r| (r.setting(), r.first().pretrain_epochs));
    for row in trained {
        let paper = printed(6, row.first()).unwrap_or_default();
        let cells = vec![
            Cell::text(&row.name),
            Cell::text(format!("ViT-{}", row.first().backbone)),
            Cell::count(row.first().pretrain_epochs),
            row.accuracy(|r| r.lp_top1),
            row.accuracy(|r| r.ft_top1),
            Cell::exact(paper.lp),
            Cell::exact(paper.ft),
            row.problem(),
        ];
        table.push(&row.setting(), cells);
    }
    table
}
