//! The section on metrics that predict accuracy: a sentence, selectable scatter plots, and the coefficients of all metrics.

use std::fmt::Write;

use crate::columns::Predictor;
use crate::correlation::ENOUGH;
use crate::evaluations::EVALUATIONS;
use crate::figure::{Figure, escaped, html};
use crate::number::signed;

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
    let tcas = of
        .iter()
        .find(|p| p.metric == "tcas")
        .map(|p| tcas(name, p));
    let tcas = tcas.unwrap_or_default();
    let n = of.iter().map(|p| p.n).max().unwrap_or(0);
    if of.iter().all(|p| interval(p).is_none()) {
        return format!(
            "{tcas}With {n} tokenizers, fewer than {ENOUGH}, no interval of a correlation can be computed, so that no metric is shown to \
             predict {name} accuracy."
        );
    }
    let sure: Vec<&&Predictor> = of.iter().filter(|p| excludes_zero(p)).collect();
    let names: Vec<String> = sure.iter().map(|p| escaped(&p.metric)).collect();
    let others = match names.len() {
        0 => format!(
            "None of the {} metrics has an interval of r that excludes zero",
            of.len()
        ),
        _ => format!(
            "Of {} metrics, these have an interval of r that excludes zero: {}",
            of.len(),
            names.join(", ")
        ),
    };
    format!(
        "{tcas}{others}, over {n} tokenizers; the more metrics are tried, the more look good by chance."
    )
}

/// Describes the correlation of TCAS.
fn tcas(name: &str, p: &Predictor) -> String {
    let r = signed(p.r, 2);
    let Some((low, high)) = interval(p) else {
        return format!(
            "TCAS has r = {r} with {name} accuracy over {} tokenizers. ",
            p.n
        );
    };
    let found = match excludes_zero(p) {
        true => "which excludes zero",
        false => "which includes zero, so that no relation is shown",
    };
    let (low, high) = (signed(low, 2), signed(high, 2));
    format!("TCAS has r = {r} with {name} accuracy, 95 % interval {low} to {high}, {found}. ")
}

/// Returns the interval of r. Older run folders have one also for few points.
fn interval(p: &Predictor) -> Option<(f64, f64)> {
    p.r_low.zip(p.r_high).filter(|_| p.n >= ENOUGH)
}

fn excludes_zero(p: &Predictor) -> bool {
    interval(p).is_some_and(|(low, high)| low > 0.0 || high < 0.0)
}
