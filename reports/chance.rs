//! The distance of a training-free metric from its chance level, with its standard error.

use std::collections::BTreeMap;

use statrs::distribution::{ContinuousCDF as _, FisherSnedecor};

use crate::apart::RowId;
use crate::column::{Better, Column};
use crate::columns::{MetricRow, Record};
use crate::number::signed;
use crate::seeds::{error_over_fits, minus};

/// A number is shown to differ from another if the difference exceeds this many standard errors.
pub const SHOWN: f64 = 2.0;

/// A metric is shown to differ from its null if permuted labels are as far from it with a smaller probability.
pub const CHANCE: f64 = 0.025;

/// The metric whose distance from chance is shown.
pub const TCAS: &Column = &Record::column("tcas");
/// The metric beside it, whose order holds for any classes.
pub const PNMI: &Column = &Record::column("pnmi");

/// Rows of `metrics.csv` of one or several runs, by the record that they are of. Of equal rows of several runs, the first counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<(RowId, u64), Vec<MetricRow>>);

impl Metrics {
    /// Returns the rows of a record.
    pub fn of(&self, record: &Record) -> &[MetricRow] {
        let key = (record.row_id(), record.seed);
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }
}

impl<'a> FromIterator<(&'a Record, Vec<MetricRow>)> for Metrics {
    fn from_iter<I: IntoIterator<Item = (&'a Record, Vec<MetricRow>)>>(rows: I) -> Self {
        let mut all = Self::default();
        for (record, rows) in rows {
            let key = (record.row_id(), record.seed);
            all.0.entry(key).or_insert(rows);
        }
        all
    }
}

/// The distance of a metric from its mean under permuted labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    /// Positive if the metric is better than chance.
    pub value: f64,
    /// Standard error of `value`: over images and permutations, and over fits if there are several.
    pub se: f64,
    /// Standard deviation of `value` for labels that are permuted at random, from [`PERMUTATIONS`] permutations.
    pub chance: f64,
}

/// Permutations of the images' labels behind the null of a metric.
pub const PERMUTATIONS: u64 = 20;

/// Returns the standard error of the distance of a metric, in row `at`, from its null mean, and its standard deviation for permuted labels;
/// `None` if an error is unknown.
///
/// The errors over images and over permutations are independent. A codebook moves the metric and its null together, so the error over fits comes from the
/// distance of each fit. The rows of the fits follow the row of their mean. All fits have the same permutations, so the deviation for
/// permuted labels does not fall with their number.
fn errors(record: &Record, metrics: &[MetricRow], at: usize) -> Option<(f64, f64)> {
    let row = &metrics[at];
    let within = |row: &MetricRow| Some(row.se?.hypot(row.null_se?));
    // Of one permutation against the mean of the others: s^2 (1 + 1 / n), and null_se^2 = s^2 / n.
    let permuted = |null_se: f64| null_se * (PERMUTATIONS as f64 + 1.0).sqrt();
    if record.fits() < 2 {
        return Some((within(row)?, permuted(row.null_se?)));
    }
    let seeds = record.fit_seeds.split_whitespace();
    let fits = seeds.map(|seed| {
        let is_fit = |m: &&MetricRow| {
            let same = (&m.tokenizer, m.seed) == (&row.tokenizer, row.seed);
            same && m.is_of(&row.metric) && m.fit_seed.map(|s| s.to_string()) == Some(seed.into())
        };
        let fit = metrics[at..].iter().find(is_fit)?;
        let distance = fit.value? - fit.null_mean?;
        Some(((distance, within(fit)?), permuted(fit.null_se?)))
    });
    let ((distances, within), permuted): ((Vec<f64>, Vec<f64>), Vec<f64>) =
        fits.collect::<Option<Vec<_>>>()?.into_iter().unzip();
    let largest = permuted.into_iter().fold(0.0, f64::max);
    Some((error_over_fits(&distances, &within), largest))
}

