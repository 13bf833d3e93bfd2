//! Recommends a tokenizer, and states how certain that is.

use std::collections::BTreeSet;

use crate::chance::{Excess, SHOWN, TCAS};
use crate::columns::{Comparison, Record};
use crate::diverged::{NOT_LOWERED, risen};
use crate::evaluations::{Evaluation, is_trained};
use crate::figure::escaped;
use crate::figures::FigureData;
use crate::number::signed;
use crate::paired::{Predicted, SIGNIFICANT, compare, over};
use crate::recipes::other_recipes;
use crate::seeds::{are_equal, minus, names};

/// A tokenizer with its seed-mean accuracy.
struct Ranked<'a> {
    name: &'a str,
    mean: f64,
    sd: Option<f64>,
    seeds: usize,
}

impl Ranked<'_> {
    /// Returns name and number, with the row's own deviation.
    fn said(&self) -> String {
        let spread = self.sd.map(|sd| format!(" ± {sd:.1}")).unwrap_or_default();
        let name = escaped(self.name);
        format!("<strong>{name}</strong> with {:.1}{spread} %", self.mean)
    }
}

/// Returns the advice as paragraphs of HTML.
pub fn advice(records: &[Record], data: &FigureData) -> Vec<String> {
    let mut lines: Vec<String> = Evaluation::compared()
        .filter_map(|evaluation| sentence(records, data, evaluation))
        .collect();
    if !records.iter().any(is_trained) {
        lines.extend(by_metric(records, data));
    }
    lines.extend(
        risen(&data.losses).map(|rows| format!("<strong>{NOT_LOWERED}</strong>{}", escaped(&rows))),
    );
    lines.extend(labelled(records));
    lines.extend(of_other_recipes(records));
    if records.first().is_some_and(|r| r.dataset == "mosaics") {
        lines.push(
            "These images are textures that the program draws. The results do not say which tokenizer is best on photographs.".into(),
        );
    }
    lines
}

/// The records of an evaluation whose rows are compared: those of the seeds that every row has, or all if there is no such seed.
struct Shared<'a> {
    records: Vec<&'a Record>,
    seeds: BTreeSet<u64>,
    /// Whether some row has further seeds.
    partial: bool,
}

impl<'a> Shared<'a> {
    fn of(records: &'a [Record], evaluation: &Evaluation) -> Self {
        let is_ranked = |r: &&Record| evaluation.accuracy(r).is_some() && !r.saw_labels;
        let mut records: Vec<&Record> = records.iter().filter(is_ranked).collect();
        let all: BTreeSet<u64> = records.iter().map(|r| r.seed).collect();
        let has = |name: &str, seed: &u64| {
            let mut rows = records.iter();
            rows.any(|r| r.tokenizer == name && r.seed == *seed)
        };
        let rows = names(records.iter().copied());
        let mut seeds = all.clone();
        seeds.retain(|seed| rows.iter().all(|name| has(name, seed)));
        if !seeds.is_empty() {
            records.retain(|r| seeds.contains(&r.seed));
        }
        Self {
            records,
            partial: seeds != all,
            seeds,
        }
    }

    /// Returns the mean of a row.
    fn ranked(&self, name: &'a str, evaluation: &Evaluation) -> Option<Ranked<'a>> {
        let rows = self.records.iter().copied().filter(|r| r.tokenizer == name);
        let (mean, sd) = evaluation.over_seeds(rows.clone())?;
        Some(Ranked {
            name,
            mean,
            sd,
            seeds: rows.count(),
        })
    }

    /// Returns the rows with a random encoder, or the others, best first.
    fn best_first(&self, evaluation: &Evaluation, random: bool) -> Vec<Ranked<'a>> {
        let rows = self.records.iter().copied();
        let rows = names(rows.filter(|r| r.is_random() == random)).into_iter();
        let mut all: Vec<Ranked<'_>> = rows
            .filter_map(|row| self.ranked(row, evaluation))
            .collect();
        all.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        all
    }

    /// Says over which seeds the best row's number is.
    fn words(&self, best: &Ranked<'_>, evaluation: &Evaluation) -> String {
        let which = match (self.partial, self.seeds.is_empty()) {
            (false, _) => "",
            (true, false) => " that every row has",
            (true, true) => ", and no seed that every row has, so that seeds may decide the order",
        };
        match best.seeds {
            _ if !evaluation.of_encoder => {
                let fits = match self.records.iter().any(|r| r.fits() > 0) {
                    true => "; the variation between fits of codebooks is unknown",
                    false => "",
                };
                format!(" (without an encoder; the same for every seed{fits}).")
            }
            1 => format!(" (one seed{which}; the variation between trainings is unknown)."),
            n => format!(" (mean and standard deviation over {n} seeds{which})."),
        }
    }
}

