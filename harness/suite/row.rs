//! Rows of a suite: one tokenizer configuration each, after sweeps and overrides.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tessera_models::checkpoint;
use tessera_models::files::is_absent;
use tessera_models::vit::VitConfig;
use tessera_tokenizers::{BuildContext, Config, ConfigError, Needs, Programs, Registry, Scale};

use super::defaults;
use super::error::SuiteError;
use super::expand::{self, MOST_ROWS};
use super::file::{Baseline, SuiteFile};
use super::names;
use super::recipe::{Knn, Recipes, check_beside_checkpoint};

/// Name of the row with a random encoder.
pub(super) const NO_PRETRAINING: &str = "No pretraining";

/// Kind of an entry without a tokenizer, which evaluates a checkpoint.
pub const NO_TOKENIZER: &str = "none";

/// One entry of `tokenizers:` as the user writes it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the row; `{key}` is replaced by a swept value.
    pub name: String,
    /// Kind of tokenizer, see `bench list tokenizers`; `none` for a checkpoint that was pretrained elsewhere.
    pub kind: String,
    /// Fields of the tokenizer.
    #[serde(default)]
    pub with: Value,
    /// Lists of values for fields of `with` (dotted paths). Several keys give their product.
    #[serde(default)]
    pub sweep: Map<String, Value>,
    /// Skip the row with a note if a file that it needs does not exist.
    #[serde(default)]
    pub optional: bool,
    /// Recipe fields that differ for this row; the report adds a footnote.
    #[serde(rename = "override", default)]
    pub overrides: Map<String, Value>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name in the tables, unique in the suite.
    pub name: String,
    /// Kind of tokenizer and its fields; `None` for the row without pretraining, and for a checkpoint alone.
    pub tokenizer: Option<(String, Config)>,
    /// The model, if it was pretrained elsewhere.
    pub checkpoint: Option<PathBuf>,
    /// Whether the checkpoint has a linear classifier, once it is known.
    has_classifier: OnceLock<bool>,
    /// Whether the row is skipped if a file does not exist.
    pub optional: bool,
    /// Recipes after `override:`.
    pub recipes: Recipes,
    /// Why the row is skipped.
    pub skip: Option<String>,
    /// Rows whose encoder its tokenizer uses; known after the check.
    pub after: BTreeSet<String>,
    /// The download that the check of the row needs; then `skip` is set too.
    pub download: Option<String>,
    /// Whether this call only looks its results up, for a run folder that has them. If its check fails, it is skipped.
    pub kept: bool,
    /// Entry of the suite file, for errors.
    pub(super) entry: Config,
    written: Map<String, Value>,
}

impl Row {
    /// Returns the kind of tokenizer; `none` if the row has none.
    pub fn kind(&self) -> &str {
        self.tokenizer
            .as_ref()
            .map_or(NO_TOKENIZER, |(kind, _)| kind)
    }

    /// Returns why the row was not checked: it is skipped, or needs a download first.
    pub fn left_out(&self) -> Option<String> {
        match (&self.download, &self.skip) {
            (Some(download), _) => Some(format!("not checked: {download}")),
            (None, skip) => skip.as_ref().map(|reason| format!("skipped: {reason}")),
        }
    }

    /// Returns whether Tessera pretrains its model.
    pub fn is_pretrained(&self) -> bool {
        self.checkpoint.is_none() && self.tokenizer.is_some() && self.recipes.pretrain.is_some()
    }

    /// Returns the prefix of the encoder to use in its checkpoint.
    pub fn checkpoint_prefix(&self) -> Option<&str> {
        self.recipes.pretrain.as_ref()?.checkpoint_prefix.as_deref()
    }

    /// Returns the scaling of the images on which its checkpoint was trained; `None` for ImageNet's.
    pub fn checkpoint_scale(&self) -> Option<Scale> {
        self.recipes.pretrain.as_ref()?.checkpoint_scale
    }

    /// Returns whether labels were used for its checkpoint: what the suite says, or what the file shows.
    pub fn encoder_saw_labels(&self) -> bool {
        let recipe = self.recipes.pretrain.as_ref();
        let said = recipe.and_then(|pretrain| pretrain.checkpoint_saw_labels);
        // A file that cannot be read is refused where its encoder is imported.
        let shown = |path: &PathBuf| {
            let has = || checkpoint::has_classifier(path, self.checkpoint_prefix());
            *self
                .has_classifier
                .get_or_init(|| has().unwrap_or_default())
        };
        said.unwrap_or_else(|| self.checkpoint.as_ref().is_some_and(shown))
    }