impl Excess {
    /// Returns the distance of a record's metric; `None` without its row in the `metrics.csv` of its run.
    pub fn of(record: &Record, metrics: &[MetricRow], column: &Column) -> Option<Self> {
        let value = record.number(column)?;
        let own = |m: &&MetricRow| {
            let same = m.tokenizer == record.tokenizer && m.seed == record.seed;
            same && m.is_of(column.name)
        };
        let at = metrics.iter().position(|m| own(&m))?;
        let row = &metrics[at];
        let null = row.null_mean?;
        let (se, chance) = errors(record, metrics, at)?;
        Some(Self {
            // At chance, the two differ by the rounding of their sums.
            value: match column.better {
                Better::Lower => minus(null, value),
                _ => minus(value, null),
            },
            se,
            chance,
        })
    }

    /// Returns whether permuted labels rarely have such a distance: one-sided p below 0.025. The standard error says how the distance varies on
    /// other images; without any information, permutations say more.
    pub fn is_shown(&self) -> bool {
        self.is_shown_among(1)
    }

    /// As [`is_shown`](Self::is_shown), for the largest distance of `rows` rows (Bonferroni's correction).
    pub fn is_shown_among(&self, rows: usize) -> bool {
        self.value > 0.0 && self.p() * (rows.max(1) as f64) < CHANCE
    }

    /// Returns whether it is on the other side of its null, as far as permuted labels rarely are.
    fn is_beyond(&self) -> bool {
        self.value < 0.0 && self.p() < CHANCE
    }

    /// Returns the distance of TCAS if it is above its null by more than chance although PNMI shows that the codes tell classes: a lower TCAS is then
    /// not better (docs/metrics.md, "Two classes, or one large class").
    pub fn without_order(record: &Record, metrics: &[MetricRow]) -> Option<Self> {
        let tcas = Self::of(record, metrics, TCAS)?;
        let pnmi = Self::of(record, metrics, PNMI)?;
        (tcas.is_beyond() && pnmi.is_shown()).then_some(tcas)
    }

    /// Returns an upper bound of the part of the permuted labels whose metric is as far from its mean.
    ///
    /// A sum of squared counts is distributed as chi-squared, which is the more skewed the fewer codes and classes there are. The tail is that of one
    /// degree of freedom, of two codes and two classes, with a deviation that is estimated from [`PERMUTATIONS`] permutations: F(1, 13) is an
    /// upper bound (`tests/fixtures/statistics/chance.py`, which shows that Student's t is none). If no permutation moves the
    /// metric, all that they say is that the labels are the first of 21.
    fn p(&self) -> f64 {
        const ROUNDING: f64 = 1e-9;
        if self.chance <= ROUNDING * self.value.abs() {
            return 1.0 / (PERMUTATIONS as f64 + 1.0);
        }
        let deviations = self.value.abs() / self.chance;
        let tail = FisherSnedecor::new(1.0, 13.0);
        tail.map_or(1.0, |tail| tail.sf(1.0 + 2.0_f64.sqrt() * deviations))
    }

    /// Returns whether it is larger than `other` by more than the error of the difference, for independent errors. Those of the same
    /// images are rather smaller.
    pub fn is_above(&self, other: &Self) -> bool {
        self.value - other.value > SHOWN * self.se.hypot(other.se)
    }

    /// Returns it as text: `0.043 ± 0.005`.
    pub fn text(&self) -> String {
        format!("{} ± {}", signed(self.value, 3), signed(self.se, 3))
    }
}

/// Patches per code and class that a comparison of TCAS should have at least (docs/metrics.md).
pub const ENOUGH: f64 = 100.0;