fn sentence(records: &[Record], data: &FigureData, evaluation: &Evaluation) -> Option<String> {
    let shared = Shared::of(records, evaluation);
    let ranked = shared.best_first(evaluation, false);
    let best = ranked.first()?;
    let predicted = data.predicted.get(evaluation.key).into_iter().flatten();
    let in_seeds = |p: &&Predicted| shared.seeds.is_empty() || shared.seeds.contains(&p.seed);
    let predicted: Vec<Predicted> = predicted.filter(in_seeds).cloned().collect();
    let is_best = |row: &&Ranked<'_>| are_equal(row.mean, best.mean);
    let first = Vec::from_iter(ranked.iter().take_while(is_best).map(Ranked::said));
    let words = match (ranked.len(), first.len()) {
        (1, _) => "the only compared row is",
        (_, 1) => "the best is",
        _ => "the best are, with equal numbers,",
    };
    let mut text = format!("By {}, {words} {}", evaluation.title, first.join("; "));
    if let Some(floor) = shared.best_first(evaluation, true).first() {
        let all = compare(evaluation.key, &predicted, floor.name);
        text.push_str(&above(best, floor, whole(&all, best, best, floor)));
    }
    text.push_str(&shared.words(best, evaluation));
    if let Some(next) = ranked.get(1) {
        let all = compare(evaluation.key, &predicted, best.name);
        if first.len() == 1 {
            text.push_str(&against(best, next, whole(&all, next, best, next)));
        }
        text.push_str(&equals(best, &ranked[1..], &all));
    }
    Some(text)
}

/// Returns the comparison of `row` if it is over all seeds of the means of both rows: the folder may lack the predictions of some.
fn whole<'c>(
    all: &'c [Comparison],
    row: &Ranked<'_>,
    one: &Ranked<'_>,
    other: &Ranked<'_>,
) -> Option<&'c Comparison> {
    let evaluation = all.first()?.evaluation.as_str();
    over(all, evaluation, row.name).filter(|c| c.seeds == one.seeds && c.seeds == other.seeds)
}

/// Says that the best row is not above the row without pretraining.
fn above(best: &Ranked<'_>, floor: &Ranked<'_>, over: Option<&Comparison>) -> String {
    if best.mean > floor.mean && !are_equal(best.mean, floor.mean) {
        return String::new();
    }
    let side = match over.is_some_and(Comparison::is_significant) {
        true => "below",
        false => "not above",
    };
    format!(
        ", which is {side} {} with {:.1} %",
        escaped(floor.name),
        floor.mean
    )
}

/// Compares the best with the next one.
fn against(best: &Ranked<'_>, next: &Ranked<'_>, over: Option<&Comparison>) -> String {
    let less = over.map_or(best.mean - next.mean, |over| -over.difference);
    let interval = over.map_or(String::new(), |over| {
        match (over.ci_low.zip(over.ci_high), over.differing()) {
            (Some((low, high)), _) => format!(
                "; on other images of this kind{} the gap would be {} to {} points (95 % interval of this pair alone)",
                seeds(over),
                signed(-high, 1),
                signed(-low, 1)
            ),
            (None, differing) => format!(
                "; the two differ on {} of {} validation images, which are too few for an interval",
                differing.unwrap_or(0),
                over.n_val
            ),
        }
    });
    format!(
        " The next, {}, has {} percentage points less{interval}.",
        escaped(next.name),
        signed(less, 1)
    )
}

/// Returns what the tests cover besides images.
fn seeds(over: &Comparison) -> &'static str {
    match over.covers_seeds() {
        true => " and with other seeds",
        false => "",
    }
}

