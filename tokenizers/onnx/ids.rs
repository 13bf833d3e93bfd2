//! `onnx-ids`: a graph that ends in ids (dVAE, VQGAN, a perceptual codebook).

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets};

use super::engine::Output;
use super::fields::{self, Opened};
use super::input::{Input, MOST_IMAGES, MOST_THREADS, Request};
use super::manifest::{Manifest, agreed};
use crate::codes;
use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, MOST_CODES, MOST_GROUPS, Tokenizer};
use crate::registry::{BuildContext, Registry, TokenizerFactory};
use crate::view::View;
use crate::{Error, Result};

/// Factory of `onnx-ids`.
pub struct OnnxIdsFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The .onnx file, `embedded:NAME` (mosaic_vq, mosaic_vqgan, mosaic_perceptual), or a file on the Hugging Face hub:
    /// `hf:owner/name/path/file.onnx[@revision]` (`hf:` is optional if no such local file exists). A manifest beside the file
    /// (`file.yaml` or `file.yml` with `sha256`) is checked against it and supplies absent fields.
    model: String,
    /// Number of different ids. Default: the manifest's value.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: Option<NonZeroUsize>,
    /// Number of codes of each group, if every patch has a code of each of several codebooks. Default: the manifest's value.
    #[schemars(length(min = 1, max = MOST_GROUPS), inner(range(min = 1, max = MOST_CODES)))]
    groups: Option<Vec<usize>>,
    /// Size and scaling of the graph's input.
    #[serde(default)]
    input: Input,
    /// Name of the output. Default: the first output. Integers of any type, `[batch, rows, cols]` or `[batch, patches]`, optionally
    /// with a dimension of 1 after the batch or, for patches, at the end. With `groups`, `[batch, rows, cols, groups]` or
    /// `[batch, patches, groups]`.
    output: Option<String>,
    /// Images per call of the engine. Default: the graph's fixed batch, 1 if the graph quantises dynamically, else 16.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    batch: Option<NonZeroUsize>,
    /// Threads per call. Default: 1. Calls run in parallel; more threads per call mean fewer parallel calls and less memory.
    #[schemars(range(min = 1, max = MOST_THREADS))]
    threads: Option<NonZeroUsize>,
    /// Whether training used labels (of any dataset); the report then adds a footnote to the row. Default: the manifest's value, else
    /// false. For embedded models the value is known.
    saw_labels: Option<bool>,
}

impl TokenizerFactory for OnnxIdsFactory {
    fn kind(&self) -> &'static str {
        "onnx-ids"
    }

    fn summary(&self) -> &'static str {
        "an ONNX graph that ends in ids (dVAE, VQGAN, perceptual): a file, checked against its manifest, or a Hugging Face owner/name/file"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn render_side(&self, with: &Config, _: &Registry) -> Result<Option<usize>> {
        let fields: Fields = with.parse()?;
        Ok(fields.input.side)
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let request = Request {
            kind: Some(self.kind()),
            model: &fields.model,
            input: &fields.input,
            output: fields.output.as_deref(),
            batch: fields.batch,
            threads: fields.threads,
            saw_labels: fields.saw_labels,
        };
        let opened = fields::open(with, &request, &cx.into())?;
        let manifest = opened.manifest.as_ref();
        let target = fields.target(with, manifest)?;
        let shape = &opened.probed.shape;
        if !opened.probed.ids {
            let message = "the graph's output is f32, expected ids (integers); export the argmax inside the graph, or use it as `kind: onnx` features";
            return Err(with.error("model", message).into());
        }
        let found = match (target.groups(), &shape[1..]) {
            (None, shape) => patches(shape),
            (Some(groups), [own @ .., last]) if *last == groups.count() => own.to_vec(),
            (Some(groups), shape) => {
                let message = format!(
                    "found {} groups, but the graph's output has shape {shape:?} per image, expected one code of each at its end",
                    groups.count()
                );
                return Err(with.error("groups", message).into());
            }
        };
        let remedy = match found[..] {
            [tokens, _] if tokens == cx.grid.num_patches() && target.groups().is_none() => {
                Some(GROUPS)
            }
            [rows, cols, _]
                if rows * cols == cx.grid.num_patches() && target.groups().is_none() =>
            {
                Some(GROUPS)
            }
            [tokens] if tokens == cx.grid.num_patches() + 1 => {
                Some("if one is a class token, cut it off inside the graph")
            }
            _ => None,
        };
        fields::check_grid(with, manifest, &found, cx.grid, remedy)?;
        let about = match target {
            TargetSpec::Ids { codebook_size } => format!("ids {codebook_size}"),
            _ => format!("{target:?}"),
        };
        let fingerprint = Fingerprint::of(&[opened.fingerprint.0.as_bytes(), about.as_bytes()]);
        let field = target.groups().map_or("codebook_size", |_| "groups");
        Ok(Box::new(OnnxIds {
            opened,
            grid: cx.grid,
            target,
            fingerprint,
            at: with.error(field, "").to_string(),
        }))
    }
}