/// Returns the patches per used code and class of the train split, if they are few.
pub fn few_patches(record: &Record) -> Option<f64> {
    let side = record.image_size.checked_div(record.patch_size)? as f64;
    let cells = record.codebook_used? as f64 * record.n_classes as f64;
    let each = record.n_train as f64 * side * side / cells;
    (cells > 0.0 && each < ENOUGH).then_some(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_has_the_errors_of_the_value_and_of_the_null() {
        let record = Record {
            tokenizer: "K".into(),
            tcas: Some(0.7),
            pnmi: Some(0.1),
            ..Record::default()
        };
        let row = |metric: &str, value: f64, null: f64| MetricRow {
            tokenizer: "K".into(),
            metric: metric.into(),
            value: Some(value),
            se: Some(0.003),
            null_mean: Some(null),
            null_se: Some(0.004),
            ..MetricRow::default()
        };
        let rows = [row("tcas", 0.7, 0.71), row("pnmi", 0.1, 0.11)];
        let of = |column| Excess::of(&record, &rows, &column).unwrap();
        let tcas = of(Record::column("tcas"));
        assert!((tcas.value - 0.01).abs() < 1e-12 && (tcas.se - 0.005).abs() < 1e-12);
        assert_eq!(tcas.text(), "0.010 ± 0.005");
        assert!(of(Record::column("pnmi")).value < 0.0);
        assert_eq!(Excess::of(&record, &[], &Record::column("tcas")), None);
    }

    /// The distances of "Residual HOG, 2 x 50" in the evidence on CIFAR-10. The errors of value and null were added, which gave ± 0.011.
    #[test]
    fn over_fits_the_error_is_that_of_their_distances() {
        let record = Record {
            tokenizer: "K".into(),
            tcas: Some(0.7),
            fit_seeds: "0 1 2".into(),
            ..Record::default()
        };
        let row = |fit_seed: Option<u64>, value: f64, null: f64| MetricRow {
            tokenizer: "K".into(),
            metric: "tcas".into(),
            value: Some(value),
            se: Some(if fit_seed.is_some() { 0.0003 } else { 0.008 }),
            null_mean: Some(null),
            null_se: Some(if fit_seed.is_some() { 0.0004 } else { 0.008 }),
            fit_seed,
            ..MetricRow::default()
        };
        let mut rows = vec![
            row(None, 0.7, 0.712),
            row(Some(0), 0.69, 0.7026),
            row(Some(1), 0.7, 0.7112),
            row(Some(2), 0.71, 0.7222),
        ];
        let tcas = Excess::of(&record, &rows, TCAS).unwrap();
        // Standard deviation of 0.0126, 0.0112 and 0.0122: 0.000721; (4.3027 / 1.96)^2 / 3 = 1.606; 0.0005^2 within.
        let expected = (0.0005_f64.powi(2) + 1.606 * 0.000_721_f64.powi(2)).sqrt();
        assert!((tcas.se - expected).abs() < 1e-6, "{} {expected}", tcas.se);
        assert!(tcas.is_shown());
        // Without the rows of the fits the error is unknown.
        rows.truncate(2);
        assert_eq!(Excess::of(&record, &rows, TCAS), None);
    }

    #[test]
    fn few_patches_per_code_and_class_are_found() {
        let of = |used| Record {
            n_train: 1600,
            image_size: 32,
            patch_size: 4,
            n_classes: 10,
            codebook_used: Some(used),
            ..Record::default()
        };
        assert_eq!(few_patches(&of(102)), None);
        assert_eq!(few_patches(&of(200)), Some(51.2));
        assert_eq!(
            (few_patches(&of(0)), few_patches(&Record::default())),
            (None, None)
        );
        // A file may hold any number.
        let huge = Record {
            n_train: usize::MAX,
            n_classes: usize::MAX,
            ..of(usize::MAX)
        };
        assert!(few_patches(&huge).is_some_and(|each| each < 1e-9));
    }

    #[test]
    fn only_a_distance_beyond_its_error_is_shown() {
        let of = |value, se| Excess {
            value,
            se,
            chance: 0.01,
        };
        // The quantile of 0.975 of F(1, 13) is 6.4143, so 3.8285 deviations.
        assert!(of(0.0383, 0.05).is_shown() && !of(0.0382, 0.0).is_shown());
        assert!(!of(-0.1, 0.001).is_shown() && of(-0.1, 0.001).is_beyond());
        assert!(!of(-0.03, 0.001).is_beyond() && !of(0.1, 0.001).is_beyond());
        // Of 30 rows, that of 1 - 0.025 / 30: 18.6543, so 12.4835 deviations.
        assert!(of(0.1249, 0.0).is_shown_among(30) && !of(0.1248, 0.0).is_shown_among(30));
        // A code on two images of a rare class, which no permutation hit: "p = 4e-274", by exact counts 0.064.
        let rare = Excess {
            value: 0.219,
            se: 0.185,
            chance: 1e-17,
        };
        assert!(!rare.is_shown());
        let constant = Excess {
            value: 0.0,
            se: 0.0,
            chance: 0.0,
        };
        assert!(!constant.is_shown());
        assert!(of(0.1, 0.003).is_above(&of(0.08, 0.004)));
        assert!(!of(0.1, 0.003).is_above(&of(0.095, 0.004)));
    }
}
