//! Names of rows: those that tables can show, and the one of the baseline.

use tessera_tokenizers::config::expected_one_of;

use crate::data::seen;

/// Returns the rows that `only` names: the row of this name, otherwise those that match it as a pattern ("K-means *").
///
/// # Errors
/// What was found and expected, if there are none.
pub fn matching<'a>(
    only: &str,
    rows: impl Iterator<Item = &'a str> + Clone,
) -> Result<Vec<&'a str>, String> {
    let pattern = glob::Pattern::new(only);
    let mut found = Vec::from_iter(rows.clone().filter(|name| *name == only));
    if let (true, Ok(pattern)) = (found.is_empty(), &pattern) {
        found = rows.clone().filter(|name| pattern.matches(name)).collect();
    }
    // No name is near a pattern.
    let is_pattern = only.contains(['*', '?', '[']);
    let all = || Vec::from_iter(rows.clone()).join(", ");
    match pattern {
        _ if !found.is_empty() => Ok(found),
        _ if !is_pattern => check(only, rows).map(|()| found),
        Ok(_) => Err(format!(
            "no row matches the pattern {only:?}, expected a pattern or a name of some of {}",
            all()
        )),
        Err(error) => Err(format!(
            "no row is called {only:?}, which is no pattern either ({error}), expected a pattern or a name of some of {}",
            all()
        )),
    }
}

/// Checks that a row is called `name`.
///
/// # Errors
/// What was found and expected, with the nearest name.
pub fn check<'a>(
    name: &str,
    mut rows: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), String> {
    let expected = expected_one_of(name, rows.clone());
    match rows.any(|row| row == name) {
        true => Ok(()),
        false => Err(format!("no row is called {name:?}, {expected}")),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_or_pattern() {
        let found = |only: &str| matching(only, ["K", "M [1]", "MAE"].into_iter());
        assert_eq!(found("K").unwrap(), ["K"]);
        // A name that is a pattern too is a name.
        assert_eq!(found("M [1]").unwrap(), ["M [1]"]);
        assert_eq!(found("M*").unwrap(), ["M [1]", "MAE"]);
        for (only, said) in [
            (
                "MEA",
                "no row is called \"MEA\", expected one of K, M [1], MAE; did you mean `MAE`?",
            ),
            // `K` is as near as any text of two letters.
            (
                "O*",
                "no row matches the pattern \"O*\", expected a pattern or a name of some of K, M [1], MAE",
            ),
            (
                "O[",
                "no row is called \"O[\", which is no pattern either (Pattern syntax error",
            ),
        ] {
            let error = found(only).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
