//! The figures of a run, and the correlations of training-free metrics with accuracy.

use std::collections::{BTreeMap, BTreeSet};

use crate::columns::{MetricRow, Predictor, Record};
use crate::correlated::{Correlated, correlated, doubts, fit_of, metrics, predictor};
use crate::correlation::Fit;
use crate::evaluations::{EVALUATIONS, Evaluation, PRETRAIN, capitalised};
use crate::figure::{Curve, Effect, Figure, Point, Titles, curves, forest, heat, scatter, words};
use crate::paired::Predicted;
use crate::paper;
use crate::recipes::Parts;

/// Data of the figures besides the records.
#[derive(Clone, Debug, Default)]
pub struct FigureData {
    /// `metrics.csv`.
    pub metrics: Vec<MetricRow>,
    /// Losses: stage, tokenizer, (epoch, mean loss over the seeds).
    pub losses: Vec<(String, Curve)>,
    /// By key of the evaluation: which validation images each model classifies correctly.
    pub predicted: BTreeMap<&'static str, Vec<Predicted>>,
    /// Label of each validation image.
    pub labels: Vec<u32>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The recipes of the rows.
    pub recipes: Parts,
    /// Whether rows that saw labels are in the correlations.
    pub labelled_in_fit: bool,
}

/// Maximum classes of a figure. If there are more, it shows those on which the tokenizers differ most.
const CLASSES: usize = 24;

/// Draws all figures of a run, and returns the correlations too.
pub fn figures(records: &[Record], data: &FigureData) -> (Vec<Figure>, Vec<Predictor>) {
    let mut all = Vec::new();
    let mut predictors = Vec::new();
    for evaluation in EVALUATIONS {
        let found = correlated(
            records,
            (&data.metrics, &data.recipes),
            data.labelled_in_fit,
            evaluation,
        );
        let mut effects: Vec<Effect> = Vec::new();
        for one in &found {
            effects.push(Effect {
                name: one.metric.to_owned(),
                value: one.fit.r,
                interval: one.fit.r_interval,
            });
            all.push(of_metric(one, evaluation, found.len()));
        }
        if !effects.is_empty() {
            effects.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
            all.push(of_predictors(evaluation, &effects));
        }
        predictors.extend(found.into_iter().map(|one| one.predictor));
    }
    all.extend(of_losses(data));
    all.extend(of_classes(data));
    (all, predictors)
}

/// Draws the paper's Figures 3 and 4 from its Table 7.
pub fn of_paper() -> Vec<Figure> {
    let draw = |evaluation: &Evaluation| {
        let of = evaluation.printed?;
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
                    left_out: None,
                })
            })
            .collect();
        let fit = fit_of(&points);
        let said = |fit: &Fit| {
            let single = predictor("tcas", evaluation.key, &points, fit);
            caption("tcas", fit, &doubts(&single, 1))
        };
        let titles = Titles {
            title: "The paper's Table 7",
            x: "TCAS (as printed)",
            y: &format!("{} accuracy, %", evaluation.title),
        };
        Some(Figure {
            name: format!("paper-tcas-{}", evaluation.key),
            caption: fit.as_ref().map(said).unwrap_or_default(),
            svg: scatter(&points, fit.as_ref(), &titles),
        })
    };
    EVALUATIONS.iter().filter_map(draw).collect()
}

/// What the marks of a scatter plot mean.
const MARKS: &str = "Circles are K-means codes, squares ids of ONNX models, diamonds all others; dashed marks are not in the fit.";

fn caption(metric: &str, fit: &Fit, doubts: &str) -> String {
    let band = match fit.r_interval {
        Some(_) => " with its 95 % bootstrap band",
        None => ", too few points for a band",
    };
    format!(
        "{metric}: {}; least-squares line y = {:.3} x {} {:.3}{band}. r is Pearson's coefficient, r² its \
         square: what the paper's Figure 3 calls “r-value” is r². {doubts} {MARKS}",
        words(fit),
        fit.slope,
        if fit.intercept < 0.0 { "−" } else { "+" },
        fit.intercept.abs(),
    )
}

fn of_metric(one: &Correlated, evaluation: &Evaluation, metrics: usize) -> Figure {
    let (metric, title) = (one.metric, evaluation.title);
    let titles = Titles {
        title: &format!("{metric} against {title} accuracy"),
        x: metric,
        y: &format!("{title} accuracy, %"),
    };
    Figure {
        name: of_evaluation(metric, evaluation),
        caption: caption(metric, &one.fit, &doubts(&one.predictor, metrics)),
        svg: scatter(&one.points, Some(&one.fit), &titles),
    }
}

