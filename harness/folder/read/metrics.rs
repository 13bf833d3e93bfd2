//! Compares `metrics.csv` with `results.csv`.

use std::collections::HashSet;
use std::path::Path;

use anyhow::bail;
use tessera_reports::{Column, Group, MetricRow, Record};

use super::super::data::RunData;
use super::super::layout::RESULTS;
use super::super::sums::{NO_ROWS, lost};

/// Checks that every metric of every record has a row in the file `metrics.csv` at `path`, with its number and its chance level.
pub(super) fn check(data: &RunData, path: &Path) -> anyhow::Result<()> {
    for (cell, record) in data.records.iter().enumerate() {
        let rows = data.metrics.get(&cell).map_or(&[][..], Vec::as_slice);
        let mut seen = HashSet::new();
        let place = |row: &MetricRow| (row.metric.clone(), row.fit_seed, row.group);
        if let Some(twice) = rows.iter().find(|row| !seen.insert(place(row))) {
            let of_fit = twice
                .fit_seed
                .map_or(String::new(), |seed| format!(", fit seed {seed}"));
            let of_group = twice
                .group
                .map_or(String::new(), |group| format!(", group {group}"));
            let (row, seed) = (&record.tokenizer, record.seed);
            let found = format!(
                "two rows of {} of {row}, seed {seed}{of_fit}{of_group}",
                twice.metric
            );
            bail!(lost(path, &found, "one"));
        }
        for column in Record::metrics() {
            let Some(number) = record.number(column) else {
                continue;
            };
            let (row, seed, name) = (&record.tokenizer, record.seed, column.name);
            let expected = format!("a row for {name} and every other metric that {RESULTS} has");
            let (found, expected) = match rows.iter().find(|row| row.is_of(name)) {
                Some(found) => match disagreement(found, number, column) {
                    Some((found, expected)) => {
                        (format!("{name} {found} of {row}, seed {seed}"), expected)
                    }
                    None => continue,
                },
                None if data.metrics.is_empty() => (NO_ROWS.to_owned(), expected),
                None if rows.is_empty() => (format!("no row of {row}, seed {seed}"), expected),
                None => (format!("no {name} of {row}, seed {seed}"), expected),
            };
            bail!(lost(path, &found, &expected));
        }
        for (row, column) in nulls(rows) {
            let (Some(number), Some(found)) = (record.number(column), row.null_mean) else {
                continue;
            };
            if (found - number).abs() > 1e-6 * number.abs() {
                let Record {
                    tokenizer, seed, ..
                } = record;
                let found = format!(
                    "{} null_mean {found} of {tokenizer}, seed {seed}",
                    row.metric
                );
                let expected = format!("{number} as in {} of {RESULTS}", column.name);
                bail!(lost(path, &found, &expected));
            }
        }
    }
    Ok(())
}

/// Returns the first row of each metric of the joint codes whose chance level `results.csv` has too, with its column there.
fn nulls(rows: &[MetricRow]) -> impl Iterator<Item = (&MetricRow, &'static Column)> {
    let all = Record::COLUMNS.iter();
    all.filter_map(|column| {
        let name = column.name.strip_suffix("_null")?;
        Some((rows.iter().find(|row| row.is_of(name))?, column))
    })
}

/// Returns what is found and expected if a row of `metrics.csv` has another number than `results.csv`, where counts are rounded, or a
/// chance level that the metric cannot have.
fn disagreement(row: &MetricRow, number: f64, column: &Column) -> Option<(String, String)> {
    let far = match column.group {
        Group::Count => 0.5,
        _ => 1e-6 * number.abs(),
    };
    let value = row.value.unwrap_or(f64::NAN);
    if (value - number).abs() <= far {
        let null = row.null_mean?;
        return Some((format!("null_mean {null}"), column.misfit(null)?));
    }
    Some((value.to_string(), format!("{number} as in {RESULTS}")))
}
