//! The correlations of training-free metrics with an accuracy over the tokenizers, and what they support.

use std::collections::HashMap;

use crate::chance::{Excess, PNMI, TCAS};
use crate::column::{Column, Group};
use crate::columns::{MetricRow, Predictor, Record};
use crate::correlation::{Fit, fit};
use crate::doubt::{of_pearson, of_spearman};
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::figure::{LeftOut, Point, fitted};
use crate::number::signed;
use crate::paired::{SIGNIFICANT, holm};
use crate::recipes::{Parts, apart};
use crate::seeds::{mean_sd, tie};

/// [`Predictor::finding`] of a metric that is shown to be related with the accuracy.
pub const SHOWN: &str = "shown";
/// [`Predictor::finding`] of a relation that one tokenizer decides.
pub const ONE_ROW: &str = "one row";

/// A metric against an accuracy.
pub struct Correlated {
    /// Name of the metric.
    pub metric: &'static str,
    /// A point per tokenizer, in the fit or not.
    pub points: Vec<Point>,
    /// The fit.
    pub fit: Fit,
    /// Its row of `predictors.csv`.
    pub predictor: Predictor,
}

/// Correlates every metric with an accuracy. Rows that saw labels are in the fit only if `labelled`: the metric measures labels too, so
/// such a row would tell nothing about the others. Rows of another recipe of what the accuracy depends on, and a tokenizer's further rows are
/// never in it.
pub fn correlated(
    records: &[Record],
    (metrics, recipes): (&[MetricRow], &Parts),
    labelled: bool,
    evaluation: &Evaluation,
) -> Vec<Correlated> {
    let measured = |r: &&Record| !r.is_random() && evaluation.accuracy(r).is_some();
    let apart = apart(records.iter().filter(measured), recipes, evaluation);
    let left_out = |name: &str| match apart.contains(&name) {
        true => Some(LeftOut::Apart),
        false => {
            let mut rows = records.iter().filter(|r| r.tokenizer == name);
            (!labelled && rows.any(|r| r.saw_labels)).then_some(LeftOut::Labels)
        }
    };
    let rows = by_tokenizer(records, metrics);
    let one = |metric: Number| {
        let points = points(&rows, &metric, &left_out, evaluation);
        let fit = fit_of(&points)?;
        let predictor = predictor(metric.name, evaluation.key, &points, &fit);
        Some(Correlated {
            metric: metric.name,
            points,
            fit,
            predictor,
        })
    };
    let mut all: Vec<Correlated> = numbers(evaluation).filter_map(one).collect();
    let p = |of: fn(&Predictor) -> f64| -> Vec<f64> {
        all.iter().map(|one| of(&one.predictor)).collect()
    };
    let (pearson, spearman) = (holm(&p(|p| p.p)), holm(&p(|p| p.spearman_p)));
    for (one, (r, rho)) in all.iter_mut().zip(pearson.into_iter().zip(spearman)) {
        one.predictor.p_holm = r;
        one.predictor.spearman_p_holm = rho;
        one.predictor.finding = finding(&one.predictor).to_owned();
    }
    all
}

/// A number that may predict an accuracy.
struct Number {
    name: &'static str,
    of: Source,
    /// Whether it differs between seeds.
    of_encoder: bool,
}

