//! Which figures a run has, and which training-free metric predicts accuracy best.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::correlation::{Fit, fit};
use crate::figure::{Curve, Effect, Figure, Point, Titles, curves, forest, heat, scatter, words};
use crate::paper;
use crate::record::{MetricRow, Record};
use crate::regression::{Quantity, metric_columns};
use crate::seeds::{mean_sd, names};
use crate::{Predicted, Result};

/// What figures are drawn from, besides the records.
#[derive(Clone, Debug, Default)]
pub struct FigureData {
    /// `metrics.csv`.
    pub metrics: Vec<MetricRow>,
    /// Losses: stage, tokenizer, (epoch, mean loss over the seeds).
    pub losses: Vec<(String, Curve)>,
    /// `lp` and `ft`: who gets which validation image right.
    pub predicted: BTreeMap<&'static str, Vec<Predicted>>,
    /// Label of each validation image.
    pub labels: Vec<u32>,
    /// Names of the classes.
    pub classes: Vec<String>,
}

/// A metric's correlation with an accuracy, for `figures/predictors.csv`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Predictor {
    /// The training-free metric.
    pub metric: String,
    /// `lp`, `ft` or `knn`.
    pub accuracy: String,
    /// Tokenizers.
    pub n: usize,
    /// Pearson's r.
    pub r: f64,
    /// Lower end of its 95 % bootstrap interval over tokenizers.
    pub r_low: f64,
    /// Upper end.
    pub r_high: f64,
    /// Its square.
    pub r2: f64,
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Kendall's tau-b.
    pub kendall: f64,
    /// Of the least-squares line.
    pub slope: f64,
    /// Of the least-squares line.
    pub intercept: f64,
}

type Accuracy = fn(&Record) -> Option<f64>;

const ACCURACIES: &[(&str, &str, Accuracy)] = &[
    ("lp", "linear probing accuracy, %", |r| r.lp_top1),
    ("ft", "fine-tuning accuracy, %", |r| r.ft_top1),
    ("knn", "k-NN accuracy, %", |r| r.knn_top1),
];

/// Classes that a figure shows; of more, those on which the tokenizers differ most.
const CLASSES: usize = 24;

/// All figures of a run, and the correlations behind them.
pub fn figures(records: &[Record], data: &FigureData) -> (Vec<Figure>, Vec<Predictor>) {
    let mut all = Vec::new();
    let mut predictors = Vec::new();
    for (accuracy, title, of) in ACCURACIES {
        let mut effects = Vec::new();
        for metric in metric_columns() {
            let points = points(records, data, metric, *of);
            let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
            let Some(fit) = fit(&pairs) else { continue };
            predictors.push(predictor(metric.name, accuracy, &fit));
            effects.push(Effect {
                name: metric.name.to_owned(),
                value: fit.r,
                interval: fit.r_interval,
            });
            all.push(of_metric(metric.name, accuracy, title, &points, &fit));
        }
        if !effects.is_empty() {
            effects.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
            all.push(of_predictors(accuracy, title, &effects));
        }
    }
    all.extend(of_losses(data));
    all.extend(of_classes(data));
    (all, predictors)
}

/// The paper's Figures 3 and 4 from its own Table 7.
///
/// # Errors
/// [`Error::Figure`](crate::Error::Figure) never: the numbers are constants.
pub fn of_paper() -> Result<Vec<Figure>> {
    let draw = |name: &str, title: &str, of: fn(&paper::PaperRow) -> Option<f64>| {
        let rows = paper::rows(7);
        let points: Vec<Point> = rows
            .iter()
            .filter_map(|row| {
                Some(Point {
                    label: row.label(),
                    kind: if row.is_kmeans() {
                        "kmeans"
                    } else {
                        "onnx-ids"
                    }
                    .into(),
                    x: row.tcas?,
                    y: of(row)?,
                    x_se: None,
                    y_sd: None,
                })
            })
            .collect();
        let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
        let fit = fit(&pairs);
        let titles = Titles {
            title: "The paper's Table 7",
            x: "TCAS (as printed)",
            y: title,
        };
        Figure {
            name: name.to_owned(),
            caption: fit.as_ref().map(|f| caption("tcas", f)).unwrap_or_default(),
            svg: scatter(&points, fit.as_ref(), &titles),
        }
    };
    Ok(vec![
        draw("paper-tcas-lp", "linear probing accuracy, %", |r| r.lp_acc),
        draw("paper-tcas-ft", "fine-tuning accuracy, %", |r| r.ft_acc),
    ])
}

fn caption(metric: &str, fit: &Fit) -> String {
    format!(
        "{metric}: {}; least-squares line y = {:.3} x {} {:.3} with its 95 % bootstrap band. r is Pearson's coefficient, r² its \
         square: what the paper's Figure 3 calls “r-value” is r².",
        words(fit),
        fit.slope,
        if fit.intercept < 0.0 { "−" } else { "+" },
        fit.intercept.abs(),
    )
}

/// A point per tokenizer that has both: metric and seed-mean accuracy.
fn points(records: &[Record], data: &FigureData, metric: &Quantity, of: Accuracy) -> Vec<Point> {
    let point = |name: &&str| {
        let rows = || records.iter().filter(|r| r.tokenizer == **name);
        let x = rows().find_map(|r| metric.value(r))?;
        let ys: Vec<f64> = rows().filter_map(of).collect();
        let (mean, sd) = mean_sd(&ys)?;
        let row = |m: &&MetricRow| m.tokenizer == **name && m.metric == metric.name;
        Some(Point {
            label: (*name).to_owned(),
            kind: rows().next().map(|r| r.kind.clone()).unwrap_or_default(),
            x,
            y: mean,
            x_se: data.metrics.iter().find(row).and_then(|m| m.se),
            y_sd: sd,
        })
    };
    names(records).iter().filter_map(point).collect()
}

