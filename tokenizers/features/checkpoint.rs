//! Patch features of a ViT that Tessera pretrained, or of a ViT with timm's parameter names. "ClusterMIM MAE" (Table 7) clusters them.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tessera_models::files::is_absent;
use tessera_models::vit::{self, Layer, VitConfig};
use tessera_models::{ParamStore, checkpoint, encode};

use super::Patches;
use crate::config::Config;
use crate::contract::{Facts, Features, Fingerprint, Grid};
use crate::input::Scale;
use crate::layer::layer_schema;
use crate::registry::{BuildContext, FeaturesFactory};
use crate::view::{InputSpec, View};
use crate::{Error, Result};

/// Factory of `checkpoint`.
pub struct CheckpointFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Name of another row of the suite, whose encoder of the suite's first seed is used. This row waits for that row.
    row: Option<String>,
    /// A checkpoint, instead of `row`: `encoder.safetensors` of a run, or a ViT's `.safetensors` or `.pth` with timm's parameter names
    /// (MAE, DINO, DeiT).
    file: Option<PathBuf>,
    /// Prefix of the parameter names of the encoder to use, if `file` has several: `teacher.backbone`, `state_dict_ema`.
    prefix: Option<String>,
    /// Scaling of the images on which `file` was trained. Default: `imagenet` (MAE, DINO, DeiT); many of timm's ViTs have `minus-one-one`
    /// (mean and std 0.5).
    scale: Option<Scale>,
    /// Block whose output, through the final norm, is the feature: a number from 1, or `last-N` for those of the N last blocks side by side.
    /// Default: the last block.
    #[serde(default)]
    #[schemars(schema_with = "layer_schema")]
    layer: Layer,
    /// Size of the model in `file`, see `bench list backbones`; files of a run say it themselves.
    variant: Option<String>,
    /// Whether training of `file` used labels (of any dataset); the report then adds a footnote to the row. For `row` it is known. Default:
    /// whether `file` has a linear classifier (`head.weight`, `fc.weight`, `classifier.weight`).
    saw_labels: Option<bool>,
}

impl FeaturesFactory for CheckpointFactory {
    fn kind(&self) -> &'static str {
        "checkpoint"
    }

    fn summary(&self) -> &'static str {
        "patch features of a pretrained ViT: another row's encoder (row:) or a checkpoint (file:)"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let fields: Fields = with.parse()?;
        let patches = Patches::of(with, cx)?;
        let encoder = match (&fields.row, &fields.file) {
            (Some(row), None) => of_row(with, row, &fields, cx)?,
            (None, Some(file)) => of_file(with, file, &fields, patches)?,
            (row, _) => {
                let found = if row.is_some() { "both" } else { "neither" };
                let message = format!(
                    "found {found} of `row` and `file`, expected one: the name of another row of the suite, or a checkpoint"
                );
                return Err(with.error("", message).into());
            }
        };
        Ok(Box::new(encoder))
    }
}

fn of_row(with: &Config, row: &str, fields: &Fields, cx: &BuildContext<'_>) -> Result<Checkpoint> {
    let beside = [
        ("saw_labels", fields.saw_labels.is_some()),
        ("variant", fields.variant.is_some()),
        ("prefix", fields.prefix.is_some()),
        ("scale", fields.scale.is_some()),
    ];
    if let Some((field, _)) = beside.iter().find(|(_, written)| *written) {
        let message = "means nothing beside `row`, which says it itself; leave it out";
        return Err(with.error(field, message).into());
    }
    let found = (cx.rows)(row).map_err(|message| with.error("row", message))?;
    let params = match &found.file {
        Some(file) => checkpoint::import(file, &found.vit, None)?.params,
        None => vit::encoder(&found.vit, 0)?,
    };
    Checkpoint::new(&params, (found.vit, fields.layer), found.saw_labels, with)
}

