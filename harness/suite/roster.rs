//! Rows that need the encoder of another row: whom there is to ask, and who waits for whom.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tessera_models::vit::VitConfig;
use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::{BuildContext, RowEncoder};

use super::error::SuiteError;
use super::row::Row;

/// Every row of the suite, selected or not, and whether it pretrains an encoder.
#[derive(Debug, Default)]
pub struct Roster {
    vit: Option<VitConfig>,
    rows: Vec<(String, bool)>,
}

impl Roster {
    /// Of all rows of a suite whose model is `vit`.
    pub(super) fn new(rows: &[Row], vit: Option<VitConfig>) -> Self {
        let standing = |row: &Row| {
            let has_encoder = row.is_pretrained() || row.checkpoint.is_some();
            (row.name.clone(), has_encoder)
        };
        Self {
            vit,
            rows: rows.iter().map(standing).collect(),
        }
    }

    /// The encoder that the row `name` will have, not yet made.
    ///
    /// # Errors
    /// When there is no such row, or it pretrains nothing: what was found, what was expected.
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
                "row {name:?} pretrains nothing (the suite needs `pretrain:`), expected one of {}",
                with_encoder().collect::<Vec<_>>().join(", ")
            )),
        }
    }
}

/// Has the row's factory check it, and notes which rows it asks for.
pub(super) fn check(
    row: &mut Row,
    roster: &Roster,
    cx: &BuildContext<'_>,
) -> Result<(), SuiteError> {
    let asked = Mutex::new(BTreeSet::new());
    let rows = |name: &str| {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(name.to_owned());
        roster.planned(name)
    };
    row.check(&BuildContext { rows: &rows, ..*cx })?;
    row.after = asked.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(())
}

/// Refuses rows that wait for themselves, and skips (or refuses) those that wait for a skipped one.
pub(super) fn settle(rows: &mut [Row]) -> Result<(), SuiteError> {
    for row in rows.iter() {
        if let Some(path) = circle(rows, row, &mut vec![row.name.clone()]) {
            let message = format!(
                "waits for itself: {}; features of a row must come from one that is pretrained without it",
                path.join(" -> ")
            );
            return Err(row.entry.error("with", message).into());
        }
    }
    // Without circles this ends after as many turns as the longest chain has rows.
    while let Some((at, name, reason)) = waiting_in_vain(rows) {
        let message = format!("it needs row {name:?}, which is skipped: {reason}");
        let download = rows.iter().find(|row| row.name == name);
        let download = download.and_then(|row| row.download.clone());
        if download.is_some() {
            // It is only not there yet.
            rows[at].download = download;
        } else if !rows[at].optional {
            let remedy = "give that row what it needs, or write `optional: true` here too";
            return Err(rows[at]
                .entry
                .error("with", format!("{message}; {remedy}"))
                .into());
        }
        rows[at].skip = Some(message);
    }
    Ok(())
}

/// The names from the last of `path` back to its first.
fn circle(rows: &[Row], row: &Row, path: &mut Vec<String>) -> Option<Vec<String>> {
    for name in &row.after {
        path.push(name.clone());
        if path.first() == Some(name) {
            return Some(path.clone());
        }
        // A circle that this row only leads into is found from its own rows.
        let again = path[..path.len() - 1].contains(name);
        let next = rows.iter().find(|row| &row.name == name);
        if let Some(found) = next
            .filter(|_| !again)
            .and_then(|next| circle(rows, next, path))
        {
            return Some(found);
        }
        path.pop();
    }
    None
}

/// A row that is not skipped but waits for one that is: its place, that row and the reason.
fn waiting_in_vain(rows: &[Row]) -> Option<(usize, String, String)> {
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