/// Where a number comes from.
enum Source {
    Column(&'static Column),
    /// The distance of a column from its null.
    FromNull(Column),
}

impl Number {
    /// Returns the number and its standard error.
    fn of(&self, record: &Record, metrics: &[MetricRow]) -> Option<(f64, Option<f64>)> {
        match &self.of {
            Source::Column(column) => {
                let row = |m: &&MetricRow| m.tokenizer == record.tokenizer && m.is_of(column.name);
                let se = metrics.iter().find(row).and_then(|m| m.se);
                Some((record.number(column)?, se))
            }
            Source::FromNull(column) => {
                let excess = Excess::of(record, metrics, column)?;
                Some((excess.value, Some(excess.se)))
            }
        }
    }
}

/// Returns the columns that may predict an accuracy, the accuracies of tokenizers without an encoder, and the distances of TCAS and PNMI
/// from their nulls, which allow for the size of the codebook.
fn numbers(evaluation: &Evaluation) -> impl Iterator<Item = Number> {
    let column = |column: &'static Column| Number {
        name: column.name,
        of: Source::Column(column),
        of_encoder: column.group == Group::Encoder,
    };
    let from_null = |name, column| Number {
        name,
        of: Source::FromNull(column),
        of_encoder: false,
    };
    let from_null = [
        from_null("tcas_below_null", *TCAS),
        from_null("pnmi_above_null", *PNMI),
    ];
    let key = evaluation.key;
    let others = EVALUATIONS.iter().filter(move |other| other.key != key);
    let alone = others.filter(|other| !other.of_encoder);
    let all = Record::predictors().chain(alone.map(|other| &other.top1));
    all.map(column).chain(from_null)
}

/// Returns the names of these columns and distances.
pub fn metrics(evaluation: &Evaluation) -> impl Iterator<Item = &'static str> {
    numbers(evaluation).map(|number| number.name)
}

/// The records of a tokenizer, and its rows of `metrics.csv`.
type Rows<'a> = (Vec<&'a Record>, Vec<MetricRow>);

/// Returns the rows of every tokenizer in the order of the records. A random encoder has no tokenizer.
fn by_tokenizer<'a>(records: &'a [Record], metrics: &[MetricRow]) -> Vec<Rows<'a>> {
    let mut at = HashMap::new();
    let mut all: Vec<Rows<'a>> = Vec::new();
    for record in records.iter().filter(|record| !record.is_random()) {
        let at = *at.entry(record.tokenizer.as_str()).or_insert(all.len());
        if at == all.len() {
            all.push(Rows::default());
        }
        all[at].0.push(record);
    }
    for row in metrics {
        if let Some(at) = at.get(row.tokenizer.as_str()) {
            all[*at].1.push(row.clone());
        }
    }
    all
}

/// Returns a point per tokenizer that has the metric and a seed-mean accuracy.
fn points(
    rows: &[Rows<'_>],
    metric: &Number,
    left_out: &dyn Fn(&str) -> Option<LeftOut>,
    evaluation: &Evaluation,
) -> Vec<Point> {
    let point = |(records, metrics): &Rows<'_>| {
        let records = || records.iter().copied();
        let (xs, ses): (Vec<f64>, Vec<Option<f64>>) =
            records().filter_map(|r| metric.of(r, metrics)).unzip();
        let x = match metric.of_encoder {
            true => mean_sd(&xs)?.0,
            false => *xs.first()?,
        };
        let (mean, sd) = evaluation.over_seeds(records())?;
        let first = records().next()?;
        Some(Point {
            label: first.tokenizer.clone(),
            kind: first.kind.clone(),
            x,
            y: mean,
            x_se: ses[0],
            y_sd: sd,
            left_out: left_out(&first.tokenizer),
        })
    };
    let mut points: Vec<Point> = rows.iter().filter_map(point).collect();
    // Ranks would tell means apart whose sums were rounded differently.
    let (mut xs, mut ys): (Vec<f64>, Vec<f64>) = points.iter().map(|p| (p.x, p.y)).unzip();
    tie(&mut xs);
    tie(&mut ys);
    for (point, tied) in points.iter_mut().zip(xs.into_iter().zip(ys)) {
        (point.x, point.y) = tied;
    }
    points
}

/// Fits the points that are in the fit. A bootstrap of few points may leave 0 out although the permutation test does not tell r from 0: the
/// interval then reaches 0.
pub fn fit_of(points: &[Point]) -> Option<Fit> {
    let pairs = fitted(points);
    let mut fit = fit(&pairs)?;
    if of_pearson(&pairs).is_none_or(|test| test.p >= SIGNIFICANT) {
        fit.r_interval = fit
            .r_interval
            .map(|(low, high)| (low.min(0.0), high.max(0.0)));
    }
    Some(fit)
}

