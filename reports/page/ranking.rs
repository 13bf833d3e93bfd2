//! The ranking: a table that the script sorts and filters.

use std::fmt::Write;

use crate::Record;
use crate::figure::escaped;
use crate::figures::FigureData;
use crate::seeds::mean_sd;

type Number = fn(&Record) -> Option<f64>;

/// Header, explanation, value, decimals, and whether more is better.
struct Column {
    title: &'static str,
    about: &'static str,
    of: Number,
    decimals: usize,
    better: Option<bool>,
}

const fn column(
    title: &'static str,
    about: &'static str,
    of: Number,
    decimals: usize,
    better: Option<bool>,
) -> Column {
    Column {
        title,
        about,
        of,
        decimals,
        better,
    }
}

const COLUMNS: &[Column] = &[
    column(
        "LP",
        "linear probing accuracy, %",
        |r| r.lp_top1,
        1,
        Some(true),
    ),
    column(
        "FT",
        "fine-tuning accuracy, %",
        |r| r.ft_top1,
        1,
        Some(true),
    ),
    column(
        "k-NN",
        "nearest-neighbour accuracy, %",
        |r| r.knn_top1,
        1,
        Some(true),
    ),
    column(
        "TCAS",
        "token-class alignment similarity (paper, equation 8), from the labels of the train split, without training",
        |r| r.tcas,
        3,
        Some(false),
    ),
    column(
        "below null",
        "how far TCAS is below its mean when the images' labels are permuted, the part that is not chance",
        |r| Some(r.tcas_null? - r.tcas?),
        3,
        Some(true),
    ),
    column(
        "PNMI",
        "mutual information of code and class over the entropy of the classes",
        |r| r.pnmi,
        3,
        Some(true),
    ),
    column(
        "codes",
        "size of the codebook",
        |r| r.codebook_size.map(|k| k as f64),
        0,
        None,
    ),
    column(
        "used",
        "codes that occur",
        |r| r.codebook_used.map(|k| k as f64),
        0,
        None,
    ),
];

/// Rows by LP, best first; without LP in the suite's order.
pub fn ranking(records: &[Record], data: &FigureData) -> String {
    let mut rows: Vec<(&str, Vec<&Record>)> = Vec::new();
    for record in records {
        match rows.iter_mut().find(|(name, _)| *name == record.tokenizer) {
            Some((_, of)) => of.push(record),
            None => rows.push((&record.tokenizer, vec![record])),
        }
    }
    let order: Vec<usize> = (0..rows.len()).collect();
    let lp = |at: usize| mean(&rows[at].1, COLUMNS[0].of).map_or(f64::NEG_INFINITY, |m| m.0);
    let mut ranked = order.clone();
    ranked.sort_by(|a, b| lp(*b).total_cmp(&lp(*a)).then(a.cmp(b)));
    let shown: Vec<&Column> = COLUMNS
        .iter()
        .filter(|c| records.iter().any(|r| (c.of)(r).is_some()))
        .collect();
    let random = rows.iter().find(|(name, _)| *name == "No pretraining");
    let floor = random.and_then(|(_, of)| Some(mean(of, |r| r.lp_top1)?.0));
    let mut out = String::from(
        "<p><label>Show rows with <input id=filter type=search placeholder=\"part of a name\"></label> <span id=count aria-live=polite></span></p>\
         <div class=wide><table id=rank><thead><tr><th scope=col><button data-key=name>Tokenizer</button></th>",
    );
    for column in &shown {
        let sorted = if column.title == "LP" {
            " aria-sort=descending"
        } else {
            ""
        };
        let arrow = match column.better {
            Some(true) => " ↑",
            Some(false) => " ↓",
            None => "",
        };
        let _ = write!(
            out,
            "<th scope=col{sorted} title=\"{}\"><button data-key>{}{arrow}</button></th>",
            escaped(column.about),
            column.title
        );
    }
    out.push_str("<th scope=col>remarks</th></tr></thead><tbody>");
    for at in ranked {
        out.push_str(&line(at, (rows[at].0, &rows[at].1), &shown, data, floor));
    }
    let abouts: Vec<String> = shown
        .iter()
        .map(|c| format!("{}: {}", c.title, escaped(c.about)))
        .collect();
    let _ = write!(
        out,
        "</tbody></table></div><p class=small>↑ more is better, ↓ less is better; ± is the standard deviation over seeds. Click a \
         header to sort. {}.</p>",
        abouts.join("; ")
    );
    out
}

fn line(
    at: usize,
    (name, records): (&str, &[&Record]),
    shown: &[&Column],
    data: &FigureData,
    floor: Option<f64>,
) -> String {
    let mut out = format!(
        "<tr><th scope=row><a href=\"#card-{at}\">{}</a></th>",
        escaped(name)
    );
    for column in shown {
        let Some((mean, sd)) = mean(records, column.of) else {
            out.push_str("<td data-value=\"\"></td>");
            continue;
        };
        let spread = sd
            .filter(|_| column.decimals == 1)
            .map(|sd| format!(" <span class=sd>± {sd:.1}</span>"))
            .unwrap_or_default();
        let _ = write!(
            out,
            "<td data-value=\"{mean}\">{mean:.0$}{spread}</td>",
            column.decimals
        );
    }
    let first = records[0];
    let mut remarks: Vec<String> = Vec::new();
    if first.saw_labels {
        remarks.push("saw labels".into());
    }
    if let (Some(tcas), Some(null)) = (first.tcas, first.tcas_null) {
        let se = data
            .metrics
            .iter()
            .find(|m| m.tokenizer == name && m.metric == "tcas");
        let se = se.and_then(|m| m.se).unwrap_or(0.0);
        if null - tcas < (2.0 * se).max(0.02) {
            remarks.push("TCAS within chance or nearly".into());
        }
    }
    if first.codebook_size.is_none() && first.kind != "none" && first.status == "ok" {
        remarks.push("continuous targets: no codes, no TCAS".into());
    }
    if below(records, floor) {
        remarks.push("LP below No pretraining".into());
    }
    for record in records.iter().filter(|r| r.status != "ok") {
        remarks.push(format!(
            "seed {}: {} {}",
            record.seed, record.status, record.error
        ));
    }
    let _ = write!(out, "<td>{}</td></tr>", escaped(&remarks.join("; ")));
    out
}

/// Whether pretraining made linear probing worse than that of a random encoder.
fn below(records: &[&Record], floor: Option<f64>) -> bool {
    let lp = mean(records, |r| r.lp_top1);
    matches!((lp, floor), (Some((lp, _)), Some(floor)) if lp < floor)
}

fn mean(records: &[&Record], of: Number) -> Option<(f64, Option<f64>)> {
    let values: Vec<f64> = records.iter().filter_map(|r| of(r)).collect();
    mean_sd(&values)
}
