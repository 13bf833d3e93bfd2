//! The encoders of other rows that a row's features come from: "ClusterMIM MAE" of Table 7.

use std::collections::BTreeMap;

use tessera_tokenizers::RowEncoder;

use super::fit;
use super::pretrain::{self, Made};
use crate::run::context::{Context, Images, Mode, StageError};
use crate::suite::Row;

/// The encoders that `row` asked for by their rows' names, of the suite's first seed (codebooks are fitted once for all seeds);
/// `None` when one isn't pretrained yet.
///
/// # Errors
/// [`StageError`], naming the row that failed.
pub fn encoders(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    row: &Row,
) -> Result<Option<BTreeMap<String, RowEncoder>>, StageError> {
    let mode = if cx.trains { mode } else { Mode::Lookup };
    let mut found = BTreeMap::new();
    for name in &row.after {
        let encoder = encoder(cx, mode, images, name).map_err(|error| match error {
            StageError::Failed(error) => StageError::Failed(format!("row {name:?}: {error}")),
            other => other,
        })?;
        match encoder {
            Some(encoder) => found.insert(name.clone(), encoder),
            None => return Ok(None),
        };
    }
    Ok(Some(found))
}

fn encoder(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    name: &str,
) -> Result<Option<RowEncoder>, StageError> {
    let row = cx
        .suite
        .row(name)
        .ok_or_else(|| StageError::Failed("no such row".into()))?;
    let fitted = fit::fit(cx, mode, images, row)?;
    let seed = cx.suite.file.seeds.first().copied().unwrap_or_default();
    let made = pretrain::model_of(cx, mode, images, row, fitted.as_ref(), seed)?;
    let entry = match made {
        Made::Missing => return Ok(None),
        Made::Random => return Err(StageError::Failed("it pretrains nothing".into())),
        Made::Imported(entry) | Made::Pretrained(entry) => entry,
    };
    Ok(Some(RowEncoder {
        vit: pretrain::model(cx)?,
        file: Some(entry.file(pretrain::ENCODER)?),
        saw_labels: fitted.is_some_and(|fitted| fitted.tokenizer.facts().saw_labels),
    }))
}