/// Returns the row of `predictors.csv` of a single metric. [`correlated`] corrects it for several.
pub fn predictor(metric: &str, accuracy: &str, points: &[Point], fit: &Fit) -> Predictor {
    let pairs = fitted(points);
    let (r, rho) = (of_pearson(&pairs), of_spearman(&pairs));
    let [r_ends, rho_ends] = [&r, &rho].map(|d| d.as_ref().and_then(|d| d.without_one));
    let [p, spearman_p] = [&r, &rho].map(|d| d.as_ref().map_or(f64::NAN, |d| d.p));
    let mut within = points.iter().filter(|point| point.left_out.is_none());
    let decided_by = r.and_then(|d| within.nth(d.decided_by?));
    let names = |why: LeftOut| {
        let out = points.iter().filter(|point| point.left_out == Some(why));
        Vec::from_iter(out.map(|point| point.label.as_str())).join("; ")
    };
    Predictor {
        metric: metric.to_owned(),
        accuracy: accuracy.to_owned(),
        n: fit.n,
        r: fit.r,
        r_low: fit.r_interval.map(|(low, _)| low),
        r_high: fit.r_interval.map(|(_, high)| high),
        r2: fit.r2,
        spearman: fit.spearman,
        kendall: fit.kendall,
        slope: fit.slope,
        intercept: fit.intercept,
        r_without_low: r_ends.map(|(low, _)| low),
        r_without_high: r_ends.map(|(_, high)| high),
        spearman_without_low: rho_ends.map(|(low, _)| low),
        spearman_without_high: rho_ends.map(|(_, high)| high),
        p,
        p_holm: p,
        spearman_p,
        spearman_p_holm: spearman_p,
        decided_by: decided_by.map_or(String::new(), |point| point.label.clone()),
        left_out: names(LeftOut::Labels),
        apart: names(LeftOut::Apart),
        finding: String::new(),
    }
}

fn finding(p: &Predictor) -> &'static str {
    let ends = p.r_low.zip(p.r_high);
    let apart = ends.is_none_or(|(low, high)| low > 0.0 || high < 0.0);
    match (p.p_holm < SIGNIFICANT && apart, p.decided_by.is_empty()) {
        (true, true) => SHOWN,
        (true, false) => ONE_ROW,
        _ => "not shown",
    }
}

/// Says how far r can be trusted, and what it supports. `metrics` is the number of metrics of Holm's correction.
pub fn doubts(p: &Predictor, metrics: usize) -> String {
    let mut text = String::new();
    if let Some((low, high)) = p.r_without_low.zip(p.r_without_high) {
        text = format!(
            "Without any one row r is {} to {}. ",
            signed(low, 2),
            signed(high, 2)
        );
    }
    text.push_str(&format!("Permutation {}", p_value(p.p)));
    if metrics > 1 {
        let found = match p.finding.as_str() {
            SHOWN => "a relation is shown",
            ONE_ROW => "significant, but by one row",
            _ if p.p_holm < SIGNIFICANT => "the interval contains 0, so no relation is shown",
            _ => "no relation is shown",
        };
        text.push_str(&format!(
            ", after Holm's correction over {metrics} metrics {}: {found}",
            p_value(p.p_holm)
        ));
    }
    text.push('.');
    if !p.decided_by.is_empty() {
        text.push_str(&format!(
            " One row decides the line: without {}, r has the other sign, less than half of its size, or no value because all other rows are equal.",
            p.decided_by
        ));
    }
    if !p.left_out.is_empty() {
        text.push_str(&format!(
            " Not in the fit, because they saw labels: {}.",
            p.left_out
        ));
    }
    if !p.apart.is_empty() {
        text.push_str(&format!(
            " Not in the fit, because they have another recipe than the rows in the fit or an earlier row is the same tokenizer: {}.",
            p.apart
        ));
    }
    text
}

