//! What fields of recipes need of other fields and of the model. The schema has the ranges of single fields.

use tessera_models::vit::{Layer, VitConfig};

use super::choices::{Augment, train_scale};
use super::rates::Rates;
use super::recipe::{FineTune, Pretrain, Recipes, pretrain_scale};

/// A field, whether its value agrees with other fields, and what is expected. The schema has the ranges.
pub(super) type Rule = (&'static str, bool, &'static str);

impl Recipes {
    /// Returns the rules of recipes for the model `vit`.
    pub(super) fn rules(&self, vit: Option<VitConfig>) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        if let Some(pretrain) = &self.pretrain {
            rules.extend(of_pretrain(pretrain, vit));
        }
        if let Some(probe) = &self.linear_probe {
            rules.extend(rates("linear_probe.base_lr", &probe.base_lr));
            let crops = (probe.augment, probe.crop_scale);
            rules.extend(scale("linear_probe.crop_scale", crops, train_scale()));
            rules.extend([
                (
                    "linear_probe.base_lr",
                    probe.base_lr.are_valid(),
                    Rates::EXPECTED,
                ),
                warmup(
                    "linear_probe.warmup_epochs",
                    probe.warmup_epochs,
                    probe.epochs,
                ),
            ]);
        }
        if let Some(probe) = &self.attentive_probe {
            rules.extend(rates("attentive_probe.base_lr", &probe.base_lr));
            let crops = (probe.augment, probe.crop_scale);
            rules.extend(scale("attentive_probe.crop_scale", crops, train_scale()));
            let (valid, epochs) = (probe.base_lr.are_valid(), probe.epochs);
            rules.extend([
                ("attentive_probe.base_lr", valid, Rates::EXPECTED),
                warmup("attentive_probe.warmup_epochs", probe.warmup_epochs, epochs),
                (
                    "attentive_probe.queries",
                    probe.queries_fit(vit.map(|vit| vit.preset.width)),
                    "a divisor of the backbone's width (`bench list backbones`), and none with `form: single-query`",
                ),
            ]);
        }
        if let Some(bag) = &self.bag_of_tokens {
            let expected = Rates::EXPECTED;
            rules.push(("bag_of_tokens.l2", bag.l2.are_valid(), expected));
        }
        if let Some(tune) = &self.fine_tune {
            let crops = (tune.augment, tune.crop_scale);
            rules.extend(scale("fine_tune.crop_scale", crops, train_scale()));
            rules.extend(of_fine_tune(tune, vit));
        }
        rules
    }

    /// Returns the rules of the layers that are read. An unknown model is refused elsewhere.
    pub(super) fn layers(&self, vit: Option<VitConfig>) -> Vec<Rule> {
        let all = [
            ("knn.layer", self.knn.as_ref().map(|knn| knn.layer)),
            (
                "linear_probe.layer",
                self.linear_probe.as_ref().map(|probe| probe.layer),
            ),
            (
                "attentive_probe.layer",
                self.attentive_probe.as_ref().map(|probe| probe.layer),
            ),
        ];
        let fits = |layer: Layer| vit.is_none_or(|vit| layer.fits(vit.preset.depth));
        let rule =
            |(field, layer): (_, Option<Layer>)| Some((field, fits(layer?), Layer::EXPECTED));
        all.into_iter().filter_map(rule).collect()
    }
}

fn of_pretrain(pretrain: &Pretrain, vit: Option<VitConfig>) -> Vec<Rule> {
    let about = [
        (
            "pretrain.checkpoint_prefix",
            pretrain.checkpoint_prefix.is_some(),
        ),
        (
            "pretrain.checkpoint_saw_labels",
            pretrain.checkpoint_saw_labels.is_some(),
        ),
        (
            "pretrain.checkpoint_scale",
            pretrain.checkpoint_scale.is_some(),
        ),
    ];
    let has = pretrain.checkpoint.is_some();
    let about = about.map(|(field, is)| (field, !is || has, "`checkpoint` beside it"));
    let masks = |vit: VitConfig| {
        let patches = vit.num_patches();
        // As MAE rounds.
        let visible = (patches as f64 * (1.0 - pretrain.mask_ratio)) as usize;
        has || (1..patches).contains(&visible)
    };
    let own = [
        rate("pretrain.base_lr", pretrain.base_lr),
        (
            "pretrain.mask_ratio",
            vit.is_none_or(masks),
            "a ratio that masks some patches of an image and leaves some visible",
        ),
        warmup(
            "pretrain.warmup_epochs",
            pretrain.warmup_epochs,
            pretrain.epochs,
        ),
    ];
    let crops = (pretrain.augment, pretrain.crop_scale);
    let crops = scale("pretrain.crop_scale", crops, pretrain_scale());
    about.into_iter().chain(own).chain(crops).collect()
}

fn of_fine_tune(tune: &FineTune, vit: Option<VitConfig>) -> [Rule; 5] {
    let from_scratch = tune.from_scratch_base_lr.unwrap_or(tune.base_lr);
    let at_batch = |base_lr: f64| base_lr * tune.batch as f64 / 256.0;
    let least = at_batch(tune.base_lr.min(from_scratch));
    let depth = vit.map_or(0, |vit| vit.preset.depth as i32);
    let lowest = at_batch(tune.base_lr) * tune.layer_decay.powi(depth + 1);
    [
        rate("fine_tune.base_lr", tune.base_lr),
        rate("fine_tune.from_scratch_base_lr", from_scratch),
        warmup("fine_tune.warmup_epochs", tune.warmup_epochs, tune.epochs),
        (
            "fine_tune.min_lr",
            tune.min_lr <= least,
            "at most the rate from which it decays, `base_lr` (or `from_scratch_base_lr`) times `batch` / 256",
        ),
        (
            "fine_tune.layer_decay",
            lowest >= LEAST,
            "a factor with which the rate of the patch embedding, `base_lr` times `batch` / 256 times the factor to the power of the depth + 1, is \
             at least 1e-12, because smaller steps change no weight in f32",
        ),
    ]
}

/// AdamW moves a number by about the rate, and f32 weights of 0.02 are 2e-9 apart.
const LEAST: f64 = 1e-12;

fn rate(field: &'static str, rate: f64) -> Rule {
    let expected = "at least 1e-12, because smaller steps change no weight in f32";
    (field, rate >= LEAST, expected)
}

fn rates<'r>(field: &'static str, all: &'r Rates) -> impl Iterator<Item = Rule> + use<'r> {
    all.all().iter().map(move |one| rate(field, *one))
}

fn warmup(field: &'static str, warmup: f64, epochs: usize) -> Rule {
    let expected = "at least 0 and at most `epochs`";
    (field, warmup <= epochs as f64, expected)
}

/// Returns the rules of `crop_scale`. Only random crops read it, and another number than the `default` would give equal results other keys.
fn scale(
    field: &'static str,
    (augment, [low, high]): (Augment, [f64; 2]),
    default: [f64; 2],
) -> [Rule; 2] {
    let expected = "[smallest, largest] with 0 < smallest <= largest <= 1";
    let is_read = augment.is_random_crop() || [low, high] == default;
    [
        (field, low > 0.0 && low <= high, expected),
        (
            field,
            is_read,
            "none beside an `augment` without random crops",
        ),
    ]
}
