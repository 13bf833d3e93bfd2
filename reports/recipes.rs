//! Rows whose accuracies do not compare tokenizers alone, or that are a tokenizer of another row.

use std::cmp::Reverse;

use crate::columns::Record;
use crate::seeds::names;

/// Returns the names of rows whose recipe is not the most frequent one of the rows, or the first of equally frequent ones. Rows with an
/// imported encoder do not count: the name of its file is part of their recipe.
pub fn other_recipes<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Vec<&'a str> {
    let records = records.filter(|r| !r.is_imported());
    let of = |name: &str| {
        let mut rows = records.clone();
        let row = rows.find(|r| r.tokenizer == name);
        row.map_or("", |r| r.recipe_hash.as_str())
    };
    let mut rows = names(records.clone());
    let rows_of = |recipe: &str| rows.iter().filter(|name| of(name) == recipe).count();
    let recipes = rows.iter().map(|name| of(name));
    let most = recipes.min_by_key(|recipe| Reverse(rows_of(recipe)));
    rows.retain(|name| Some(of(name)) != most);
    rows
}

/// Returns the names of rows that may not be counted beside the others: those whose tokenizer an earlier counted row has and, if `trained`,
/// those of another recipe. Of trained rows, the encoder must be the same, too.
pub fn apart<'a>(records: impl Iterator<Item = &'a Record> + Clone, trained: bool) -> Vec<&'a str> {
    let mut out = match trained {
        true => other_recipes(records.clone()),
        false => Vec::new(),
    };
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
        let of = |trained| apart(records.iter(), trained);
        assert_eq!(of(true), ["other", "again"]);
        assert_eq!(of(false), ["a", "again"], "{records:?}");
        let imported = |name: &str, encoder: &str| Record {
            encoder: "imported".into(),
            encoder_digest: encoder.into(),
            ..record(name, encoder, "1")
        };
        let encoders = [imported("a", "x"), imported("b", "y"), imported("c", "y")];
        assert_eq!(apart(encoders.iter(), true), ["c"]);
        assert_eq!(apart(encoders.iter(), false), ["b", "c"]);
        let tied = &records[..2];
        assert_eq!(other_recipes(tied.iter()), ["a"]);
    }
}
