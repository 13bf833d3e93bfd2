//! What two records of a name state about their row, and where they differ.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::columns::Record;
use crate::evaluations::is_trained;

/// What tells rows of one name apart: suite, recipe, images, what the tokenizer and the encoder are made from, how their numbers are computed, and
/// the status, because tables take a row that one run has not finished from another.
pub type RowId = [String; 11];

impl Record {
    /// Returns what tells rows of one name apart.
    pub fn row_id(&self) -> RowId {
        let all = [
            &self.suite,
            &self.tokenizer,
            &self.recipe_hash,
            &self.dataset_fingerprint,
            &self.fields,
            &self.tokenizer_digest,
            &self.encoder_digest,
            &self.engine,
            &self.dtype,
            &self.fit_seeds,
            &self.status,
        ];
        all.map(String::clone)
    }
}

/// A fact that two records state differently.
pub struct Difference {
    /// A column, or a field of the tokenizer: `with.k`.
    pub field: String,
    /// What the older, or first, record states.
    pub old: String,
    pub new: String,
}

impl Difference {
    /// Returns it as text about the row `name`.
    pub fn text(&self, name: &str) -> String {
        let Self { field, old, new } = self;
        format!("{name}: {field} was {old}, is {new}")
    }
}

/// Lists where two records differ that are not of one row: in settings, tokenizer, or how the numbers were computed. Records of one row and several seeds
/// do not.
pub fn rows_differ(a: &Record, b: &Record) -> Vec<Difference> {
    let mut all = differences(a, b);
    all.extend(otherwise(a, b));
    all
}

/// Lists the settings that differ but must be equal for numbers to be comparable.
pub fn differences(old: &Record, new: &Record) -> Vec<Difference> {
    // Images that are known to be equal may lie in a folder of another name.
    let same_images = !old.dataset_fingerprint.is_empty() && old.has_images_of(new);
    let facts = |r: &Record| {
        let dataset = if same_images { "" } else { &r.dataset };
        [
            ("dataset", dataset.to_owned()),
            ("class_list_hash", r.class_list_hash.clone()),
            ("n_train", r.n_train.to_string()),
            ("n_val", r.n_val.to_string()),
            ("recipe_hash", r.recipe_hash.clone()),
        ]
    };
    // Empty in older files, in records without a result, and without codes.
    let known = |r: &Record| {
        [
            ("dataset_fingerprint", r.dataset_fingerprint.clone()),
            ("kind", r.kind.clone()),
            ("codebook_size", shown(r.codebook_size)),
            ("code_groups", numbers(&r.code_groups)),
            ("kmeans_epochs", shown(r.kmeans_epochs)),
            ("tcas_sharp_t", shown(r.tcas_sharp_t)),
        ]
    };
    let mut all = differing(facts(old), facts(new));
    all.extend(known_and_differing(known(old), known(new)));
    all.extend(known_and_differing(seeds(old), seeds(new)));
    all
}

/// Lists what differs in the tokenizer's fields and files and in how the numbers were computed, and images that only one run knows. The
/// errors of the metrics judge it.
pub fn otherwise(old: &Record, new: &Record) -> Vec<Difference> {
    let known = |r: &Record, other: &Record| {
        let dtype = r.dtype.as_str();
        [
            ("engine", r.engine.clone()),
            // Older files state it for rows of which nothing was trained.
            ("dtype", if is_trained(r) { dtype } else { "" }.to_owned()),
            (
                "encoder_checkpoint",
                as_in(&other.encoder_checkpoint, &r.encoder_checkpoint),
            ),
            ("encoder_digest", r.encoder_digest.clone()),
            (
                "features_checkpoint",
                as_in(&other.features_checkpoint, &r.features_checkpoint),
            ),
        ]
    };
    let mut all = tokenizer(old, new);
    all.extend(known_and_differing(known(old, new), known(new, old)));
    let images = |r: &Record| [("dataset_fingerprint", r.dataset_fingerprint.clone())];
    if !old.has_images_of(new) && known_and_differing(images(old), images(new)).is_empty() {
        let unknown = |r: &Record| match r.dataset_fingerprint.as_str() {
            "" => UNKNOWN.to_owned(),
            known => known.to_owned(),
        };
        all.push(Difference {
            field: "dataset_fingerprint".into(),
            old: unknown(old),
            new: unknown(new),
        });
    }
    all
}

/// Returns what was taken of a checkpoint without the scale of its images if `other` lacks it, as older files do.
fn as_in(other: &str, taken: &str) -> String {
    const SCALE: &str = ", images scaled by ";
    match (other.contains(SCALE), taken.split_once(SCALE)) {
        (false, Some((before, _))) => before.to_owned(),
        _ => taken.to_owned(),
    }
}

