//! Which tokenizer to use and how sure that is, in sentences.

use crate::figure::escaped;
use crate::figures::FigureData;
use crate::paired::{Comparison, compare};
use crate::record::Record;
use crate::seeds::{mean_sd, names};

/// p below which a difference is called one.
const SURE: f64 = 0.05;

type Accuracy = fn(&Record) -> Option<f64>;

/// A tokenizer with its seed-mean accuracy.
struct Place<'a> {
    name: &'a str,
    mean: f64,
    sd: Option<f64>,
    seeds: usize,
}

/// Paragraphs of HTML.
pub fn advice(records: &[Record], data: &FigureData) -> Vec<String> {
    let evaluations: &[(&'static str, &str, Accuracy)] = &[
        ("lp", "linear probing", |r| r.lp_top1),
        ("ft", "fine-tuning", |r| r.ft_top1),
    ];
    let mut lines: Vec<String> = evaluations
        .iter()
        .filter_map(|(evaluation, name, of)| sentence(records, data, evaluation, name, *of))
        .collect();
    let trained = |r: &Record| r.pretrain_loss.or(r.knn_top1).or(r.lp_top1).or(r.ft_top1);
    if records.iter().all(|r| trained(r).is_none()) {
        lines.extend(by_metric(records));
    }
    lines.extend(labelled(records));
    if records.first().is_some_and(|r| r.dataset == "mosaics") {
        lines.push(
            "These images are textures that the program draws: nothing here says which tokenizer is best on photographs.".into(),
        );
    }
    lines
}

/// Tokenizers that saw no labels, best first.
fn places(records: &[Record], of: Accuracy) -> Vec<Place<'_>> {
    let unseen = records
        .iter()
        .filter(|r| r.tokenizer != "No pretraining" && !r.saw_labels);
    let place = |name| {
        let rows = records.iter().filter(|r| r.tokenizer == name);
        let values: Vec<f64> = rows.filter_map(of).collect();
        let (mean, sd) = mean_sd(&values)?;
        let seeds = values.len();
        Some(Place {
            name,
            mean,
            sd,
            seeds,
        })
    };
    let mut places: Vec<Place<'_>> = names(unseen).into_iter().filter_map(place).collect();
    places.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    places
}

fn sentence(
    records: &[Record],
    data: &FigureData,
    evaluation: &'static str,
    name: &str,
    of: Accuracy,
) -> Option<String> {
    let places = places(records, of);
    let best = places.first()?;
    let spread = best.sd.map(|sd| format!(" ± {sd:.1}")).unwrap_or_default();
    let mut text = format!(
        "By {name}, the best is <strong>{}</strong> with {:.1}{spread} %",
        escaped(best.name),
        best.mean
    );
    text.push_str(&match best.seeds {
        1 => " (one seed: how it varies from training to training is not known).".to_owned(),
        n => format!(" (mean and deviation over {n} seeds)."),
    });
    if let Some(next) = places.get(1) {
        let predicted = data
            .predicted
            .get(evaluation)
            .map_or(&[][..], Vec::as_slice);
        let all = compare(evaluation, predicted, best.name);
        text.push_str(&against(best, next, &all));
        text.push_str(&equals(best, &places[1..], &all));
    }
    Some(text)
}

/// The best against the next one.
fn against(best: &Place<'_>, next: &Place<'_>, all: &[Comparison]) -> String {
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

/// Those that cannot be told from the best, and those that were not held against it.
fn equals(best: &Place<'_>, others: &[Place<'_>], all: &[Comparison]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let list = |places: Vec<&Place<'_>>| -> String {
        let names: Vec<String> = places.iter().map(|place| escaped(place.name)).collect();
        names.join("; ")
    };
    let (compared, not): (Vec<&Place<'_>>, Vec<&Place<'_>>) = others
        .iter()
        .partition(|place| p(all, place.name).is_some());
    let beaten = |place: &&Place<'_>| {
        let behind = over_images(all, place.name).is_some_and(|c| c.difference < 0.0);
        behind && p(all, place.name).is_some_and(|p| p < SURE)
    };
    let near: Vec<&Place<'_>> = compared
        .into_iter()
        .filter(|place| !beaten(place))
        .collect();
    let mut text = match near.is_empty() {
        true => format!(
            " {} is ahead of every other tokenizer compared beyond the error of the validation images.",
            escaped(best.name)
        ),
        false => format!(
            " On these validation images it cannot be told from: {} (p at least {SURE} after Holm).",
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

/// After Holm: over the seeds where there are several, else McNemar's.
fn p(all: &[Comparison], name: &str) -> Option<f64> {
    let over = over_images(all, name)?;
    if over.seeds > 1 {
        return Some(over.p_holm);
    }
    let one = all
        .iter()
        .find(|c| c.tokenizer == name && c.seed.is_some())?;
    Some(one.p_holm)
}

/// Without training: the lowest TCAS, in relation to its null.
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
         {:.3}, {:.3} below what permuted labels give.",
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
            "Not considered here, because labels were seen in their making: {}.",
            names.join("; ")
        )
    })
}