    /// Returns the side in pixels at which its tokenizer's fields request images.
    pub(super) fn render_side(&self, registry: &Registry) -> Option<usize> {
        let (kind, with) = self.tokenizer.as_ref()?;
        let factory = registry.tokenizer(kind, with).ok()?;
        factory.render_side(with, registry).ok()?
    }

    /// Returns the row as an entry without sweep, for the resolved suite.
    pub(super) fn resolved(&self) -> Option<Value> {
        let mut entry = json!({"name": self.name, "kind": self.kind()});
        match &self.tokenizer {
            Some((_, with)) => entry["with"] = with.value().clone(),
            None if self.checkpoint.is_none() => return None,
            None => (),
        }
        if self.optional {
            entry["optional"] = json!(true);
        }
        if !self.written.is_empty() {
            entry["override"] = Value::Object(self.written.clone());
        }
        Some(entry)
    }

    /// Checks the fields with the factory; records why an optional row is skipped.
    pub(super) fn check(&mut self, cx: &BuildContext<'_>) -> Result<(), SuiteError> {
        if let Some(path) = self.checkpoint.as_ref().filter(|path| is_absent(path)) {
            let message = format!("{} does not exist", path.display());
            if self.optional {
                self.skip = Some(message);
            } else {
                let remedy = "write the path of a ViT's .safetensors or .pth, or `optional: true`";
                let message = format!("{message}; {remedy}");
                return Err(self
                    .entry
                    .error("override.pretrain.checkpoint", message)
                    .into());
            }
        }
        let (Some((kind, with)), None) = (&self.tokenizer, &self.skip) else {
            return Ok(());
        };
        let factory = cx.registry.tokenizer(kind, &self.entry)?;
        if cx.programs == Programs::Refuse && factory.starts_programs() {
            let message = format!(
                "found `{kind}`, which starts a program, but --no-programs refuses it; leave that option out if you trust the suite, or \
                 select other rows with --only"
            );
            return Err(self.entry.error("kind", message).into());
        }
        if self.recipes.bag_of_tokens.is_some() && !factory.has_val(with) {
            let message = format!(
                "row {:?}: missing, expected the ids of the val split too, because `bag_of_tokens` is scored on it; write them, or \
                 leave `bag_of_tokens` out",
                self.name
            );
            return Err(with.error("val", message).into());
        }
        match factory.validate(with, cx) {
            Ok(()) => Ok(()),
            Err(tessera_tokenizers::Error::Missing { at, remedy }) if self.optional => {
                self.skip = Some(format!("{}; {remedy}", at.message));
                Ok(())
            }
            Err(tessera_tokenizers::Error::NotFetched { at }) => {
                self.skip = Some(at.message.clone());
                self.download = Some(at.message);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Checks the fields with the factory again.
    pub(super) fn recheck(&self, cx: &BuildContext<'_>) -> Result<(), SuiteError> {
        let Some((kind, with)) = &self.tokenizer else {
            return Ok(());
        };
        Ok(cx
            .registry
            .tokenizer(kind, &self.entry)?
            .validate(with, cx)?)
    }

    /// Checks that `train` images suffice for k-NN and for more than a step of rate 0.
    pub(super) fn check_train_size(&self, train: usize) -> Result<(), ConfigError> {
        if let Some((field, message)) = self.recipes.without_rate(train, self.is_pretrained()) {
            return Err(self.recipe_error(field, format!("row {:?}: {message}", self.name)));
        }
        match &self.recipes.knn {
            Some(Knn { k, .. }) if *k > train => {
                let message = format!(
                    "row {:?}: k is {k}, the train split has {train} images; lower it",
                    self.name
                );
                Err(self.recipe_error("knn.k", message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a choice among several rates or strengths, for which no image can be held out.
    pub(super) fn check_held_out(&self) -> Result<(), ConfigError> {
        let recipes = &self.recipes;
        let several = [
            (
                "linear_probe.base_lr",
                recipes.linear_probe.as_ref().map(|probe| &probe.base_lr),
            ),
            (
                "attentive_probe.base_lr",
                recipes.attentive_probe.as_ref().map(|probe| &probe.base_lr),
            ),
            (
                "bag_of_tokens.l2",
                recipes.bag_of_tokens.as_ref().map(|bag| &bag.l2),
            ),
        ];
        let several = several
            .into_iter()
            .find(|(_, rates)| rates.is_some_and(|rates| rates.all().len() > 1));
        let Some((field, _)) = several else {
            return Ok(());
        };
        let message = format!(
            "row {:?}: found several numbers, and train images are held out to choose one, but no class has two train images; expected one \
             number",
            self.name
        );
        Err(self.recipe_error(field, message))
    }

    /// Returns an error about a field of a recipe, where it is written: in the row's `override`, or in the suite.
    fn recipe_error(&self, field: &str, message: String) -> ConfigError {
        let written = json!(self.written);
        let own = field.split('.').try_fold(&written, |at, key| at.get(key));
        match own.is_some() {
            true => self.entry.error(&format!("override.{field}"), message),
            false => self.entry.at(Value::Null, "").error(field, message),
        }
    }

    /// Checks what only training needs.
    pub(super) fn check_training(
        &self,
        registry: &Registry,
        vit: Option<&VitConfig>,
    ) -> Result<(), SuiteError> {
        if let (Some(path), Some(vit)) = (&self.checkpoint, vit) {
            let scale = self.checkpoint_scale().map_or(Ok(()), Scale::check);
            scale.map_err(|message| {
                self.entry
                    .error("override.pretrain.checkpoint_scale", message)
            })?;
            return match checkpoint::import(path, vit, self.checkpoint_prefix()) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let field = "override.pretrain.checkpoint";
                    Err(self.entry.error(field, error.to_string()).into())
                }
            };
        }
        let (Some((kind, _)), Some(pretrain)) = (&self.tokenizer, &self.recipes.pretrain) else {
            return Ok(());
        };
        let factory = registry.tokenizer(kind, &self.entry)?;
        if factory.needs() == Needs::SampleIds && pretrain.augment.is_random_crop() {
            let message = format!(
                "row {:?} ({kind}) has ids of the evaluation view only, so it cannot be trained on random crops; write \
                 `pretrain: {{augment: fixed-view}}` (for all rows), or use `bench score`",
                self.name
            );
            return Err(self.entry.error("", message).into());
        }
        Ok(())
    }
}

/// Removes `tokenizers` from the top level, so that variables are expanded per entry.
pub(super) fn take_entries(top: &mut Value) -> Value {
    match top {
        Value::Object(map) => map.shift_remove("tokenizers").unwrap_or(Value::Null),
        _ => Value::Null,
    }
}

/// Returns all rows: the baselines, then those of every entry.
pub(super) fn rows(
    entries: &Value,
    file: &SuiteFile,
    top: &Config,
    registry: &Registry,
) -> Result<Vec<Row>, SuiteError> {
    let Value::Array(list) = entries else {
        let found = tessera_tokenizers::config::kind_of(entries);
        return Err(top
            .error(
                "tokenizers",
                format!("expected a list of `{{name, kind, with}}`, found {found}"),
            )
            .into());
    };
    let mut rows: Vec<Row> = file
        .baselines
        .iter()
        .map(|b| baseline(*b, file, top))
        .collect();
    let mut wrong = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = top.at(value.clone(), format!("tokenizers[{index}]"));
        wrong.extend(entry_rows(&at, file, registry, &mut rows).err());
    }
    SuiteError::of_rows(wrong)?;
    let (count, seeds) = (rows.len(), file.seeds.len());
    let fits = file.fit_seeds().map_or(1, |fits| fits.len());
    let message = match count {
        0 => "expected at least one entry".into(),
        1.. if count > MOST_ROWS => format!("found {count} rows, expected at most {MOST_ROWS}"),
        1.. if count * seeds > MOST_CELLS => format!(
            "found {count} rows and {seeds} seeds, expected at most {MOST_CELLS} of both together"
        ),
        1.. if count * fits > MOST_CELLS => format!(
            "found {count} rows and {fits} fit seeds, expected at most {MOST_CELLS} of both together"
        ),
        _ => return Ok(rows),
    };
    Err(top.error("tokenizers", message).into())
}

/// Maximum number of rows and seeds; the graph of stages compares all pairs.
const MOST_CELLS: usize = 4000;

fn baseline(baseline: Baseline, file: &SuiteFile, top: &Config) -> Row {
    let Baseline::NoPretraining = baseline;
    let mut recipes = file.recipes();
    if let Some(fine_tune) = &mut recipes.fine_tune {
        // With layer decay, the first layers of a random encoder hardly train.
        fine_tune.layer_decay = 1.0;
        fine_tune.base_lr = fine_tune.from_scratch_base_lr.unwrap_or(fine_tune.base_lr);
    }
    Row {
        name: NO_PRETRAINING.into(),
        tokenizer: None,
        checkpoint: None,
        has_classifier: OnceLock::new(),
        optional: false,
        recipes,
        skip: None,
        after: BTreeSet::new(),
        download: None,
        kept: false,
        entry: top.nested("baselines"),
        written: Map::new(),
    }
}

fn entry_rows(
    at: &Config,
    file: &SuiteFile,
    registry: &Registry,
    rows: &mut Vec<Row>,
) -> Result<(), SuiteError> {
    let entry: Entry = at.parse()?;
    let is_tokenizer = entry.kind != NO_TOKENIZER;
    if is_tokenizer {
        registry.tokenizer(&entry.kind, at)?;
    }
    let (expanded, skip) = match expand::env(at) {
        Ok(value) => (value, None),
        Err(error) if entry.optional => (at.value().clone(), Some(error.message)),
        Err(error) => return Err(error.into()),
    };
    let entry: Entry = at.with_value(expanded).parse()?;
    let with = match entry.with {
        Value::Null => json!({}),
        with => with,
    };
    let mut written = entry.overrides;
    let recipes = overridden(&mut written, file, at)?;
    let checkpoint = recipes
        .pretrain
        .as_ref()
        .and_then(|p| p.checkpoint.as_ref());
    let checkpoint = checkpoint.map(|path| at.resolve_path(path));
    if !is_tokenizer && checkpoint.is_none() {
        let message = "`none` is for a model that was pretrained elsewhere; write its path under \
            `override: {pretrain: {checkpoint: FILE}}`, or write a tokenizer's kind (`bench list tokenizers`)";
        return Err(at.error("kind", message).into());
    }
    let swept = expand::sweep(&entry.name, &with, &entry.sweep)
        .map_err(|(field, message)| at.error(&field, message))?;
    for (name, with) in swept {
        let others = rows.iter().map(|row| row.name.as_str());
        names::check_new(&name, others).map_err(|message| at.error("name", message))?;
        rows.push(Row {
            name,
            tokenizer: is_tokenizer.then(|| (entry.kind.clone(), at.at(with, at.field("with")))),
            checkpoint: checkpoint.clone(),
            has_classifier: OnceLock::new(),
            optional: entry.optional,
            recipes: recipes.clone(),
            skip: skip.clone(),
            after: BTreeSet::new(),
            download: None,
            kept: false,
            entry: at.clone(),
            written: written.clone(),
        });
    }
    Ok(())
}

/// Returns the suite's recipes with `override:` merged in. Adds a warm-up that follows from the epochs of the row to its overrides, because the
/// resolved suite states the one of the suite.
fn overridden(
    overrides: &mut Map<String, Value>,
    file: &SuiteFile,
    at: &Config,
) -> Result<Recipes, ConfigError> {
    let mut value = json!(file.recipes());
    for (section, fields) in overrides {
        let field = format!("override.{section}");
        let Value::Object(fields) = fields else {
            return Err(at.error(&field, "expected a mapping of recipe fields"));
        };
        if !matches!(value.get(section), Some(Value::Object(_))) {
            return Err(at.error(&field, "the suite has no such recipe; expected one of pretrain, knn, linear_probe, attentive_probe, fine_tune, bag_of_tokens that the suite defines"));
        }
        if section == "fine_tune" && fields.contains_key("from_scratch_base_lr") {
            return Err(at.error(
                &format!("{field}.from_scratch_base_lr"),
                "has no effect on this row, because it is the rate of `No pretraining`; write it in the suite's `fine_tune`, or `base_lr` here",
            ));
        }
        if section == "pretrain" && value[section]["checkpoint"].is_string() {
            check_beside_checkpoint(fields, at, &field)?;
        }
        if section == "pretrain" && fields.contains_key("checkpoint") {
            check_beside_checkpoint(fields, at, &field)?;
            // Another file has other prefixes and another training.
            value[section]["checkpoint_prefix"] = Value::Null;
            value[section]["checkpoint_saw_labels"] = Value::Null;
            value[section]["checkpoint_scale"] = Value::Null;
        }
        for (key, new) in fields.iter() {
            if section == "pretrain" && key == "augment" {
                return Err(at.error(
                    &field,
                    "`augment` cannot differ between rows, because all rows must train on the same crops; leave it out",
                ));
            }
            value[section][key] = new.clone();
        }
        // A warm-up that follows from the epochs follows from those of the row.
        let stated = fields.contains_key("warmup_epochs");
        let follows = !stated && file.warmed.contains(&section.as_str());
        let epochs = fields.get("epochs").and_then(Value::as_f64);
        if let Some(epochs) = epochs.filter(|_| follows) {
            let warmup = json!(defaults::warmup(section, epochs));
            value[section]["warmup_epochs"] = warmup.clone();
            fields.insert("warmup_epochs".into(), warmup);
        }
    }
    let merged = at.at(value, at.field("override"));
    let recipes: Recipes = merged.parse()?;
    recipes.check(&merged, file.vit())?;
    Ok(recipes)
}
