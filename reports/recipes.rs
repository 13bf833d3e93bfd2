//! Rows whose accuracies do not compare tokenizers alone, or that are a tokenizer of another row.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::columns::Record;
use crate::evaluations::{Evaluation, PRETRAIN};

/// Recipes of the rows, as text, by row and part of the suite (`linear_probe`).
pub type Parts = BTreeMap<(String, &'static str), String>;

/// Returns whether parts tell the rows' recipes: rows with equal parts have equal recipes. Parts of a suite do not tell that of a row which
/// another call of another suite has computed.
fn are_known<'a>(parts: &Parts, records: impl Iterator<Item = &'a Record>) -> bool {
    let mut recipes: BTreeMap<Vec<(&str, &str)>, &str> = BTreeMap::new();
    let mut all = records.filter(|r| !r.is_imported());
    all.all(|record| {
        let of_row = parts
            .iter()
            .filter(|((row, _), _)| *row == record.tokenizer);
        let own = of_row.map(|((_, part), text)| (*part, text.as_str()));
        let hash = record.recipe_hash.as_str();
        *recipes.entry(own.collect()).or_insert(hash) == hash
    })
}

/// Returns what determines an evaluation of a row besides its tokenizer: pretraining, if the evaluation is of an encoder, and its own recipe.
/// If they are not known, it is the whole recipe.
fn recipe_of(record: &Record, parts: &Parts, evaluation: &Evaluation) -> String {
    let part = |part: &'static str| parts.get(&(record.tokenizer.clone(), part));
    match (
        part(PRETRAIN),
        part(evaluation.recipe),
        evaluation.of_encoder,
    ) {
        (Some(pretrain), Some(own), true) => format!("{pretrain} {own}"),
        (_, _, true) => record.recipe_hash.clone(),
        (_, own, false) => own.cloned().unwrap_or_default(),
    }
}

/// Returns the names of rows whose recipe, as `of` tells it, is not the most frequent one of the rows, or the first of equally frequent ones.
/// Rows with an imported encoder do not count: the name of its file is part of their recipe.
pub fn other_recipes<'a>(
    records: impl Iterator<Item = &'a Record>,
    of: impl Fn(&Record) -> String,
) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let firsts = records.filter(|r| !r.is_imported() && seen.insert(r.tokenizer.as_str()));
    let mut rows: Vec<(&str, String)> = firsts.map(|r| (r.tokenizer.as_str(), of(r))).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, recipe) in &rows {
        *counts.entry(recipe.clone()).or_default() += 1;
    }
    let recipes = rows.iter().map(|(_, recipe)| recipe.clone());
    let most = recipes.min_by_key(|recipe| Reverse(counts[recipe]));
    rows.retain(|(_, recipe)| Some(recipe) != most.as_ref());
    rows.into_iter().map(|(name, _)| name).collect()
}

/// Returns the names of rows that may not be counted beside the others in an evaluation: those of another recipe, and those whose tokenizer
/// an earlier counted row has. Of an evaluation of encoders, the encoder must be the same, too.
pub fn apart<'a>(
    records: impl Iterator<Item = &'a Record> + Clone,
    parts: &Parts,
    evaluation: &Evaluation,
) -> Vec<&'a str> {
    let trained = evaluation.of_encoder;
    let unknown = Parts::new();
    let parts = match are_known(parts, records.clone()) {
        true => parts,
        false => &unknown,
    };
    let mut out = other_recipes(records.clone(), |r| recipe_of(r, parts, evaluation));
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for record in records {
        let name = record.tokenizer.as_str();
        let encoder = match trained {
            true => record.encoder_digest.as_str(),
            false => "",
        };
        let made_from = (record.tokenizer_digest.as_str(), encoder);
        let same = |(other, tokenizer, encoder): &(&str, &str, &str)| {
            *other != name && (*tokenizer, *encoder) == made_from
        };
        // Older files do not know digests.
        if made_from.0.is_empty() || out.contains(&name) {
            continue;
        }
        match seen.iter().any(same) {
            true => out.push(name),
            false => seen.push((name, made_from.0, made_from.1)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluations::EVALUATIONS;

    fn record(name: &str, recipe: &str, digest: &str) -> Record {
        Record {
            tokenizer: name.into(),
            recipe_hash: recipe.into(),
            tokenizer_digest: digest.into(),
            ..Record::default()
        }
    }

    #[test]
    fn another_recipe_and_a_repeated_tokenizer_are_apart() {
        let records = [
            record("other", "y", "1"),
            record("a", "x", "1"),
            record("a", "x", "1"),
            record("again", "x", "1"),
            record("b", "x", "2"),
            record("old", "x", ""),
            record("older", "x", ""),
        ];
        let evaluation = |key: &str| EVALUATIONS.iter().find(|e| e.key == key).unwrap();
        let (lp, bag) = (evaluation("lp"), evaluation("bag"));
        let of = |evaluation| apart(records.iter(), &Parts::new(), evaluation);
        assert_eq!(of(lp), ["other", "again"]);
        assert_eq!(of(bag), ["a", "again"], "{records:?}");
        let imported = |name: &str, encoder: &str| Record {
            encoder: "imported".into(),
            encoder_digest: encoder.into(),
            ..record(name, encoder, "1")
        };
        let encoders = [imported("a", "x"), imported("b", "y"), imported("c", "y")];
        assert_eq!(apart(encoders.iter(), &Parts::new(), lp), ["c"]);
        assert_eq!(apart(encoders.iter(), &Parts::new(), bag), ["b", "c"]);
        let tied = records[..2].iter();
        assert_eq!(other_recipes(tied, |r| r.recipe_hash.clone()), ["a"]);
    }

    /// A row that overrides fine-tuning alone was left out of the correlation with linear probing.
    #[test]
    fn an_evaluation_depends_on_pretraining_and_on_its_own_recipe() {
        let rows = [
            ("a", 1, 5, 7),
            ("b", 1, 5, 8),
            ("c", 1, 6, 7),
            ("d", 2, 5, 7),
            ("e", 1, 5, 7),
        ];
        let records = rows.map(|(name, ..)| record(name, name, name));
        let parts = rows.iter().flat_map(|(name, pretrain, probe, tune)| {
            let all = [
                (PRETRAIN, pretrain),
                ("linear_probe", probe),
                ("fine_tune", tune),
            ];
            all.map(|(part, of)| (((*name).to_owned(), part), of.to_string()))
        });
        let parts: Parts = parts.collect();
        let apart = |records: &[Record], at: usize| {
            let names = apart(records.iter(), &parts, &EVALUATIONS[at]);
            names.join(" ")
        };
        assert_eq!([0, 1].map(|at| apart(&records[..4], at)), ["c d", "b d"]);
        // The last row has another recipe than the suite gives it: it is of an earlier call.
        assert_eq!(apart(&records, 0), "b c d e");
    }
}
