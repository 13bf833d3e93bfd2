//! Recommends a tokenizer, and states how certain that is.

use crate::columns::{Comparison, Record};
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::figure::escaped;
use crate::figures::FigureData;
use crate::paired::{SIGNIFICANT, compare, p_of};
use crate::seeds::{mean_sd, names};

/// A tokenizer with its seed-mean accuracy.
struct Ranked<'a> {
    name: &'a str,
    mean: f64,
    sd: Option<f64>,
    seeds: usize,
}

/// Returns the advice as paragraphs of HTML.
pub fn advice(records: &[Record], data: &FigureData) -> Vec<String> {
    let mut lines: Vec<String> = Evaluation::compared()
        .filter_map(|evaluation| sentence(records, data, evaluation))
        .collect();
    let is_trained = |r: &Record| {
        r.pretrain_loss.is_some() || EVALUATIONS.iter().any(|e| e.accuracy(r).is_some())
    };
    if !records.iter().any(is_trained) {
        lines.extend(by_metric(records));
    }
    lines.extend(labelled(records));
    if records.first().is_some_and(|r| r.dataset == "mosaics") {
        lines.push(
            "These images are textures that the program draws. The results do not say which tokenizer is best on photographs.".into(),
        );
    }
    lines
}

/// Returns tokenizers built without labels, best first.
fn ranked<'a>(records: &'a [Record], evaluation: &Evaluation) -> Vec<Ranked<'a>> {
    let unseen = records.iter().filter(|r| !r.is_random() && !r.saw_labels);
    let one = |name| {
        let rows = records.iter().filter(|r| r.tokenizer == name);
        let values: Vec<f64> = rows.filter_map(|r| evaluation.accuracy(r)).collect();
        let (mean, sd) = mean_sd(&values)?;
        let seeds = values.len();
        Some(Ranked {
            name,
            mean,
            sd,
            seeds,
        })
    };
    let mut all: Vec<Ranked<'_>> = names(unseen).into_iter().filter_map(one).collect();
    all.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    all
}

fn sentence(records: &[Record], data: &FigureData, evaluation: &Evaluation) -> Option<String> {
    let ranked = ranked(records, evaluation);
    let best = ranked.first()?;
    let spread = best.sd.map(|sd| format!(" ± {sd:.1}")).unwrap_or_default();
    let mut text = format!(
        "By {}, the best is <strong>{}</strong> with {:.1}{spread} %",
        evaluation.title,
        escaped(best.name),
        best.mean
    );
    text.push_str(&match best.seeds {
        1 => " (one seed; the variation between trainings is unknown).".to_owned(),
        n => format!(" (mean and standard deviation over {n} seeds)."),
    });
    if let Some(next) = ranked.get(1) {
        let predicted = data.predicted.get(evaluation.key);
        let predicted = predicted.map_or(&[][..], Vec::as_slice);
        let all = compare(evaluation.key, predicted, best.name);
        text.push_str(&against(best, next, &all));
        text.push_str(&equals(best, &ranked[1..], &all));
    }
    Some(text)
}

/// Compares the best with the next one.
fn against(best: &Ranked<'_>, next: &Ranked<'_>, all: &[Comparison]) -> String {
    let difference = best.mean - next.mean;
    let name = escaped(next.name);
    let Some(over) = over_images(all, next.name) else {
        return format!(" The next, {name}, has {difference:.1} percentage points less.");
    };
    let (low, high) = (-over.ci_high.unwrap_or(0.0), -over.ci_low.unwrap_or(0.0));
    format!(
        " The next, {name}, has {difference:.1} percentage points less; on other images of this kind the gap would be {low:.1} to {high:.1} points \
         (95 % interval)."
    )
}

/// Names the rows that do not differ significantly from the best, and those that were not compared with it.
fn equals(best: &Ranked<'_>, others: &[Ranked<'_>], all: &[Comparison]) -> String {
    let Some(evaluation) = all.first().map(|c| c.evaluation.as_str()) else {
        return String::new();
    };
    let p = |row: &Ranked<'_>| p_of(all, evaluation, row.name);
    let list = |rows: Vec<&Ranked<'_>>| -> String {
        let names: Vec<String> = rows.iter().map(|row| escaped(row.name)).collect();
        names.join("; ")
    };
    let (compared, not): (Vec<&Ranked<'_>>, Vec<&Ranked<'_>>) =
        others.iter().partition(|row| p(row).is_some());
    let beaten = |row: &&Ranked<'_>| {
        let behind = over_images(all, row.name).is_some_and(|c| c.difference < 0.0);
        behind && p(row).is_some_and(|p| p < SIGNIFICANT)
    };
    let near: Vec<&Ranked<'_>> = compared.into_iter().filter(|row| !beaten(row)).collect();
    let mut text = match near.is_empty() {
        true => format!(
            " {} is ahead of every other compared tokenizer by more than the error of the validation images.",
            escaped(best.name)
        ),
        false => format!(
            " On these validation images it does not differ significantly from: {} (p at least {SIGNIFICANT} after Holm's correction).",
            list(near)
        ),
    };
    if !not.is_empty() {
        text.push_str(&format!(" Not compared image by image: {}.", list(not)));
    }
    text
}

fn over_images<'a>(all: &'a [Comparison], name: &str) -> Option<&'a Comparison> {
    all.iter().find(|c| c.tokenizer == name && c.seed.is_none())
}

/// For runs without training, names the row whose TCAS is furthest below its null.
fn by_metric(records: &[Record]) -> Option<String> {
    let excess = |r: &&Record| Some(r.tcas_null? - r.tcas?);
    let rows = records.iter().filter(|r| !r.saw_labels);
    let best = rows.filter(|r| excess(r).is_some()).max_by(|a, b| {
        excess(a)
            .unwrap_or(0.0)
            .total_cmp(&excess(b).unwrap_or(0.0))
    })?;
    Some(format!(
        "Nothing was trained. By the training-free metrics, the codes of <strong>{}</strong> are the most aligned with classes: TCAS \
         {:.3}, {:.3} below the mean under permuted labels.",
        escaped(&best.tokenizer),
        best.tcas?,
        excess(&best)?
    ))
}

fn labelled(records: &[Record]) -> Option<String> {
    let mut names: Vec<String> = Vec::new();
    for record in records.iter().filter(|r| r.saw_labels) {
        let name = escaped(&record.tokenizer);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (!names.is_empty()).then(|| {
        format!(
            "Left out here, because they were built with labels: {}.",
            names.join("; ")
        )
    })
}
