//! Reads the cards of tokenizers: usage and classes of their codes, and pictures.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use tessera_reports::Record;
use tessera_reports::page::Card;

use super::super::content::{bytes, json};
use super::super::layout::{CODEBOOK, GALLERY, MAPS, PATCHES, RESULTS};
use super::super::sums::lost;
use crate::metrics::Table;

/// Reads a tokenizer's card from a folder; `None` without counts.
pub(super) fn card(record: &Record, folder: &Path) -> anyhow::Result<Option<Card>> {
    let Some(mut card) = counts_card(&record.tokenizer, Some(record), folder)? else {
        return Ok(None);
    };
    enter_gallery(&mut card, folder)?;
    card.codebook = picture(&folder.join(CODEBOOK))?;
    Ok(Some(card))
}

/// Computes usage and classes of the codes from the counts in a folder; `None` without counts.
///
/// # Errors
/// If they cannot be read.
pub fn counts_card(
    name: &str,
    record: Option<&Record>,
    folder: &Path,
) -> anyhow::Result<Option<Card>> {
    let mut table = match Table::load(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        table => table.with_context(|| folder.display().to_string())?,
    };
    let classes = table.num_classes;
    if let Some(record) = record {
        check_counts(&mut table, record)
            .map_err(|(found, expected)| anyhow!(lost(folder, &found, &expected)))?;
    }
    let card = Card::of_counts(name, classes, |take| {
        table.each_row(|code, row| {
            take(code, row);
            Ok(())
        })
    });
    card.map(Some).with_context(|| folder.display().to_string())
}

/// Compares the counts of a row's first fit with what its record says of them. Joint codes of several groups have a size of their own.
fn check_counts(table: &mut Table, record: &Record) -> Result<(), (String, String)> {
    let shape = [table.codebook_size, table.num_classes];
    let stated = [record.codebook_size.unwrap_or(0), record.n_classes];
    let differs = |(found, stated): (&usize, &usize)| *stated > 0 && found != stated;
    if !record.code_groups.is_empty() {
        return Ok(());
    }
    if shape.iter().zip(&stated).any(differs) {
        let expected = format!("{stated:?} as in {RESULTS}");
        return Err((format!("counts of {shape:?} codes and classes"), expected));
    }
    let mut used = 0;
    let counted = table.each_row(|_, _| {
        used += 1;
        Ok(())
    });
    // That of several fits is their mean.
    let is_other = |stated: usize| match record.fits() {
        0 | 1 => stated != used,
        _ => stated > 0 && used == 0,
    };
    match record.codebook_used.filter(|_| counted.is_ok()) {
        Some(stated) if is_other(stated) => {
            let expected = format!("{stated} as in {RESULTS}");
            Err((format!("counts of {used} used codes"), expected))
        }
        _ => Ok(()),
    }
}

/// Adds the gallery of a folder to a card, if there is one.
///
/// # Errors
/// If it cannot be read.
pub fn enter_gallery(card: &mut Card, folder: &Path) -> anyhow::Result<()> {
    card.gallery = json(&folder.join(GALLERY))?;
    card.picture = picture(&folder.join(PATCHES))?;
    card.maps = picture(&folder.join(MAPS))?;
    Ok(())
}

/// Returns the bytes of a PNG; none if there is no file. The page has them, so it could publish another file.
fn picture(path: &Path) -> anyhow::Result<Vec<u8>> {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
    let bytes = bytes(path)?.unwrap_or_default();
    match bytes.is_empty() || bytes.starts_with(PNG) {
        true => Ok(bytes),
        false => bail!(lost(path, "other bytes", "a PNG")),
    }
}
