//! Names of rows: those that tables can show, and the one of the baseline.

use crate::data::seen;

/// Checks the name of a row that follows the rows `others`.
///
/// # Errors
/// What was found and expected, if tables could not show the name, or not beside another.
pub fn check_new<'a>(
    name: &str,
    others: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), String> {
    if seen(name).is_empty() || name.contains(char::is_control) {
        return Err(format!("found {name:?}, expected a line of text"));
    }
    if name.trim() != name {
        return Err(format!(
            "found {name:?}, expected no blanks around the name; remove them"
        ));
    }
    if others.clone().any(|other| other == name) {
        return Err(format!(
            "the name {name:?} occurs twice, expected unique names (a sweep needs `{{key}}` in its name)"
        ));
    }
    // Different names of ASCII look different.
    let mut others = others.filter(|other| !(name.is_ascii() && other.is_ascii()));
    match others.find(|other| seen(other) == seen(name)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "the names {other:?} and {name:?} look the same in tables; rename one of the rows"
        )),
    }
}

/// Says that the row `baseline` is not among the rows of a run folder, if the suite names one: another selection (`--only`) leaves it out.
pub fn without_baseline<'a>(
    baseline: Option<&str>,
    mut rows: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let name = baseline?;
    (!rows.any(|row| row == name)).then(|| {
        format!(
            "the baseline {name:?} is not among the rows of this run, so nothing is compared with it; add --only {name:?}, or name another \
             row with --set baseline=NAME"
        )
    })
}