/// Remedy for an output with a code of each of several codebooks.
const GROUPS: &str = "for codes of several codebooks write `groups: [..]`, the number of codes of each, in place of `codebook_size`";

impl Fields {
    /// Returns the number of codes from the row or the manifest.
    fn target(&self, with: &Config, manifest: Option<&Manifest>) -> Result<TargetSpec> {
        let written = self.codebook_size.map(NonZeroUsize::get);
        let codes = agreed(with, manifest, "codebook_size", written, |m| {
            m.codebook_size
        })?;
        let written = self.groups.clone();
        let groups = agreed(with, manifest, "groups", written, |m| m.groups.clone())?;
        if let (Some(_), Some(_), Some(manifest)) = (codes, &groups, manifest)
            && (self.codebook_size.is_none() || self.groups.is_none())
        {
            let (own, other) = match self.groups {
                Some(_) => ("groups", "codebook_size"),
                None => ("codebook_size", "groups"),
            };
            let path = manifest.path.display();
            let message = format!(
                "the manifest {path} has `{other}`, expected the same of both: ids, or a code of every group; remove `{own}`"
            );
            return Err(with.error(own, message).into());
        }
        let target = codes::target(with, codes, groups.as_deref())?;
        target.ok_or_else(|| {
            let message = "missing, and no manifest of the model sets it; expected the number of different ids of the graph, or `groups`, the number of codes of each group";
            with.error("codebook_size", message).into()
        })
    }
}

/// Returns rows and columns of ids, or the number of patches. Drops a dimension of 1, which an `argmax` may keep.
fn patches(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [1, rows, cols] => vec![rows, cols],
        [1, patches] | [patches, 1] => vec![patches],
        _ => shape.to_vec(),
    }
}

struct OnnxIds {
    opened: Opened,
    grid: Grid,
    target: TargetSpec,
    fingerprint: Fingerprint,
    /// File, line and field of `codebook_size` or `groups`, for errors.
    at: String,
}

impl Tokenizer for OnnxIds {
    fn target(&self) -> TargetSpec {
        self.target
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let images = view.render(&self.opened.input)?;
        let (shape, output) = self.opened.model.run(&images)?;
        let engine = || self.opened.model.engine.clone();
        let Output::Ids(ids) = output else {
            return Err(Error::Engine {
                engine: engine(),
                message: "returned numbers instead of ids".into(),
            });
        };
        // A number that is not a u32 is above all codebooks.
        let codes = ids.iter().map(|id| u32::try_from(*id).unwrap_or(u32::MAX));
        let codes: Vec<u32> = codes.collect();
        if let Some(outside) = codes::outside(self.target, &codes) {
            let (at, field, size) = (&self.at, outside.field(), outside.size);
            let of = outside
                .group
                .map_or(String::new(), |group| format!(" of group {group}"));
            let id = ids[outside.at];
            let message = format!(
                "{at}the graph returned the id {id}{of}, which is not in 0..{size}; correct {field} in the row or in the model's manifest"
            );
            return Err(Error::Engine {
                engine: engine(),
                message,
            });
        }
        let size = (shape[0], self.grid.num_patches());
        Ok(codes::targets(self.target, codes, size)?)
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: self.opened.saw_labels,
            engine: Some(self.opened.model.engine.clone()),
            model: self.opened.manifest.as_ref().map(Manifest::provenance),
            ..Facts::default()
        }
    }
}
