//! The columns of `results.csv` that say what a row is made from.

use serde_json::{Value, json};
use tessera_reports::Record;
use tessera_tokenizers::Fingerprint;

use crate::stages::common::context::Context;
use crate::stages::common::stage::{Done, Product};
use crate::store::{Entry, canonical};
use crate::suite::Row;

/// Enters the digest of what a tokenizer or an imported encoder is made from.
pub(super) fn enter(record: &mut Record, done: &Done<'_>) -> anyhow::Result<()> {
    let input = |field: &str| -> anyhow::Result<String> {
        let inputs = done.entry.as_ref().map(Entry::inputs).transpose()?;
        let digest = inputs.as_ref().and_then(|inputs| inputs[field].as_str());
        Ok(short(digest.unwrap_or_default()))
    };
    match &done.product {
        // A learned codebook varies with the machine; what it is fitted with does not.
        Product::Tokenizer(_) if done.entry.is_some() => {
            record.tokenizer_digest = input("inputs")?;
        }
        Product::Tokenizer(tokenizer) => {
            record.tokenizer_digest = short(&tokenizer.fingerprint().0);
        }
        Product::Encoder(_) => record.encoder_digest = input("file")?,
        _ => (),
    }
    Ok(())
}

/// Returns the fields of a row's tokenizer in a suite that is resolved, as JSON; empty for a row without one.
pub(super) fn fields(suite: &Value, row: &Row) -> String {
    let mut rows = suite["tokenizers"].as_array().into_iter().flatten();
    let of_row = rows.find(|entry| entry["name"] == *row.name);
    let with = of_row.and_then(|entry| entry.get("with"));
    with.map(canonical).unwrap_or_default()
}

/// Returns the first 16 digits of a digest.
fn short(digest: &str) -> String {
    digest.chars().take(16).collect()
}

/// Returns a digest of everything except tokenizer, images, seed and precision, 16 hex digits. Equal digests and precisions mean comparable
/// accuracies.
pub(super) fn recipe_hash(cx: &Context<'_>, row: &Row) -> String {
    let file = &cx.suite.file;
    let mut recipe = json!({
        "recipes": row.recipes,
        "backbone": file.backbone,
        "image_size": file.image_size,
        "patch_size": file.patch_size,
        "eval_transform": file.eval_transform,
    });
    // A statement about a checkpoint, which changes no number.
    if let Some(pretrain) = recipe["recipes"]["pretrain"].as_object_mut() {
        pretrain.remove("checkpoint_saw_labels");
    }
    // It changes memory and time, but no number.
    for part in ["pretrain", "fine_tune"] {
        if let Some(part) = recipe["recipes"][part].as_object_mut() {
            part.remove("gradient_checkpointing");
        }
    }
    // Decoding at a reduced size depends on the largest side that any row reads.
    if let Some(side) = cx.suite.finest {
        recipe["fast_decode"] = json!(side);
    }
    short(&Fingerprint::of(&[canonical(&recipe).as_bytes()]).0)
}