fn of_predictors(evaluation: &Evaluation, effects: &[Effect]) -> Figure {
    let titles = Titles {
        title: &format!("Which metric predicts {} accuracy?", evaluation.title),
        x: match effects.iter().any(|effect| effect.interval.is_some()) {
            true => "Pearson's r over the tokenizers with its 95 % bootstrap interval, by size",
            false => "Pearson's r over the tokenizers, too few for an interval, by size",
        },
        y: "",
    };
    Figure {
        name: of_evaluation("predictors", evaluation),
        caption: "Correlation of every metric with the accuracy, strongest first; a metric is only as good as the \
                  number and the variety of tokenizers behind it."
            .into(),
        svg: forest(effects, &titles),
    }
}

/// Returns whether [`figures`] names one of its figures so.
pub fn is_figure(name: &str) -> bool {
    let of = |e: &Evaluation| {
        let mut what = metrics(e).chain(["predictors", "classes"]);
        what.any(|what| name == of_evaluation(what, e)) || name == of_stage(e.stage)
    };
    name == of_stage(PRETRAIN) || EVALUATIONS.iter().any(of)
}

fn of_evaluation(what: &str, evaluation: &Evaluation) -> String {
    format!("{what}-{}", evaluation.key)
}

fn of_stage(stage: &str) -> String {
    format!("curves-{stage}")
}

/// The stage of pretraining, its name, and the caption of its losses.
const PRETRAINING: (&str, &str, &str) = (
    PRETRAIN,
    "Pretraining",
    "Losses of different targets are not comparable in height.",
);

fn of_losses(data: &FigureData) -> Vec<Figure> {
    let draw = |(stage, name, caption): (&str, &str, &str)| {
        let lines = data.losses.iter().filter(|(s, _)| s == stage);
        let lines: Vec<Curve> = lines.map(|(_, curve)| curve.clone()).collect();
        let titles = Titles {
            title: &format!("{name} loss"),
            x: "epoch",
            y: "loss",
        };
        (!lines.is_empty()).then(|| Figure {
            name: of_stage(stage),
            caption: caption.to_owned(),
            svg: curves(&lines, &titles),
        })
    };
    let of = |e: &Evaluation| draw((e.stage, &capitalised(e.title), e.losses?));
    let evaluations = EVALUATIONS.iter().filter_map(of);
    draw(PRETRAINING).into_iter().chain(evaluations).collect()
}

fn of_classes(data: &FigureData) -> Vec<Figure> {
    let draw = |evaluation: &Evaluation| {
        let (rows, values) = per_class(data, data.predicted.get(evaluation.key)?);
        let title = format!("{} accuracy by class", capitalised(evaluation.title));
        let pictured = pictured(data);
        let order = shown(&values, pictured.clone());
        let columns: Vec<String> = order.iter().map(|c| data.classes[*c].clone()).collect();
        let cut: Vec<Vec<f64>> = values
            .iter()
            .map(|line| order.iter().map(|c| line[*c]).collect())
            .collect();
        let mut more = match pictured.len() - columns.len() {
            0 => String::new(),
            n => format!(" {n} classes on which the rows differ less are not shown."),
        };
        match data.classes.len() - pictured.len() {
            0 => (),
            n => more += &format!(" Classes without images in this split: {n}."),
        }
        (!rows.is_empty()).then(|| Figure {
            name: of_evaluation("classes", evaluation),
            caption: format!(
                "Accuracy per class in percent, mean over the seeds with predictions.{more}"
            ),
            svg: heat(&title, &rows, &columns, &cut),
        })
    };
    Evaluation::compared().filter_map(draw).collect()
}

/// Returns the classes that have images, by index.
fn pictured(data: &FigureData) -> Vec<usize> {
    let labels: BTreeSet<u32> = data.labels.iter().copied().collect();
    let has_images = |class: &usize| labels.contains(&(*class as u32));
    (0..data.classes.len()).filter(has_images).collect()
}

/// Returns the accuracy of each tokenizer on each class, percent, mean over the seeds; 0 for classes without images.
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

/// Selects all classes of `order`, or those on which the rows differ most.
fn shown(values: &[Vec<f64>], mut order: Vec<usize>) -> Vec<usize> {
    if order.len() > CLASSES {
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
