//! Which rows of a scored run are shown to be below chance.

use super::*;

/// One row with a large error spoke for all.
#[test]
fn a_row_that_is_not_shown_to_be_below_its_null_does_not_speak_for_the_others() {
    let far = || scored("K8 & far", "", (0.790, 0.013));
    let near = |se| scored("K4", "", (0.794, se));
    let alone = "No TCAS is shown to be below its mean under permuted labels; the furthest is that of K8 &amp; far, 0.010 ± 0.013 below.";
    let none = advice_on(vec![near(0.01), far()]);
    assert!(none.contains(alone), "{none}");
    let mut unknown = scored("K2", "", (0.797, 0.0));
    unknown.1.clear();
    let found = advice_on(vec![near(0.0009), far(), unknown.clone()]);
    let one = "that of K8 &amp; far, 0.010 ± 0.013 below, is not shown to be below. Shown to be below: K4 (0.006 ± 0.001). Not known, because the error is unknown: K2.";
    assert!(found.contains(one) && !found.contains("No TCAS"), "{found}");
    let found = advice_on(vec![far(), unknown]);
    assert!(
        !found.contains("No TCAS") && !found.contains("Shown to be"),
        "{found}"
    );
}

/// A row above its null was "the most aligned", because its error was unknown; and so was the luckiest of many random rows.
#[test]
fn a_row_is_most_aligned_only_with_a_known_error_and_among_all_rows() {
    let mut above = scored("K9", "", (0.81, 0.001));
    above.1.clear();
    let found = advice_on(vec![above]);
    assert!(
        !found.contains("most aligned") && found.contains("(error unknown)"),
        "{found}"
    );
    // Four deviations of permuted labels: p = 0.023 for one row.
    let lucky = || scored("lucky", "", (0.76, 0.01));
    assert!(advice_on(vec![lucky()]).contains("most aligned"));
    let rows = (0..20).map(|n| scored(&n.to_string(), "", (0.799, 0.01)));
    let found = advice_on(std::iter::once(lucky()).chain(rows).collect());
    assert!(
        !found.contains("most aligned") && found.contains("No TCAS is shown"),
        "{found}"
    );
}

/// "The furthest is that of K, −0.010 ± 0.005 below."
#[test]
fn a_row_above_its_null_is_not_below_by_less_than_nothing() {
    let found = advice_on(vec![scored("K", "", (0.810, 0.005))]);
    assert!(found.contains("that of K, 0.010 ± 0.005 above."), "{found}");
}
