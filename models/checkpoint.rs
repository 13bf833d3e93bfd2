//! Import of encoders pretrained elsewhere: ViTs of timm, MAE, DeiT and DINO, as safetensors or PyTorch `.pth` files.
//!
//! All of them use timm's parameter names. They differ in the wrapping (`{"model": ...}`, `module.`), in additional parts (decoder,
//! head), in the number format and in the grid of the position embedding.

mod misfit;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::params::ParamStore;
use crate::pth::INTEGERS;
use crate::vit::{self, Preset, VitConfig, positions};
use misfit::{ANCHOR, differing, lacking, no_encoder};
use weights::{Weights, shard_of};

/// Limit of the encoders in a file.
const ENCODERS: usize = 64;

/// Prefixes of tensors that do not belong to the encoder; the import skips them.
const BESIDE: &[&str] = &["decoder", "mask_token", "head.", "fc.", "fc_norm."];

/// An imported encoder.
#[derive(Debug)]
pub struct Imported {
    /// Its parameters, with the names and order of [`vit::encoder`].
    pub params: ParamStore,
    /// Side of the position embedding's original grid, if it was resampled.
    pub resampled_from: Option<usize>,
    /// What stands before its names in the file: `module.`, `teacher.backbone.`.
    pub prefix: String,
    /// Whether its training has used labels: a linear classifier is in the file (`head.weight`, `fc.weight`, `classifier.weight`), or this program
    /// wrote that it has.
    pub has_classifier: bool,
    /// Matrices of the encoder's width that were left out, as classifiers and projection heads are: names and shapes of the first; empty if
    /// there is none.
    pub left_out: String,
}

/// Returns the first part of a name.
fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Whether a tensor of integers or booleans is a quantised weight by its name, and no buffer like `relative_position_index`.
fn is_named_as_weight(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    ["weight", "bias", "gamma"].contains(&last)
        || last.ends_with("_token")
        || last.ends_with("_embed")
}

/// Ends of the names of a linear classifier's weights: timm, DeiT, and fine-tuning by MAE and this program; MoCo's and torchvision's
/// classifiers; Hugging Face's. They may stand beside the encoder's prefix.
const CLASSIFIERS: [&str; 3] = ["head.weight", "fc.weight", "classifier.weight"];

/// The encoder that the file at `path` holds, as `vit`; f16, bf16 and f64 become f32, and a position embedding of another
/// grid is resampled as timm does it. `prefix` chooses one of several encoders by what stands before its names.
///
/// # Errors
/// [`Error::Checkpoint`] when the file is none, holds no ViT, several and no `prefix`, a ViT of another size or with parts ours has not.
pub fn import(path: &Path, vit: &VitConfig, prefix: Option<&str>) -> Result<Imported> {
    let refuse = |message: String| refused(path, message);
    let mut file = Weights::open(path).map_err(refuse)?;
    let names = file.names();
    let chosen = inside(&names, prefix);
    let (prefix, mut found) =
        chosen.map_err(|why| refuse(why.unwrap_or_else(|| no_encoder(&names, file.objects()))))?;
    check_heads(&prefix, vit).map_err(refuse)?;
    let params = vit::encoder(vit, 0)?;
    let mut resampled_from = None;
    for name in params.names() {
        let stored = found.remove(name.as_str()).ok_or_else(|| {
            let strange = |name: &&str| params.get(name).is_err();
            let left: Vec<&str> = found.keys().map(String::as_str).collect();
            let strange: Vec<&str> = left.iter().copied().filter(strange).collect();
            let shard = shard_of(path).unwrap_or_default();
            refuse(lacking(name, vit, &left, &strange) + &shard)
        })?;
        if let Some(why) = file.unread(&stored) {
            return Err(refuse(format!("`{stored}` {why}")));
        }
        let ours = params.get(name)?;
        let shape = file.shape(&stored).unwrap_or_default();
        let from = grid_of(&shape, vit.preset.width);
        let from = from.filter(|_| name == "pos_embed" && shape != ours.dims());
        // A tensor that does not fit is not read: it may claim any size.
        if shape != ours.dims() && from.is_none() {
            return Err(refuse(differing(name, &shape, ours.dims())));
        }
        let mut values = floats(&file.read(&stored).map_err(refuse)?)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(refuse(format!(
                "`{name}` contains values that are not finite"
            )));
        }
        if let Some(from) = from {
            values = positions::resample(&values, from, vit.grid(), vit.preset.width);
            resampled_from = Some(from);
        }
        params.set(name, values)?;
    }
    let modules: BTreeSet<&str> = params.names().iter().map(|name| first(name)).collect();
    let is_weight = |(name, stored): &(&String, &String)| {
        // An optimiser's state has keys that are numbers, but no module of the encoder.
        let within = file.is_text(stored, &prefix) || modules.contains(first(name));
        within && (file.unread(stored) != Some(INTEGERS) || is_named_as_weight(name))
    };
    let strange: Vec<&str> = (found.iter().filter(is_weight))
        .map(|(name, _)| name.as_str())
        .collect();
    if !strange.is_empty() {
        return Err(refuse(format!(
            "contains {}, which a plain ViT does not have (registers, layer scale, distillation token and relative positions \
            are not supported)",
            misfit::shown(&strange)
        )));
    }
    Ok(Imported {
        params,
        resampled_from,
        has_classifier: shows_classifier(&file, &prefix),
        left_out: heads(&file, &prefix, vit.preset.width),
        prefix,
    })
}

