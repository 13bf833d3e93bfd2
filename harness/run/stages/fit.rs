//! `fit`: a row's tokenizer, learned from the train split or built as it is.

use std::sync::Arc;

use image::{ImageFormat, RgbImage};
use serde_json::json;
use tessera_tokenizers::{Tokenizer, TokenizerFactory};

use super::{scan, upstream};
use crate::data::TrainStream;
use crate::run::context::{Context, Images, Mode, StageError};
use crate::store::{Entry, Provenance, StoreError};
use crate::suite::Row;

const VERSION: u32 = 1;
/// The picture of a codebook that can be drawn.
pub const PICTURE: &str = "codebook.png";

/// A row's tokenizer, and what making it took.
#[derive(Clone)]
pub struct Fitted {
    /// The tokenizer.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// The fit, with `codebook.safetensors` in its folder; `None` when there is nothing to learn.
    pub entry: Option<Entry>,
}

impl Fitted {
    /// PNG of the codebook, where it can be drawn.
    pub fn picture(&self) -> Option<Vec<u8>> {
        let picture = self.tokenizer.picture()?;
        let (width, height) = (picture.width as u32, picture.height as u32);
        let pixels = RgbImage::from_raw(width, height, picture.rgb.to_vec())?;
        let mut png = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut png, ImageFormat::Png).ok()?;
        Some(png.into_inner())
    }
}

/// The tokenizer of `row`; `None` in [`Mode::Lookup`] when it isn't fitted yet, for the row without one, and where it
/// needs an encoder that this run doesn't pretrain ([`Context::trains`]).
///
/// # Errors
/// [`StageError`].
pub fn fit(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    row: &Row,
) -> Result<Option<Fitted>, StageError> {
    let Some((kind, with)) = &row.tokenizer else {
        return Ok(None);
    };
    let counts = [images.scan.train.len(), images.scan.val.len()];
    let Some(encoders) = upstream::encoders(cx, mode, images, row)? else {
        return Ok(None);
    };
    let rows = |name: &str| {
        let found = encoders.get(name).cloned();
        found.ok_or_else(|| format!("row {name:?} was not asked for when the suite was checked"))
    };
    cx.with_encoders(Some(counts), &rows, |build| {
        let factory = cx.registry.tokenizer(kind, with).map_err(failed)?;
        let fitted = if factory.learns() {
            learned(cx, mode, images, row, factory, build)?
        } else {
            let tokenizer = factory.build(with, build).map_err(failed)?;
            Some(Fitted {
                tokenizer: tokenizer.into(),
                entry: None,
            })
        };
        if let Some(fitted) = &fitted {
            check_grid(cx, fitted.tokenizer.as_ref())?;
        }
        Ok(fitted)
    })
}

fn learned(
    cx: &Context<'_>,
    mode: Mode,
    images: &Images,
    row: &Row,
    factory: &dyn TokenizerFactory,
    build: &tessera_tokenizers::BuildContext<'_>,
) -> Result<Option<Fitted>, StageError> {
    let Some((kind, with)) = &row.tokenizer else {
        return Ok(None);
    };
    let seed = cx.suite.file.fit_seed;
    let provenance = Provenance {
        stage: "fit",
        label: row.name.clone(),
        inputs: json!({
            "version": VERSION,
            "kind": kind,
            "inputs": factory.fit_inputs(with, build).map_err(failed)?,
            "fit_seed": seed,
            "images": scan::provenance(cx, images),
            "numerics": cx.numerics(None),
        }),
    };
    let entry = cx.stage(mode, &provenance, |work| {
        let stream = TrainStream::new(&images.dataset, cx.suite.file.eval_transform);
        let tokenizer = factory.fit(with, &stream, seed, build)?;
        tokenizer.save(work.out)?;
        Ok(json!({"fingerprint": tokenizer.fingerprint(), "found": tokenizer.fit_report()}))
    })?;
    let Some(entry) = entry else {
        return Ok(None);
    };
    // Always from the store: a fresh and a resumed run use the same bytes.
    let tokenizer = factory.load(with, &entry.dir, build).map_err(failed)?;
    Ok(Some(Fitted {
        tokenizer: tokenizer.into(),
        entry: Some(entry),
    }))
}

fn check_grid(cx: &Context<'_>, tokenizer: &dyn Tokenizer) -> Result<(), StageError> {
    let (found, expected) = (tokenizer.grid(), cx.suite.grid());
    if found == expected {
        return Ok(());
    }
    Err(StageError::Failed(format!(
        "the tokenizer gives a {found} grid, image_size and patch_size ask for {expected}"
    )))
}

fn failed(error: tessera_tokenizers::Error) -> StageError {
    StageError::from(StoreError::Stage(error.into()))
}
