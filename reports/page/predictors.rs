//! The section on metrics that predict accuracy: a sentence, selectable scatter plots, and the coefficients of all metrics.

use std::fmt::Write;

use crate::columns::{Predictor, Record};
use crate::correlated::{ONE_ROW, SHOWN, doubts};
use crate::correlation::ENOUGH;
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::figure::{Figure, escaped, html};
use crate::number::signed;
use crate::seeds::{are_equal, names};

/// Returns the section; empty without correlations and without a reason why there are none.
pub fn predictors(records: &[Record], predictors: &[Predictor], figures: &[Figure]) -> String {
    let mut out: String = EVALUATIONS
        .iter()
        .filter_map(|e| equal(records, e))
        .collect();
    if predictors.is_empty() {
        return out;
    }
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

/// Says that all tokenizers, at least three, have the same accuracy.
fn equal(records: &[Record], evaluation: &Evaluation) -> Option<String> {
    let tokenizers = || records.iter().filter(|r| !r.is_random());
    let mean = |name: &&str| evaluation.over_seeds(tokenizers().filter(|r| r.tokenizer == **name));
    let means = names(tokenizers())
        .iter()
        .filter_map(mean)
        .map(|(mean, _)| mean)
        .collect::<Vec<_>>();
    let first = means
        .first()
        .filter(|first| means.len() >= 3 && means.iter().all(|m| are_equal(*m, **first)))?;
    Some(format!(
        "<p>All {} tokenizers have {first:.1} % by {}, so that no metric can be correlated with it.</p>",
        means.len(),
        evaluation.title
    ))
}

/// Summarises the correlations of TCAS and the other metrics: what they support, and what a single row decides.
fn verdict(name: &str, of: &[&Predictor]) -> String {
    let tcas = of.iter().find(|p| p.metric == "tcas");
    let tcas = tcas.map_or(String::new(), |p| tcas_sentence(name, p, of.len()));
    let n = of.iter().map(|p| p.n).max().unwrap_or(0);
    let found = |finding: &str| -> Vec<&&Predictor> {
        of.iter().filter(|p| p.finding == finding).collect()
    };
    let shown: Vec<String> = (found(SHOWN).iter().map(|p| escaped(&p.metric))).collect();
    let others = match shown.is_empty() {
        true => "none of them is shown to be related with it".to_owned(),
        false => format!(
            "these are shown to be related with it: {}",
            shown.join(", ")
        ),
    };
    let by_one: Vec<String> = (found(ONE_ROW).iter())
        .map(|p| format!("{} ({})", escaped(&p.metric), escaped(&p.decided_by)))
        .collect();
    let by_one = match by_one.is_empty() {
        true => String::new(),
        false => format!(
            " <strong>One row decides</strong> these, which are no evidence: {}.",
            by_one.join(", ")
        ),
    };
    format!(
        "{tcas} Of all {} metrics against {name} accuracy over at most {n} tokenizers, {others} (permutation test, Holm's correction over \
         the metrics).{by_one}",
        of.len()
    )
}

/// Describes the correlation of TCAS.
fn tcas_sentence(name: &str, p: &Predictor, metrics: usize) -> String {
    let interval = match interval(p) {
        Some((low, high)) => format!(
            ", 95 % bootstrap interval {} to {}",
            signed(low, 2),
            signed(high, 2)
        ),
        None => format!(", too few for an interval (fewer than {ENOUGH})"),
    };
    format!(
        "TCAS has r = {} with {name} accuracy over {} tokenizers{interval}. {}",
        signed(p.r, 2),
        p.n,
        escaped(&doubts(p, metrics))
    )
}

/// Returns the interval of r.
fn interval(p: &Predictor) -> Option<(f64, f64)> {
    p.r_low.zip(p.r_high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_accuracies_of_all_tokenizers_are_said() {
        let record = |name: &str, ft| Record {
            tokenizer: name.into(),
            ft_top1: Some(ft),
            lp_top1: Some(name.len() as f64),
            ..Record::default()
        };
        let mut all = ["a", "ab", "abc"].map(|name| record(name, 37.5));
        let said = "<p>All 3 tokenizers have 37.5 % by fine-tuning, so";
        let of = |all: &[Record]| predictors(all, &[], &[]);
        assert!(of(&all).starts_with(said) && !of(&all).contains("linear"));
        all[2].ft_top1 = Some(37.4);
        assert_eq!(of(&all), "");
    }
}