/// Returns [`Imported::left_out`]. Decoders of masked modeling, other encoders and the state of an optimiser do not count.
fn heads(file: &Weights, prefix: &str, width: usize) -> String {
    const SHOWN: usize = 2;
    let names = file.names();
    let encoders = prefixes(&names);
    let is_head = |name: &&String| {
        let shape = file.shape(name).unwrap_or_default();
        let own = encoders
            .iter()
            .filter(|encoder| name.starts_with(**encoder));
        let own = own.max_by_key(|encoder| encoder.len()).copied();
        let inner = own.map_or(name.as_str(), |own| &name[own.len()..]);
        // `weight_v` and `original1` are those of a weight in parts.
        let last = name.rsplit('.').next().unwrap_or_default();
        (last.contains("weight") || last.starts_with("original"))
            && reads(&shape, width)
            && (own.is_none() || is_beside(inner) && own == Some(prefix))
            && !name.split('.').any(|part| part.starts_with("decoder"))
    };
    let mut heads: Vec<&String> = names.iter().filter(is_head).collect();
    heads.sort_unstable();
    let shown = heads.iter().take(SHOWN);
    let shown = shown.map(|name| format!("`{name}` {:?}", file.shape(name).unwrap_or_default()));
    let more = heads.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    shown.chain(more).collect::<Vec<_>>().join(", ")
}

/// Changes the patch embedding of an encoder that was trained on `factor[c] * x + offset[c]` for channel `c` so that it takes `x`. Its
/// convolution has no padding, so all features stay the same.
///
/// # Errors
/// If `params` are no encoder's.
pub fn rescale(params: &ParamStore, factor: [f64; 3], offset: [f64; 3]) -> Result<()> {
    let [weight, bias] = ["patch_embed.proj.weight", "patch_embed.proj.bias"];
    let mut weights = floats(params.get(weight)?)?;
    let mut biases = floats(params.get(bias)?)?;
    let pixels = weights.len() / biases.len() / 3;
    for (bias, weights) in biases.iter_mut().zip(weights.chunks_mut(3 * pixels)) {
        let mut sum = f64::from(*bias);
        for (channel, weights) in weights.chunks_mut(pixels).enumerate() {
            sum += offset[channel] * weights.iter().map(|w| f64::from(*w)).sum::<f64>();
            let scaled = |w: &mut f32| *w = (f64::from(*w) * factor[channel]) as f32;
            weights.iter_mut().for_each(scaled);
        }
        *bias = sum as f32;
    }
    params.set(weight, weights)?;
    params.set(bias, biases)
}

/// Returns [`Imported::has_classifier`] of the encoder that [`import`] takes from the file at `path`; no weight is converted.
///
/// # Errors
/// [`Error::Checkpoint`] if it is no checkpoint or holds several encoders and no `prefix`.
pub fn has_classifier(path: &Path, prefix: Option<&str>) -> Result<bool> {
    let file = Weights::open(path).map_err(|message| refused(path, message))?;
    let names = file.names();
    match inside(&names, prefix) {
        Ok((prefix, _)) => Ok(shows_classifier(&file, &prefix)),
        Err(why) => Err(refused(
            path,
            why.unwrap_or_else(|| no_encoder(&names, file.objects())),
        )),
    }
}

/// Refuses MoCo v3's ViT-S (`vits.py`), which divides its width into twice as many heads as others: the shapes are the same.
fn check_heads(prefix: &str, vit: &VitConfig) -> std::result::Result<(), String> {
    const HEADS: usize = 12;
    let is_moco = ["momentum_encoder.", "base_encoder."];
    let is_moco = is_moco.iter().any(|name| prefix.contains(name));
    match is_moco && vit.preset.heads < HEADS {
        true => Err(format!(
            "found the prefix `{prefix}` of MoCo v3, whose ViT-S and ViT-B have {HEADS} heads, and variant {} with {}; its attention would be \
             another one; expected its ViT-B",
            vit.preset.name, vit.preset.heads
        )),
        false => Ok(()),
    }
}

/// Returns whether a tensor is a linear layer, or a convolution of one pixel, that reads `width` numbers.
fn reads(shape: &[usize], width: usize) -> bool {
    matches!(shape, [_, from, rest @ ..] if *from == width && rest.iter().all(|side| *side == 1))
}