/// Names the rows that do not differ significantly from the best, and those that were not compared with it over the seeds of the means.
fn equals(best: &Ranked<'_>, others: &[Ranked<'_>], all: &[Comparison]) -> String {
    let Some(evaluation) = all.first().map(|c| c.evaluation.as_str()) else {
        return String::new();
    };
    let of = |row: &Ranked<'_>| whole(all, row, best, row);
    let list = |rows: Vec<&Ranked<'_>>| -> String {
        let names: Vec<String> = rows.iter().map(|row| escaped(row.name)).collect();
        names.join("; ")
    };
    let (compared, not): (Vec<&Ranked<'_>>, Vec<&Ranked<'_>>) =
        others.iter().partition(|row| of(row).is_some());
    let beaten =
        |row: &&Ranked<'_>| of(row).is_some_and(|c| c.difference < 0.0 && c.is_significant());
    let (in_part, not): (Vec<&Ranked<'_>>, Vec<&Ranked<'_>>) =
        (not.into_iter()).partition(|row| over(all, evaluation, row.name).is_some());
    let none = compared.is_empty();
    let errors = match all.iter().any(Comparison::covers_seeds) {
        true => "the validation images and seeds",
        false => "the validation images",
    };
    let near: Vec<&Ranked<'_>> = compared.into_iter().filter(|row| !beaten(row)).collect();
    let mut text = match near.is_empty() {
        true if none => String::new(),
        true => format!(
            " {} is ahead of every other compared tokenizer by more than the error of {errors}.",
            escaped(best.name)
        ),
        false => format!(
            " By the error of {errors} it does not differ significantly from: {} (p at least {SIGNIFICANT} after Holm's correction).",
            list(near)
        ),
    };
    if !not.is_empty() {
        text.push_str(&format!(" Not compared image by image: {}.", list(not)));
    }
    if !in_part.is_empty() {
        text.push_str(&format!(
            " Not compared image by image, because the compared seeds are fewer than those of the means: {}.",
            list(in_part)
        ));
    }
    text
}

/// A row with codes, and the distance of its TCAS from the null.
struct Scored<'a> {
    record: &'a Record,
    distance: f64,
    error: Option<Excess>,
}

impl Scored<'_> {
    /// Returns the distance if its error covers everything that may vary: a codebook that was fitted once has none over codebooks.
    fn whole(&self) -> Option<&Excess> {
        self.error.as_ref().filter(|_| self.record.fits() != 1)
    }
}

/// For runs without training, names the row whose TCAS is furthest below its null, and the rows that it is not shown to beat.
fn by_metric(records: &[Record], data: &FigureData) -> Option<String> {
    let unseen = records.iter().filter(|r| !r.saw_labels);
    let first = |name: &str| records.iter().find(|r| r.tokenizer == name);
    let scored = |record: &'_ Record| {
        let distance = minus(record.tcas_null?, record.tcas?);
        let error = Excess::of(record, &data.metrics, TCAS);
        Some((distance, error))
    };
    let mut all: Vec<Scored<'_>> = (names(unseen).into_iter().filter_map(first))
        .filter_map(|record| {
            let (distance, error) = scored(record)?;
            Some(Scored {
                record,
                distance,
                error,
            })
        })
        .collect();
    all.sort_by(|a, b| b.distance.total_cmp(&a.distance));
    let (best, others) = all.split_first()?;
    let name = escaped(&best.record.tokenizer);
    let distance = match &best.error {
        Some(excess) => excess.text(),
        None => format!("{} (error unknown)", signed(best.distance, 3)),
    };
    let is_best_shown = best
        .error
        .is_some_and(|excess| excess.is_shown_among(all.len()));
    if !is_best_shown {
        let place = match best.error {
            Some(excess) if excess.value < 0.0 => {
                let value = -excess.value;
                format!("{} above", Excess { value, ..excess }.text())
            }
            _ => format!("{distance} below"),
        };
        return Some(format!(
            "Nothing was trained. {}",
            not_shown(&format!("{name}, {place}"), others)
        ));
    }
    Some(format!(
        "Nothing was trained. By TCAS, the codes of <strong>{name}</strong> are the most aligned with classes: TCAS {:.3}, {distance} \
         below the mean under permuted labels.{}",
        best.record.tcas?,
        rivals(best, others)
    ))
}

/// Says that the `furthest` row is not shown to be below its null, and which of the `others` are or may be.
fn not_shown(furthest: &str, others: &[Scored<'_>]) -> String {
    let named = |row: &Scored<'_>| {
        let name = escaped(&row.record.tokenizer);
        row.error
            .map_or(name.clone(), |excess| format!("{name} ({})", excess.text()))
    };
    let list = |what: &str, is: &dyn Fn(Option<Excess>) -> bool| {
        let rows = others.iter().filter(|row| is(row.error)).map(named);
        let names = Vec::from_iter(rows).join("; ");
        (!names.is_empty()).then(|| format!(" {what}: {names}."))
    };
    let shown = list("Shown to be below", &|error| {
        error.is_some_and(|excess| excess.is_shown_among(others.len() + 1))
    });
    let unknown = list("Not known, because the error is unknown", &|error| {
        error.is_none()
    });
    let rest: String = shown.into_iter().chain(unknown).collect();
    match rest.is_empty() {
        true => format!(
            "No TCAS is shown to be below its mean under permuted labels; the furthest is that of {furthest}."
        ),
        false => format!(
            "The TCAS that is furthest below its mean under permuted labels, that of {furthest}, is not shown to be below.{rest}"
        ),
    }
}

