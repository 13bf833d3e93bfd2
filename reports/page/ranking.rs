//! The ranking: a table that the script sorts and filters.

use std::fmt::Write;

use crate::chance::{Excess, TCAS, few_patches};
use crate::column::{Better, Column};
use crate::columns::{Comparison, Record};
use crate::evaluations::{EVALUATIONS, Evaluation, is_trained, over_fewer_seeds};
use crate::figure::escaped;
use crate::figures::FigureData;
use crate::number::signed;
use crate::paired::{compare, over};
use crate::recipes::other_recipes;
use crate::seeds::{ahead, mean_sd, minus, tie};

type Number = dyn Fn(&Record) -> Option<f64>;

/// A column of the ranking.
struct Shown {
    title: &'static str,
    about: &'static str,
    better: Better,
    decimals: usize,
    of: Box<Number>,
    /// Whether the number varies with the seed of training.
    varies: bool,
    /// Standard error of the first record's number.
    se: Option<fn(&Record, &FigureData) -> Option<f64>>,
}

fn shown(title: &'static str, decimals: usize, column: Column) -> Shown {
    Shown {
        title,
        about: column.definition,
        better: column.better,
        decimals,
        of: Box::new(move |r| r.number(&column)),
        varies: false,
        se: None,
    }
}

fn columns() -> Vec<Shown> {
    let accuracies = EVALUATIONS.iter().map(|e| Shown {
        varies: e.of_encoder,
        ..shown(e.short, 1, e.top1)
    });
    let below = Shown {
        title: "below null",
        about: "Mean TCAS under permuted labels minus TCAS: the distance from chance level",
        better: Better::Higher,
        decimals: 3,
        of: Box::new(|r| Some(minus(r.tcas_null?, r.tcas?))),
        varies: false,
        se: Some(|r, data| Some(Excess::of(r, &data.metrics, TCAS)?.se)),
    };
    let metrics = [
        shown("TCAS", 3, *TCAS),
        below,
        shown("PNMI", 3, const { Record::column("pnmi") }),
        shown("codes", 0, const { Record::column("codebook_size") }),
        shown("used", 0, const { Record::column("codebook_used") }),
    ];
    accuracies.chain(metrics).collect()
}

/// Ranks rows by the first evaluation, best first. Rows without it follow in the order of the suite.
pub fn ranking(records: &[Record], data: &FigureData) -> String {
    let mut rows: Vec<(&str, Vec<&Record>)> = Vec::new();
    for record in records {
        match rows.iter_mut().find(|(name, _)| *name == record.tokenizer) {
            Some((_, of)) => of.push(record),
            None => rows.push((&record.tokenizer, vec![record])),
        }
    }
    let first = &EVALUATIONS[0];
    let of_first = |records: &[&Record]| Some(mean(records, &|r| first.accuracy(r))?.0);
    let means = rows
        .iter()
        .map(|(_, of)| of_first(of).unwrap_or(f64::NEG_INFINITY));
    let mut means: Vec<f64> = means.collect();
    tie(&mut means);
    let mut ranked: Vec<usize> = (0..rows.len()).collect();
    ranked.sort_by(|a, b| means[*b].total_cmp(&means[*a]).then(a.cmp(b)));
    let mut shown = columns();
    shown.retain(|c| records.iter().any(|r| (c.of)(r).is_some()));
    let random = rows.iter().find(|(_, of)| of[0].is_random());
    let floors: Vec<Floor<'_>> = random.map_or_else(Vec::new, |(name, of)| {
        let evaluations = EVALUATIONS.iter().filter(|e| e.of_encoder);
        evaluations
            .filter_map(|evaluation| Floor::of(evaluation, name, of, data))
            .collect()
    });
    let trained = records.iter().filter(|r| is_trained(r) && !r.is_random());
    let other_recipes = other_recipes(trained, |r| r.recipe_hash.clone());
    let said = Said {
        data,
        floors,
        other_recipes,
    };
    let mut out = head(&shown);
    for at in ranked {
        out.push_str(&line(at, (rows[at].0, &rows[at].1), &shown, &said));
    }
    let abouts: Vec<String> = shown
        .iter()
        .map(|c| format!("{}: {}", c.title, escaped(c.about)))
        .collect();
    let _ = write!(
        out,
        "</tbody></table></div><p class=small>↑ more is better, ↓ less is better; ± is the standard deviation over seeds, below null the standard error. Click a \
         header to sort. {}.</p>",
        abouts.join("; ")
    );
    out
}

