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
    let found = advice_on(vec![near(0.001), far(), unknown.clone()]);
    let one = "that of K8 &amp; far, 0.010 ± 0.013 below, is not shown to be below. Shown to be below: K4 (0.006 ± 0.001). Not known, because the error is unknown: K2.";
    assert!(found.contains(one) && !found.contains("No TCAS"), "{found}");
    let found = advice_on(vec![far(), unknown]);
    assert!(
        !found.contains("No TCAS") && !found.contains("Shown to be"),
        "{found}"
    );
}