/// Names the rows that the best one is not shown to beat, and those that cannot be compared with it.
fn rivals(best: &Scored<'_>, others: &[Scored<'_>]) -> String {
    let list = |rows: Vec<&Scored<'_>>| -> String {
        let names: Vec<String> = rows
            .iter()
            .map(|row| escaped(&row.record.tokenizer))
            .collect();
        names.join("; ")
    };
    let Some(own) = best.whole() else {
        let why = match best.error {
            Some(_) => "its codebook was fitted once (`fit_seeds`)",
            None => "its error is unknown (`metrics.csv`)",
        };
        return format!(
            " Whether it is ahead of the others by more than its error cannot be told: {why}."
        );
    };
    let (compared, not): (Vec<&Scored<'_>>, Vec<&Scored<'_>>) =
        others.iter().partition(|row| row.whole().is_some());
    let is_near = |row: &&&Scored<'_>| row.whole().is_some_and(|other| !own.is_above(other));
    let near: Vec<&Scored<'_>> = compared.iter().filter(is_near).copied().collect();
    let mut text = match (near.is_empty(), compared.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!(
            " It is ahead of every other compared row by more than {SHOWN} standard errors of the difference."
        ),
        (false, _) => format!(
            " Not shown to be behind it, by {SHOWN} standard errors of the difference: {}.",
            list(near)
        ),
    };
    if !not.is_empty() {
        text.push_str(&format!(
            " Not compared, because the codebook was fitted once (`fit_seeds`) or the error is unknown: {}.",
            list(not)
        ));
    }
    text
}

/// Names rows that the recipe may rank, not the tokenizer.
fn of_other_recipes(records: &[Record]) -> Option<String> {
    let compared = records.iter().filter(|r| is_trained(r) && !r.is_random());
    let names = other_recipes(compared, |r| r.recipe_hash.clone());
    let names = Vec::from_iter(names.into_iter().map(escaped));
    (!names.is_empty()).then(|| {
        format!(
            "These rows have another recipe than the others, so that the recipe may decide their rank: {}.",
            names.join("; ")
        )
    })
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

#[cfg(test)]
mod tests {
    use super::super::ranking::ranking;
    use super::*;

    fn record(name: &str, seed: u64, lp: f64) -> Record {
        Record {
            tokenizer: name.into(),
            seed,
            lp_top1: Some(lp),
            encoder: if name == "random" {
                "random"
            } else {
                "trained"
            }
            .into(),
            status: "ok".into(),
            ..Record::default()
        }
    }

    /// The predictions of seed 0 alone say the opposite of the means.
    #[test]
    fn gaps_are_of_the_seeds_of_the_means() {
        let rows = [("best", [50.0, 90.0]), ("next", [60.0, 70.0])];
        let rows = rows.into_iter().chain([("random", [55.0, 45.0])]);
        let of_row = |(name, lp): (&'static str, [f64; 2])| {
            (0..).zip(lp).map(move |(seed, lp)| record(name, seed, lp))
        };
        let records: Vec<Record> = rows.flat_map(of_row).collect();
        let predicted = records.iter().filter(|r| r.seed == 0).map(|r| Predicted {
            tokenizer: r.tokenizer.clone(),
            seed: r.seed,
            right: (0..400)
                .map(|i| i < (4.0 * r.lp_top1.unwrap()) as usize)
                .collect(),
        });
        let data = FigureData {
            predicted: [("lp", predicted.collect())].into(),
            ..FigureData::default()
        };
        let text = advice(&records, &data).join("\n");
        for part in [
            "<strong>best</strong> with 70.0",
            "The next, next, has 5.0 percentage points less.",
            "because the compared seeds are fewer than those of the means: next.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("is ahead of"), "{text}");
        let html = ranking(&records, &data);
        assert!(!html.contains("LP not above random"), "{html}");
    }
}
