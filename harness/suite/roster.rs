//! Dependencies between rows: encoders that other rows may use, and the order in which rows wait.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tessera_models::vit::VitConfig;
use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::{BuildContext, Error, RowEncoder};

use super::error::SuiteError;
use super::row::Row;

/// All rows of the suite, selected or not, and whether each has an encoder.
#[derive(Debug, Default)]
pub struct Roster {
    vit: Option<VitConfig>,
    rows: Vec<(String, bool)>,
}

impl Roster {
    /// Returns the position of a row in the suite.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.rows.iter().position(|(row, _)| row == name)
    }

    /// Creates the roster of all rows of a suite with the model `vit`.
    pub(super) fn new(rows: &[Row], vit: Option<VitConfig>) -> Self {
        let entry = |row: &Row| {
            let has_encoder = row.is_pretrained() || row.checkpoint.is_some();
            (row.name.clone(), has_encoder)
        };
        Self {
            vit,
            rows: rows.iter().map(entry).collect(),
        }
    }

    /// Returns the future encoder of the row `name`, without its file.
    ///
    /// # Errors
    /// If there is no such row or it is not pretrained: what was found and expected.
    pub fn planned(&self, name: &str) -> Result<RowEncoder, String> {
        let with_encoder = || {
            let all = self.rows.iter().filter(|(_, has)| *has);
            all.map(|(name, _)| name.as_str())
        };
        match (self.rows.iter().find(|(row, _)| row == name), self.vit) {
            (None, _) => Err(format!(
                "no row is called {name:?}, {}",
                expected_one_of(name, with_encoder())
            )),
            (Some((_, true)), Some(vit)) => Ok(RowEncoder {
                vit,
                file: None,
                saw_labels: false,
            }),
            (Some(_), _) => Err(format!(
                "row {name:?} is not pretrained (the suite needs `pretrain:`), expected one of {}",
                with_encoder().collect::<Vec<_>>().join(", ")
            )),
        }
    }
}

/// Checks the row with its factory and records the rows whose encoder it requests. A kept row that is wrong is skipped.
pub(super) fn check(
    row: &mut Row,
    roster: &Roster,
    cx: &BuildContext<'_>,
) -> Result<(), SuiteError> {
    let requested = Mutex::new(BTreeSet::new());
    let rows = |name: &str| {
        let mut requested = requested.lock().unwrap_or_else(PoisonError::into_inner);
        requested.insert(name.to_owned());
        roster.planned(name)
    };
    match row.check(&BuildContext { rows: &rows, ..*cx }) {
        Err(error @ SuiteError::Tokenizer(Error::Interrupted)) => return Err(error),
        Err(error) if row.kept => row.skip = Some(error.to_string()),
        checked => checked?,
    }
    let requested = requested.into_inner();
    row.after = requested.unwrap_or_else(PoisonError::into_inner);
    Ok(())
}

/// Refuses rows that wait for themselves, and skips or refuses rows that wait for a skipped one. Kept rows are skipped.
pub(super) fn settle(rows: &mut [Row]) -> Result<(), SuiteError> {
    for at in 0..rows.len() {
        let row = &rows[at];
        if let Some(path) = cycle(rows, row, &mut vec![row.name.clone()]) {
            let message = format!(
                "waits for itself: {}; the features of a row must come from a row that does not depend on it",
                path.join(" -> ")
            );
            let error = row.entry.error("with", message);
            match row.kept {
                true => rows[at].skip = Some(error.to_string()),
                false => return Err(error.into()),
            }
        }
    }
    // This ends, because every iteration skips another row.
    while let Some((at, name, reason)) = waits_for_skipped(rows) {
        let message = format!("it needs row {name:?}, which is skipped: {reason}");
        let download = rows.iter().find(|row| row.name == name);
        let download = download.and_then(|row| row.download.clone());
        if download.is_some() {
            rows[at].download = download;
        } else if !rows[at].optional && !rows[at].kept {
            let remedy = "provide the missing file, or write `optional: true` here too";
            return Err(rows[at]
                .entry
                .error("with", format!("{message}; {remedy}"))
                .into());
        }
        rows[at].skip = Some(message);
    }
    Ok(())
}

/// Extends `path`, which ends at `row`, to a cycle back to its first name, if there is one.
fn cycle(rows: &[Row], row: &Row, path: &mut Vec<String>) -> Option<Vec<String>> {
    for name in &row.after {
        path.push(name.clone());
        if path.first() == Some(name) {
            return Some(path.clone());
        }
        // A cycle that does not contain the first row is found from its own rows.
        let again = path[..path.len() - 1].contains(name);
        let next = rows.iter().find(|row| &row.name == name);
        if let Some(found) = next
            .filter(|_| !again)
            .and_then(|next| cycle(rows, next, path))
        {
            return Some(found);
        }
        path.pop();
    }
    None
}

/// Finds a row that is not skipped but waits for a skipped one. Returns its index, the name of that row, and the reason.
fn waits_for_skipped(rows: &[Row]) -> Option<(usize, String, String)> {
    let skipped = |name: &String| {
        let row = rows.iter().find(|row| &row.name == name)?;
        Some((name.clone(), row.skip.clone()?))
    };
    rows.iter().enumerate().find_map(|(at, row)| {
        let (name, reason) = match row.skip {
            None => row.after.iter().find_map(skipped)?,
            Some(_) => return None,
        };
        Some((at, name, reason))
    })
}