fn shows_classifier(file: &Weights, prefix: &str) -> bool {
    let width = file.shape(&format!("{prefix}cls_token"));
    let width = width.and_then(|shape| shape.last().copied());
    let is_named = |name: &str| {
        let ends = |end: &&str| {
            name.strip_suffix(end)
                .is_some_and(|start| start.is_empty() || start.ends_with('.'))
        };
        CLASSIFIERS.iter().any(ends)
    };
    let classifies = |name: &String| {
        let shape = file.shape(name).unwrap_or_default();
        is_named(name) && width.is_some_and(|width| reads(&shape, width))
    };
    let says = || about(file).is_some_and(|about| about["saw_labels"] == true);
    file.names().iter().any(classifies) || says()
}

/// Says what of the checkpoint `file` was taken, and the scale of the images that it gets: "c.pth, prefix `module.`, positions resampled from 14x14, without
/// `head.weight` [10, 192], images scaled by imagenet".
pub fn taken(
    (file, scale): (&str, &str),
    prefix: &str,
    resampled_from: Option<usize>,
    left_out: &str,
) -> String {
    let prefix = match prefix {
        "" => "no prefix".to_owned(),
        prefix => format!("prefix `{prefix}`"),
    };
    let positions = resampled_from.map(|side| format!(", positions resampled from {side}x{side}"));
    let without = match left_out {
        "" => String::new(),
        heads => format!(", without {heads}"),
    };
    let positions = positions.unwrap_or_default();
    format!("{file}, {prefix}{positions}{without}, images scaled by {scale}")
}

/// Returns the preset in the metadata of a checkpoint of this program ([`VitConfig::metadata`]); `None` for any other checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] when the file is none.
pub fn preset(path: &Path) -> Result<Option<&'static Preset>> {
    let file = Weights::open(path).map_err(|message| refused(path, message))?;
    Ok(of_metadata(&file))
}

fn of_metadata(file: &Weights) -> Option<&'static Preset> {
    vit::preset(about(file)?["variant"].as_str()?)
}

/// Returns the metadata of a checkpoint of this program.
fn about(file: &Weights) -> Option<serde_json::Value> {
    let Weights::Safetensors { header, .. } = file else {
        return None;
    };
    let about = header.metadata().as_ref()?.get("tessera")?;
    serde_json::from_str(about).ok()
}

fn refused(path: &Path, message: String) -> Error {
    Error::Checkpoint {
        path: path.to_owned(),
        message,
    }
}

fn is_beside(name: &str) -> bool {
    BESIDE.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the grid's side of a position embedding with a class token.
fn grid_of(shape: &[usize], width: usize) -> Option<usize> {
    let [1, tokens, w] = shape else { return None };
    let side = tokens.checked_sub(1)?.isqrt();
    (*w == width && side > 0 && side * side + 1 == *tokens).then_some(side)
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// The chosen prefix, and the names that begin with it, by what follows it; otherwise the reason, `None` if there is no encoder.
fn inside(
    names: &[String],
    wanted: Option<&str>,
) -> std::result::Result<(String, BTreeMap<String, String>), Option<String>> {
    let prefixes = prefixes(names);
    let prefix = choose(&prefixes, wanted)?;
    let mut found = BTreeMap::new();
    for name in names {
        let of_another = |p: &&str| p.len() > prefix.len() && name.starts_with(*p);
        let (Some(inner), false) = (name.strip_prefix(prefix), prefixes.iter().any(of_another))
        else {
            continue;
        };
        if !is_beside(inner) {
            found.insert(inner.to_owned(), name.clone());
        }
    }
    Ok((prefix.to_owned(), found))
}

/// What stands before [`ANCHOR`] in the names: empty, or with a dot at its end.
fn prefixes(names: &[String]) -> Vec<&str> {
    let found = names.iter().filter_map(|name| name.strip_suffix(ANCHOR));
    let mut found: Vec<&str> = found.filter(|p| p.is_empty() || p.ends_with('.')).collect();
    found.sort_unstable();
    found
}

fn choose<'a>(
    prefixes: &[&'a str],
    wanted: Option<&str>,
) -> std::result::Result<&'a str, Option<String>> {
    let bare = |prefix: &str| prefix.trim_end_matches('.').to_owned();
    let all = || {
        format!(
            "\"{}\"",
            Vec::from_iter(prefixes.iter().map(|p| bare(p))).join("\", \"")
        )
    };
    match (prefixes, wanted) {
        ([], _) => Err(None),
        ([prefix], None) => Ok(prefix),
        // Each name is compared with each prefix.
        (_, _) if prefixes.len() > ENCODERS => Err(Some(format!(
            "holds {} encoders, expected at most {ENCODERS}",
            prefixes.len()
        ))),
        (_, None) => Err(Some(format!(
            "holds {} encoders with the prefixes {}; choose one with `checkpoint_prefix:` beside `checkpoint:`, or with `prefix:` beside `file:`",
            prefixes.len(),
            all()
        ))),
        (_, Some(wanted)) => {
            let chosen = prefixes.iter().find(|p| bare(p) == bare(wanted));
            chosen.copied().ok_or_else(|| {
                let expected = all();
                Some(format!(
                    "holds no encoder by the prefix {wanted:?}, expected one of {expected}"
                ))
            })
        }
    }
}

#[cfg(test)]
mod tests;
