//! The section on metrics that predict accuracy: a sentence, selectable scatter plots, and the coefficients of all metrics.

use std::fmt::Write;

use crate::columns::Predictor;
use crate::evaluations::EVALUATIONS;
use crate::figure::{Figure, escaped, html};

/// With fewer tokenizers, a single one can decide the correlation.
const FEW: usize = 8;
/// With fewer tokenizers, the bootstrap interval is meaningless.
const ENOUGH: usize = 6;

/// Returns the section; empty without correlations.
pub fn predictors(predictors: &[Predictor], figures: &[Figure]) -> String {
    if predictors.is_empty() {
        return String::new();
    }
    let mut out = String::new();
    for evaluation in EVALUATIONS {
        let of = predictors.iter().filter(|p| p.accuracy == evaluation.key);
        let of: Vec<&Predictor> = of.collect();
        if !of.is_empty() {
            let _ = write!(out, "<p>{}</p>", verdict(evaluation.title, &of));
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for predictor in predictors {
        if !names.contains(&predictor.metric.as_str()) {
            names.push(&predictor.metric);
        }
    }
    out.push_str("<p>Each point is a tokenizer. <label>Metric <select id=metric>");
    for name in &names {
        let _ = write!(out, "<option>{}</option>", escaped(name));
    }
    out.push_str("</select></label> <label>against <select id=accuracy>");
    for evaluation in EVALUATIONS {
        if predictors.iter().any(|p| p.accuracy == evaluation.key) {
            let (value, name) = (evaluation.key, evaluation.title);
            let _ = write!(out, "<option value={value}>{name}</option>");
        }
    }
    out.push_str("</select></label></p><div class=pair>");
    for (at, predictor) in predictors.iter().enumerate() {
        let name = format!("{}-{}", predictor.metric, predictor.accuracy);
        out.push_str(&html(figures, &name, at > 0));
    }
    for (at, evaluation) in EVALUATIONS.iter().enumerate() {
        out.push_str(&html(
            figures,
            &format!("predictors-{}", evaluation.key),
            at > 0,
        ));
    }
    out.push_str("</div>");
    out
}

/// Summarises the correlations of TCAS and the other metrics.
fn verdict(name: &str, of: &[&Predictor]) -> String {
    // A few points lie on a line by chance too often for any interval.
    let sure = |p: &&&Predictor| p.n >= ENOUGH && (p.r_low > 0.0 || p.r_high < 0.0);
    let n = of.iter().map(|p| p.n).max().unwrap_or(0);
    let tcas = of.iter().find(|p| p.metric == "tcas").map(|p| {
        let found = match sure(&p) {
            true => "which is evidence of a relation",
            false => "which is no evidence that it predicts it",
        };
        format!(
            "TCAS has r = {:.2} with {name} accuracy, 95 % interval {:.2} to {:.2}, {found}. ",
            p.r, p.r_low, p.r_high
        )
    });
    let names: Vec<String> = of.iter().filter(sure).map(|p| escaped(&p.metric)).collect();
    let others = match names.len() {
        0 => format!("None of the {} metrics is shown to predict it", of.len()),
        _ => format!(
            "Of {} metrics, these have an interval of r that excludes zero: {}",
            of.len(),
            names.join(", ")
        ),
    };
    let warning = if n < FEW {
        format!(
            "; with only {n} tokenizers, a single one can decide any correlation, and the more metrics are tried, the more look good by chance."
        )
    } else {
        format!(", over {n} tokenizers; the more metrics are tried, the more look good by chance.")
    };
    format!("{}{others}{warning}", tcas.unwrap_or_default()).replace(" -", " \u{2212}")
}