fn of_file(with: &Config, file: &Path, fields: &Fields, patches: Patches) -> Result<Checkpoint> {
    let path = with.resolve_path(file);
    if is_absent(&path) {
        return Err(Error::Missing {
            at: with.error("file", format!("{} does not exist", path.display())),
            remedy: "write the path of a ViT's .safetensors or .pth".into(),
        });
    }
    let refuse = |e: tessera_models::Error| with.error("file", e.to_string());
    let names = || vit::PRESETS.iter().map(|p| p.name).collect::<Vec<_>>();
    let preset = match &fields.variant {
        Some(name) => vit::preset(name).ok_or_else(|| {
            let names = names().join(", ");
            with.error(
                "variant",
                format!("unknown `{name}`, expected one of {names}"),
            )
        })?,
        None => checkpoint::preset(&path).map_err(refuse)?.ok_or_else(|| {
            let message = format!(
                "missing, and {} does not contain it; write one of {}",
                path.display(),
                names().join(", ")
            );
            with.error("variant", message)
        })?,
    };
    let vit = VitConfig {
        preset,
        image_size: patches.image_size,
        patch_size: patches.side(),
    };
    let imported = checkpoint::import(&path, &vit, fields.prefix.as_deref()).map_err(refuse)?;
    if let Some(scale) = fields.scale {
        let folded = scale.fold_into(&imported.params);
        folded.map_err(|message| with.error("scale", message))?;
    }
    let checkpoint = Checkpoint::new(
        &imported.params,
        (vit, fields.layer),
        fields.saw_labels.unwrap_or(imported.has_classifier),
        with,
    )?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scale = fields.scale.unwrap_or(Scale::Imagenet).to_string();
    let taken = checkpoint::taken(
        (&name, &scale),
        &imported.prefix,
        imported.resampled_from,
        &imported.left_out,
    );
    Ok(Checkpoint {
        taken: Some(taken),
        ..checkpoint
    })
}

struct Checkpoint {
    params: ParamStore,
    vit: VitConfig,
    layer: Layer,
    saw_labels: bool,
    fingerprint: Fingerprint,
    /// What of a checkpoint was taken; `None` for the encoder of a row.
    taken: Option<String>,
}

impl Checkpoint {
    fn new(
        params: &ParamStore,
        (vit, layer): (VitConfig, Layer),
        saw_labels: bool,
        with: &Config,
    ) -> Result<Self> {
        let depth = vit.preset.depth;
        if !layer.fits(depth) {
            let found = with.value()["layer"].clone();
            let message = format!("found {found}, expected {} ({depth})", Layer::EXPECTED);
            return Err(with.error("layer", message).into());
        }
        let mut about = format!("checkpoint 2 {vit:?}");
        if !layer.is_default() {
            about += &format!(" {layer:?}");
        }
        let mut parts = vec![about.into_bytes()];
        for name in params.names() {
            let values: Vec<f32> = params.get(name)?.flatten_all()?.to_vec1()?;
            parts.push(name.as_bytes().to_vec());
            parts.push(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Ok(Self {
            params: params.frozen(),
            vit,
            layer,
            saw_labels,
            fingerprint: Fingerprint::of(&parts),
            taken: None,
        })
    }
}

impl Features for Checkpoint {
    fn grid(&self) -> Grid {
        let side = self.vit.grid();
        Grid {
            rows: side,
            cols: side,
        }
    }

    fn dim(&self) -> usize {
        self.layer.width(self.vit.preset.width)
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let images = view.render(&InputSpec::imagenet(self.vit.image_size))?;
        // Image by image, because a product's sums may depend on its number of rows, and a value must not depend on the batch.
        let each = (0..view.batch()).into_par_iter().map(|at| {
            let image = images.narrow(0, at, 1)?;
            Ok(encode::patches(
                &self.params,
                &self.vit,
                self.layer,
                &image,
            )?)
        });
        Ok(Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: self.saw_labels,
            model: self
                .taken
                .as_ref()
                .map(|taken| json!({Facts::CHECKPOINT: taken})),
            ..Facts::default()
        }
    }
}
