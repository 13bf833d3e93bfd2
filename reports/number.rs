//! Numbers as text that keep what a sentence says about them: a number that is not zero is not printed as zero.

/// Most decimals of a small number. Smaller differences are rounding of sums.
const MOST: usize = 12;

/// Returns the decimals of a printed number: `least`, or as many as show two digits of a smaller number.
pub fn decimals(value: f64, least: usize) -> usize {
    let shown = 10_f64.powi(-(least as i32));
    if value == 0.0 || !value.is_finite() || value.abs() >= 10.0 * shown {
        return least;
    }
    // 0.0123 has its first digit at the second decimal.
    let first = (-value.abs().log10().floor()).max(0.0) as usize;
    least.max((first + 1).min(MOST))
}

/// Returns `least`, or more decimals if the number would print as zero.
pub fn visible(value: f64, least: usize) -> usize {
    let text = format!("{:.least$}", value.abs());
    match text.bytes().any(|c| (b'1'..=b'9').contains(&c)) {
        true => least,
        false => decimals(value, least),
    }
}

/// Returns a number without what is rounding of sums, so that equal numbers have equal texts.
fn exact(value: f64) -> f64 {
    let scale = 10_f64.powi(MOST as i32);
    // Above, a number has no such decimals.
    match value.abs() < 1e3 {
        // Plus 0 turns -0 into 0.
        true => (value * scale).round() / scale + 0.0,
        false => value,
    }
}

/// Returns a difference with its sign and [`visible`] decimals. Zero, also up to the rounding of sums, has no sign.
pub fn difference(value: f64, least: usize) -> String {
    let value = exact(value);
    let decimals = visible(value, least);
    match value == 0.0 {
        true => format!("{value:.decimals$}"),
        false => format!("{value:+.decimals$}"),
    }
}

/// Returns a number with a minus sign and [`visible`] decimals. Zero, also up to the rounding of sums, has no sign.
pub fn signed(value: f64, least: usize) -> String {
    let value = exact(value);
    let decimals = visible(value, least);
    format!("{value:.decimals$}").replace('-', "\u{2212}")
}

/// Returns a number with so many decimals, and 0 without a sign.
pub fn rounded(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", exact(value));
    let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    match text.strip_prefix('-') {
        Some(zero) if is_zero => zero.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_zero_does_not_print_as_zero() {
        for (value, expected) in [
            (0.0, "0.00"),
            (-0.0, "0.00"),
            (-3e-16, "0.00"),
            (4e-12, "0.000000000004"),
            (0.5, "0.50"),
            (-0.5, "\u{2212}0.50"),
            (-0.004, "\u{2212}0.0040"),
            (0.006, "0.01"),
            (-1.0, "\u{2212}1.00"),
        ] {
            assert_eq!(signed(value, 2), expected, "{value}");
        }
        // 0.7 - 0.4 - 0.3 is not 0, and 2.5 - 1.25 and 0.1 + 1.15 are equal.
        for (value, expected) in [
            (0.7 - 0.4 - 0.3, "0.0"),
            (-(0.7 - 0.4 - 0.3), "0.0"),
            (2.5 - 1.25, "+1.2"),
            (1.25 + 4e-16, "+1.2"),
            (-1.25 - 4e-16, "-1.2"),
            (0.02, "+0.020"),
        ] {
            assert_eq!(difference(value, 1), expected, "{value}");
        }
        assert_eq!(rounded(1.25 + 4e-16, 1), rounded(1.25, 1));
        for (value, expected) in [
            (0.0, 4),
            (2.0, 4),
            (0.01, 4),
            (0.000_05, 6),
            (-1.2e-7, 8),
            (f64::NAN, 4),
        ] {
            assert_eq!(decimals(value, 4), expected, "{value}");
        }
    }
}
