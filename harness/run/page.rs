//! `report.html`: the run folder on one page.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tessera_reports::figures::FigureData;
use tessera_reports::page::{Card, Page, page};
use tessera_reports::{Record, from_csv};

use super::output::{COSTS, ENVIRONMENT, SUITE};
use super::results::folders;
use super::stages::{fit, gallery};
use crate::metrics::Table;
use crate::store::write_atomic;

/// The page.
pub const PAGE: &str = "report.html";

/// Writes the page of the run in `out`; `drawn` is what [`figures`](super::figures) drew, `notes` what stands under its tables.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_page(
    out: &Path,
    records: &[Record],
    data: FigureData,
    drawn: super::figures::Drawn,
    notes: Vec<String>,
) -> anyhow::Result<()> {
    let text = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    let (figures, predictors) = drawn;
    let costs = from_csv(&text(COSTS), COSTS).unwrap_or_default();
    let shown = Page {
        costs,
        cards: cards(out, records),
        environment: serde_json::from_str(&text(ENVIRONMENT)).unwrap_or(Value::Null),
        suite: text(SUITE),
        data,
        figures,
        predictors,
        notes,
    };
    write_atomic(&out.join(PAGE), page(records, &shown).as_bytes())?;
    Ok(())
}

/// A card per tokenizer with codes, from the folder of its first seed.
fn cards(out: &Path, records: &[Record]) -> Vec<Card> {
    let mut cards: Vec<Card> = Vec::new();
    for (record, folder) in records.iter().zip(folders(records)) {
        if cards.iter().any(|card| card.name == record.tokenizer) {
            continue;
        }
        let cell = out.join("cells").join(folder);
        cards.extend(card(&record.tokenizer, &cell));
    }
    cards
}

fn card(name: &str, cell: &Path) -> Option<Card> {
    let mut table = Table::load(cell).ok()?;
    let classes = table.num_classes;
    let card = Card::of_counts(name, classes, |take| {
        table.each_row(|code, row| {
            take(code, row);
            Ok(())
        })
    });
    let bytes = |name: &str| fs::read(cell.join(name)).unwrap_or_default();
    Some(Card {
        gallery: serde_json::from_slice(&bytes(gallery::ABOUT)).ok(),
        codebook: bytes(fit::PICTURE),
        picture: bytes(gallery::PICTURE),
        maps: bytes(gallery::MAPS_PICTURE),
        ..card.ok()?
    })
}