/// Returns the filter and the head of the table.
fn head(shown: &[Shown]) -> String {
    let mut out = String::from(
        "<p><label>Show rows with <input id=filter type=search placeholder=\"part of a name\"></label> <span id=count aria-live=polite></span></p>\
         <div class=wide><table id=rank><thead><tr><th scope=col><button data-key=name>Tokenizer</button></th>",
    );
    for column in shown {
        let sorted = if column.title == EVALUATIONS[0].short {
            " aria-sort=descending"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<th scope=col{sorted} title=\"{}\"><button data-key>{}{}</button></th>",
            escaped(column.about),
            column.title,
            column.better.arrow()
        );
    }
    out.push_str("<th scope=col>remarks</th></tr></thead><tbody>");
    out
}

fn line(
    at: usize,
    (name, records): (&str, &[&Record]),
    shown: &[Shown],
    said: &Said<'_>,
) -> String {
    let mut out = format!(
        "<tr><th scope=row><a href=\"#card-{at}\">{}</a></th>",
        escaped(name)
    );
    for column in shown {
        let Some((mean, sd)) = mean(records, &column.of) else {
            out.push_str("<td data-value=\"\"></td>");
            continue;
        };
        let spread = sd
            .filter(|_| column.varies)
            .or_else(|| column.se?(records[0], said.data));
        let spread = spread.map_or_else(String::new, |error| {
            format!(
                " <span class=sd>± {}</span>",
                signed(error, column.decimals)
            )
        });
        let _ = write!(
            out,
            "<td data-value=\"{mean}\">{}{spread}</td>",
            signed(mean, column.decimals)
        );
    }
    let remarks = remarks(records, said).join("; ");
    let _ = write!(out, "<td>{}</td></tr>", escaped(&remarks));
    out
}

/// What the remarks on rows need.
struct Said<'a> {
    data: &'a FigureData,
    floors: Vec<Floor<'a>>,
    other_recipes: Vec<&'a str>,
}

fn remarks(records: &[&Record], said: &Said<'_>) -> Vec<String> {
    let first = records[0];
    let mut remarks: Vec<String> = Vec::new();
    if first.saw_labels {
        remarks.push("built with labels".into());
    }
    if said.other_recipes.contains(&first.tokenizer.as_str()) {
        remarks.push("another recipe".into());
    }
    remarks.extend(over_fewer_seeds(records));
    let excess = Excess::of(first, &said.data.metrics, TCAS);
    let distance = match excess {
        Some(excess) if excess.is_shown() => None,
        Some(excess) => Some(excess.text()),
        // A run without any errors has a note of its own.
        None if said.data.metrics.is_empty() => None,
        None => first
            .tcas
            .map(|_| "the distance or its error is unknown".to_owned()),
    };
    if let Some(distance) = distance {
        let has_no_order = Excess::without_order(first, &said.data.metrics).is_some();
        let found = match has_no_order {
            true => "TCAS above its null, so a lower one is not better: compare PNMI",
            false => "TCAS not shown to be below its null",
        };
        remarks.push(format!("{found} ({distance})"));
    }
    if let Some(each) = few_patches(first) {
        remarks.push(format!(
            "few patches per code and class ({:.0}): compare the distance from the null, not TCAS",
            each.floor()
        ));
    }
    if first.codebook_size.is_none() && first.kind != "none" && first.status == "ok" {
        remarks.push(match first.code_groups.as_str() {
            "" => "continuous targets: no codes, no TCAS".into(),
            sizes => format!(
                "too many joint codes of groups of {sizes}: no TCAS but of each group (metrics.csv)"
            ),
        });
    }
    let floors = said.floors.iter();
    remarks.extend(floors.filter_map(|floor| floor.remark(records)));
    remarks.extend(problems(records.iter().copied()));
    remarks
}