/// Lists the fields of the tokenizer that differ. If none does, states the digests that differ: the content of a file has changed, or the
/// version of the algorithm. With equal digests, a field that states its default is no difference.
fn tokenizer(old: &Record, new: &Record) -> Vec<Difference> {
    let (was, is) = (&old.tokenizer_digest, &new.tokenizer_digest);
    if was == is && !is.is_empty() {
        return Vec::new();
    }
    let fields = fields(old, new);
    match fields.is_empty() {
        true => known_and_differing(
            [("tokenizer_digest", was.clone())],
            [("tokenizer_digest", is.clone())],
        ),
        false => fields,
    }
}

/// Lists the fields of the tokenizer that differ. Of a path, only the file's name counts.
fn fields(old: &Record, new: &Record) -> Vec<Difference> {
    let read = |r: &Record| -> Option<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        flatten("with", &serde_json::from_str(&r.fields).ok()?, &mut all);
        Some(all)
    };
    let (Some(old), Some(new)) = (read(old), read(new)) else {
        return Vec::new();
    };
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let said = |field: &&String| {
        let of = |all: &BTreeMap<String, String>| {
            all.get(*field).cloned().unwrap_or_else(|| "absent".into())
        };
        let (old, new) = (of(&old), of(&new));
        let file = |text: &str| text.rsplit(['/', '\\']).next().map(str::to_owned);
        let field = (*field).clone();
        (file(&old) != file(&new)).then_some(Difference { field, old, new })
    };
    names.iter().filter_map(said).collect()
}

fn flatten(at: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&format!("{at}.{key}"), value, all);
            }
        }
        Value::String(text) => _ = all.insert(at.to_owned(), text.clone()),
        other => _ = all.insert(at.to_owned(), other.to_string()),
    }
}

type Facts<const N: usize> = [(&'static str, String); N];

fn differing<const N: usize>(old: Facts<N>, new: Facts<N>) -> Vec<Difference> {
    let pairs = old.into_iter().zip(new);
    let other = pairs.filter(|((_, old), (_, new))| old != new);
    other
        .map(|((field, old), (_, new))| Difference {
            field: field.to_owned(),
            old,
            new,
        })
        .collect()
}

fn known_and_differing<const N: usize>(old: Facts<N>, new: Facts<N>) -> Vec<Difference> {
    let pairs = old.into_iter().zip(new);
    let known = pairs.filter(|((_, old), (_, new))| !old.is_empty() && !new.is_empty());
    known
        .flat_map(|(old, new)| differing([old], [new]))
        .collect()
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Returns whole numbers separated by spaces without the `.0` that pandas writes after a single one.
fn numbers(text: &str) -> String {
    let words = text.split_whitespace();
    let words = words.map(|word| word.strip_suffix(".0").unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}

/// Returns whether the fit seeds of a row, or the seed of its random codebook, are known and differ. Run folders that lack `suite.yaml` and the
/// column do not tell.
pub fn other_fits(old: &Record, new: &Record) -> bool {
    !known_and_differing(seeds(old), seeds(new)).is_empty()
}

/// Returns the fit seeds if only one of two records of fitted codebooks states them: without a word, a difference between codebooks would pass for one
/// of the tokenizer.
pub fn one_sided_fits(old: &Record, new: &Record) -> Option<Difference> {
    let [(field, was), _] = seeds(old);
    let [(_, is), _] = seeds(new);
    let told = |seeds: String| match seeds.is_empty() {
        true => UNKNOWN.to_owned(),
        false => seeds,
    };
    let alike = old.kind == new.kind && new.status == "ok";
    (alike && was.is_empty() != is.is_empty()).then(|| Difference {
        field: field.into(),
        old: told(was),
        new: told(is),
    })
}

/// What is said of a fact that a file of an older version lacks.
const UNKNOWN: &str = "unknown (an older file)";

/// Returns what decides, beside its recipe, which codebooks a row has; empty if it is unknown or there are none.
fn seeds(record: &Record) -> Facts<2> {
    // Older runs drew a random codebook once, as fit seed 0 does.
    let fits = match record.fit_seeds.is_empty() && record.is_drawn() {
        true => "0".to_owned(),
        false => numbers(&record.fit_seeds),
    };
    let own = match serde_json::from_str::<Value>(&record.fields) {
        Ok(fields) if record.is_drawn() => fields["seed"].as_u64().unwrap_or(0).to_string(),
        _ => String::new(),
    };
    [("fit_seeds", fits), ("with.seed", own)]
}