/// Returns `p = 0.041`, or `p < 0.001`.
fn p_value(p: f64) -> String {
    match p < 0.001 {
        true => "p < 0.001".to_owned(),
        false => format!("p = {p:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Shown", with an interval of -0.82 to 0.04.
    #[test]
    fn a_relation_whose_interval_contains_0_is_not_shown() {
        let found = |low: f64, high: f64| {
            let one = Predictor {
                p_holm: 0.04,
                r_low: Some(low),
                r_high: Some(high),
                ..Predictor::default()
            };
            let finding = finding(&one).to_owned();
            let said = doubts(&Predictor { finding, ..one }, 2);
            said.rsplit_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(found(-0.82, -0.04), "a relation is shown.");
        assert_eq!(
            found(-0.82, 0.04),
            "the interval contains 0, so no relation is shown."
        );
    }

    /// The page said "0.57 [0.14, 0.99]" and "no relation is shown" of one relation.
    #[test]
    fn an_interval_reaches_0_where_the_test_shows_no_relation() {
        let fit_to = |y: [f64; 6]| {
            let point = |(x, y): (usize, f64)| Point {
                label: x.to_string(),
                kind: String::new(),
                x: x as f64,
                y,
                x_se: None,
                y_sd: None,
                left_out: None,
            };
            let points: Vec<Point> = y.into_iter().enumerate().map(point).collect();
            let pairs = fitted(&points);
            let interval = fit_of(&points).unwrap().r_interval.unwrap();
            (
                of_pearson(&pairs).unwrap().p,
                fit(&pairs).unwrap().r_interval.unwrap(),
                interval,
            )
        };
        let (p, raw, interval) = fit_to([-0.3, -5.0, 2.1, 1.6, 2.4, 2.7]);
        assert!(p > 0.05 && raw.0 > 0.0, "{p} {raw:?}");
        assert_eq!(interval, (0.0, raw.1));
        let (p, raw, interval) = fit_to([0.0, 1.1, 2.0, 2.9, 4.2, 5.0]);
        assert!(p < 0.05);
        assert_eq!(interval, raw);
    }

    /// Sums of the same numbers of right images in another order: the ranks told them apart.
    #[test]
    fn means_that_are_equal_up_to_rounding_are_tied() {
        let (a, b) = ([0.1, 0.2, 0.4], [0.4, 0.1, 0.2]);
        assert_ne!(a.iter().sum::<f64>(), b.iter().sum::<f64>());
        let rows = [("A", a), ("B", b), ("C", [5.0; 3]), ("D", [9.0; 3])];
        let mut records = Vec::new();
        for (at, (name, accuracies)) in rows.into_iter().enumerate() {
            records.extend((0..).zip(accuracies).map(|(seed, lp)| Record {
                tokenizer: name.into(),
                seed,
                tcas: Some(at as f64 / 10.0),
                lp_top1: Some(lp),
                ..Record::default()
            }));
        }
        let of_lp = EVALUATIONS.iter().find(|e| e.key == "lp").unwrap();
        let all = correlated(&records, (&[], &Parts::default()), false, of_lp);
        let tcas = all.iter().find(|one| one.metric == "tcas").unwrap();
        // Ranks 1 2 3 4 and 1.5 1.5 3 4: rho = 4.5 / sqrt(5 x 4.5), tau-b = 5 / sqrt(6 x 5).
        assert!((tcas.fit.spearman - 0.9_f64.sqrt()).abs() < 1e-12);
        assert!((tcas.fit.kendall - 5.0 / 30.0_f64.sqrt()).abs() < 1e-12);
        // Means of one number are constant, however large it is.
        let constant = [(1.0, 1e6 / 3.0), (2.0, 1e6 / 3.0), (3.0, 1e6 / 3.0)];
        assert_eq!(fit(&constant), None);
    }
}