fn predictor(metric: &str, accuracy: &str, fit: &Fit) -> Predictor {
    Predictor {
        metric: metric.to_owned(),
        accuracy: accuracy.to_owned(),
        n: fit.n,
        r: fit.r,
        r_low: fit.r_interval.0,
        r_high: fit.r_interval.1,
        r2: fit.r2,
        spearman: fit.spearman,
        kendall: fit.kendall,
        slope: fit.slope,
        intercept: fit.intercept,
    }
}

fn of_metric(metric: &str, accuracy: &str, title: &str, points: &[Point], fit: &Fit) -> Figure {
    let titles = Titles {
        title: &format!("{metric} against {}", title.trim_end_matches(", %")),
        x: metric,
        y: title,
    };
    Figure {
        name: format!("{metric}-{accuracy}"),
        caption: caption(metric, fit),
        svg: scatter(points, Some(fit), &titles),
    }
}

fn of_predictors(accuracy: &str, title: &str, effects: &[Effect]) -> Figure {
    let titles = Titles {
        title: &format!("Which metric predicts {}?", title.trim_end_matches(", %")),
        x: "Pearson's r over the tokenizers with its 95 % bootstrap interval, by size",
        y: "",
    };
    Figure {
        name: format!("predictors-{accuracy}"),
        caption: "Correlation of every training-free metric with the accuracy, strongest first; a metric is only as good as the \
                  number and the variety of tokenizers behind it."
            .into(),
        svg: forest(effects, &titles),
    }
}

fn of_losses(data: &FigureData) -> Vec<Figure> {
    let stages = [
        (
            "pretrain",
            "Pretraining loss",
            "Losses of different targets are not comparable in height.",
        ),
        (
            "probe",
            "Linear probing loss",
            "Mean training loss of each epoch.",
        ),
        (
            "finetune",
            "Fine-tuning loss",
            "Mean training loss of each epoch, on mixed and smoothed labels where the recipe says so.",
        ),
    ];
    let draw = |(stage, title, caption): (&str, &str, &str)| {
        let lines = data.losses.iter().filter(|(s, _)| s == stage);
        let lines: Vec<Curve> = lines.map(|(_, curve)| curve.clone()).collect();
        let titles = Titles {
            title,
            x: "epoch",
            y: "loss",
        };
        (!lines.is_empty()).then(|| Figure {
            name: format!("curves-{stage}"),
            caption: caption.to_owned(),
            svg: curves(&lines, &titles),
        })
    };
    stages.into_iter().filter_map(draw).collect()
}

fn of_classes(data: &FigureData) -> Vec<Figure> {
    let titles = [("lp", "Linear probing"), ("ft", "Fine-tuning")];
    let draw = |(evaluation, title): (&str, &str)| {
        let (rows, values) = per_class(data, data.predicted.get(evaluation)?);
        let order = shown(&values, data.classes.len());
        let columns: Vec<String> = order.iter().map(|c| data.classes[*c].clone()).collect();
        let cut: Vec<Vec<f64>> = values
            .iter()
            .map(|line| order.iter().map(|c| line[*c]).collect())
            .collect();
        let left_out = data.classes.len() - columns.len();
        let more = match left_out {
            0 => String::new(),
            n => format!(" {n} classes are not shown, on which the rows differ less."),
        };
        (!rows.is_empty()).then(|| Figure {
            name: format!("classes-{evaluation}"),
            caption: format!("Accuracy per class in percent, mean over the seeds.{more}"),
            svg: heat(&format!("{title} accuracy by class"), &rows, &columns, &cut),
        })
    };
    titles.into_iter().filter_map(draw).collect()
}

/// Accuracy of each tokenizer on each class, percent, mean over the seeds.
fn per_class(data: &FigureData, predicted: &[Predicted]) -> (Vec<String>, Vec<Vec<f64>>) {
    let classes = data.classes.len();
    let mut sums: Vec<(String, Vec<[f64; 2]>)> = Vec::new();
    for one in predicted
        .iter()
        .filter(|p| p.right.len() == data.labels.len())
    {
        let at = sums.iter().position(|(name, _)| *name == one.tokenizer);
        let at = at.unwrap_or_else(|| {
            sums.push((one.tokenizer.clone(), vec![[0.0; 2]; classes]));
            sums.len() - 1
        });
        for (right, label) in one.right.iter().zip(&data.labels) {
            if let Some([hits, all]) = sums[at].1.get_mut(*label as usize) {
                *hits += f64::from(*right);
                *all += 1.0;
            }
        }
    }
    let percent = |[hits, all]: &[f64; 2]| 100.0 * hits / all.max(1.0);
    let values = sums.iter().map(|(_, c)| c.iter().map(percent).collect());
    let values = values.collect();
    (sums.into_iter().map(|(name, _)| name).collect(), values)
}

/// All classes, or those on which the rows differ most.
fn shown(values: &[Vec<f64>], classes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..classes).collect();
    if classes > CLASSES {
        let spread = |c: usize| {
            let column = || values.iter().map(|line| line[c]);
            column().fold(f64::MIN, f64::max) - column().fold(f64::MAX, f64::min)
        };
        order.sort_by(|a, b| spread(*b).total_cmp(&spread(*a)).then(a.cmp(b)));
        order.truncate(CLASSES);
        order.sort_unstable();
    }
    order
}

#[cfg(test)]
mod tests;