/// Returns what is wrong with the seeds of a row, once for seeds of which the same is wrong. They share the pictures.
pub(super) fn problems<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<String> {
    let mut all: Vec<((&str, &str), Vec<String>)> = Vec::new();
    for r in records.filter(|r| (&*r.status, &*r.error) != ("ok", "")) {
        let (what, seed) = ((&*r.status, &*r.error), r.seed.to_string());
        match all.iter_mut().find(|(other, _)| *other == what) {
            Some((_, seeds)) => seeds.push(seed),
            None => all.push((what, vec![seed])),
        }
    }
    let said = |((status, error), seeds): ((&str, &str), Vec<String>)| match (status, &seeds[..]) {
        ("ok", _) => error.to_owned(),
        (status, [seed]) => format!("seed {seed}: {status} {error}"),
        (status, seeds) => format!("seeds {}: {status} {error}", seeds.join(", ")),
    };
    all.into_iter().map(said).collect()
}

/// The row without pretraining, by an evaluation.
struct Floor<'a> {
    evaluation: &'static Evaluation,
    name: &'a str,
    records: Vec<&'a Record>,
    mean: f64,
    comparisons: Vec<Comparison>,
}

impl<'a> Floor<'a> {
    fn of(
        evaluation: &'static Evaluation,
        name: &'a str,
        records: &[&'a Record],
        data: &FigureData,
    ) -> Option<Self> {
        let predicted = data.predicted.get(evaluation.key);
        let predicted = predicted.map_or(&[][..], Vec::as_slice);
        Some(Self {
            evaluation,
            name,
            records: records.to_vec(),
            mean: mean(records, &|r| evaluation.accuracy(r))?.0,
            comparisons: compare(evaluation.key, predicted, name),
        })
    }

    /// Returns a remark on a row that is not above it.
    fn remark(&self, records: &[&Record]) -> Option<String> {
        let (evaluation, row) = (self.evaluation, &records[0].tokenizer);
        let (own, _) = mean(records, &|r| evaluation.accuracy(r))?;
        let shared = ahead(records, &self.records, |r| evaluation.accuracy(r));
        // Of the seeds that both have.
        let above = shared.map_or(own - self.mean, |(above, _)| above);
        let over = over(&self.comparisons, evaluation.key, row);
        let over = over.filter(|over| shared.is_some_and(|(_, seeds)| over.seeds == seeds));
        if above > 0.0 || row == self.name {
            return None;
        }
        let side = match over.is_some_and(Comparison::is_significant) {
            true => "below",
            false => "not above",
        };
        Some(format!("{} {side} {}", evaluation.short, self.name))
    }
}

fn mean(records: &[&Record], of: &Number) -> Option<(f64, Option<f64>)> {
    let values: Vec<f64> = records.iter().filter_map(|r| of(r)).collect();
    mean_sd(&values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_the_accuracy_are_last_and_equal_ones_in_the_order_of_the_suite() {
        let seeds = |name: &str, all: [Option<f64>; 3]| {
            let record = |(seed, lp)| Record {
                tokenizer: name.into(),
                seed,
                lp_top1: lp,
                ..Record::default()
            };
            (0..).zip(all).map(record).collect::<Vec<_>>()
        };
        // The sums of the second and the third row are rounded differently.
        let records = [
            seeds("NONE", [None; 3]),
            seeds("BEE", [Some(0.4), Some(0.1), Some(0.2)]),
            seeds("COW", [Some(0.1), Some(0.2), Some(0.4)]),
            seeds("DOG", [Some(9.0); 3]),
        ];
        let page = ranking(&records.concat(), &FigureData::default());
        let at = |name: &str| page.find(name).unwrap();
        let order = ["DOG", "BEE", "COW", "NONE"].map(at);
        assert!(order.is_sorted(), "{page}");
    }
}
