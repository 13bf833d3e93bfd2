//! Means and deviations over seeds.

use crate::columns::Record;

/// Returns the names of tokenizers in order of first appearance.
pub fn names<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if !names.contains(&record.tokenizer.as_str()) {
            names.push(&record.tokenizer);
        }
    }
    names
}

/// Returns the mean, and the standard deviation (n - 1) of more than one value; `None` without values.
pub fn mean_sd(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sd = (values.len() > 1).then(|| (square / (n - 1.0)).sqrt());
    (!values.is_empty()).then_some((mean, sd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_no_deviation() {
        assert_eq!(mean_sd(&[]), None);
        assert_eq!(mean_sd(&[3.0]), Some((3.0, None)));
        assert_eq!(mean_sd(&[1.0, 3.0]), Some((2.0, Some(2.0_f64.sqrt()))));
    }
}
