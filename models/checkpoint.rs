//! Import of encoders pretrained elsewhere: ViTs of timm, MAE, DeiT and DINO, as safetensors or PyTorch `.pth` files.
//!
//! All of them use timm's parameter names. They differ in the wrapping (`{"model": ...}`, `module.`), in additional parts (decoder,
//! head), in the number format and in the grid of the position embedding.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::params::{self, ParamStore};
use crate::vit::{self, Preset, VitConfig, positions};

/// Keys under which training scripts store the model, tried in this order; `None` is the top level of the file.
const WRAPPERS: &[Option<&str>] = &[
    None,
    Some("model"),
    Some("state_dict"),
    Some("teacher"),
    Some("student"),
    Some("model_state_dict"),
];

/// The tensor that identifies an encoder in a file.
const ANCHOR: &str = "patch_embed.proj.weight";

/// Prefixes of tensors that do not belong to the encoder; the import skips them.
const BESIDE: &[&str] = &["decoder", "mask_token", "head.", "fc.", "fc_norm."];

/// An imported encoder.
#[derive(Debug)]
pub struct Imported {
    /// Its parameters, with the names and order of [`vit::encoder`].
    pub params: ParamStore,
    /// Side of the position embedding's original grid, if it was resampled.
    pub resampled_from: Option<usize>,
}

/// Reads the encoder in the file at `path` as `vit`. Converts f16, bf16 and f64 to f32, and resamples a position embedding of another
/// grid as timm does.
///
/// # Errors
/// [`Error::Checkpoint`](crate::Error::Checkpoint) if the file cannot be read, contains no ViT, or its ViT has another size or
/// unsupported parts.
pub fn import(path: &Path, vit: &VitConfig) -> Result<Imported> {
    let refuse = |message: String| params::refuse(path, message);
    let mut found = encoder_of(tensors(path)?).ok_or_else(|| {
        refuse(format!(
            "contains no tensor `...{ANCHOR}`, so it is not a ViT with timm's parameter names"
        ))
    })?;
    let params = vit::encoder(vit, 0)?;
    let mut resampled_from = None;
    for name in params.names() {
        let tensor = found
            .remove(name.as_str())
            .ok_or_else(|| refuse(lacking(name, vit)))?;
        let ours = params.get(name)?;
        let (mut shape, mut values) = (tensor.dims().to_vec(), floats(&tensor)?);
        if name == "pos_embed" && shape != ours.dims() {
            let from = grid_of(&shape, vit.preset.width)
                .ok_or_else(|| refuse(differing(name, &shape, ours)))?;
            values = positions::resample(&values, from, vit.grid(), vit.preset.width);
            shape = ours.dims().to_vec();
            resampled_from = Some(from);
        }
        if shape != ours.dims() {
            return Err(refuse(differing(name, &shape, ours)));
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(refuse(format!(
                "`{name}` contains values that are not finite"
            )));
        }
        params.set(name, values)?;
    }
    let strange: Vec<&str> = found
        .keys()
        .map(String::as_str)
        .filter(|name| !is_beside(name))
        .take(3)
        .collect();
    if !strange.is_empty() {
        return Err(refuse(format!(
            "contains `{}`, which a plain ViT does not have (registers, layer scale, distillation token and relative positions \
            are not supported)",
            strange.join("`, `")
        )));
    }
    Ok(Imported {
        params,
        resampled_from,
    })
}

/// Returns the preset in the metadata of a checkpoint of this program ([`VitConfig::metadata`]); `None` for any other file.
pub fn preset(path: &Path) -> Option<&'static Preset> {
    let file = std::fs::read(path).ok()?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).ok()?;
    let about = header.metadata().as_ref()?.get("tessera")?;
    let about: serde_json::Value = serde_json::from_str(about).ok()?;
    vit::preset(about["variant"].as_str()?)
}

fn is_beside(name: &str) -> bool {
    BESIDE.iter().any(|prefix| name.starts_with(prefix))
}

fn lacking(name: &str, vit: &VitConfig) -> String {
    if name.starts_with("norm.") {
        return format!(
            "lacks `{name}`: a checkpoint fine-tuned with global pooling has no final norm; use the pretrained checkpoint"
        );
    }
    format!(
        "lacks `{name}`, which a ViT {} has; set `backbone.variant` to the checkpoint's size",
        vit.preset.name
    )
}

fn differing(name: &str, found: &[usize], ours: &Tensor) -> String {
    format!(
        "`{name}` has shape {found:?}, expected {:?}; set `backbone.variant` and `patch_size` to the checkpoint's",
        ours.dims()
    )
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

/// Returns the tensors that share [`ANCHOR`]'s prefix, without the prefix.
fn encoder_of(tensors: BTreeMap<String, Tensor>) -> Option<BTreeMap<String, Tensor>> {
    let anchor = tensors.keys().find(|name| is_anchor(name))?;
    let prefix = anchor[..anchor.len() - ANCHOR.len()].to_owned();
    let inside =
        |(name, tensor): (String, Tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor));
    Some(tensors.into_iter().filter_map(inside).collect())
}

fn is_anchor(name: &str) -> bool {
    name.strip_suffix(ANCHOR)
        .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Reads all tensors of a file.
fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let refuse = |message: String| params::refuse(path, message);
    if path.extension().is_some_and(|e| e == "safetensors") {
        let all = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|e| refuse(format!("is not a safetensors file: {e}")))?;
        return Ok(all.into_iter().collect());
    }
    let unreadable = |error: candle_core::Error| {
        refuse(format!(
            "cannot be read as a checkpoint of PyTorch 1.6 or newer ({error}); save it again with `torch.save(state_dict, path)` \
            or as .safetensors"
        ))
    };
    for wrapper in WRAPPERS {
        let file = match PthTensors::new(path, *wrapper) {
            Ok(file) => file,
            // The file does not have this wrapper.
            Err(_) if wrapper.is_some() => continue,
            Err(error) => return Err(unreadable(error)),
        };
        if file.tensor_infos().keys().any(|name| is_anchor(name)) {
            let read = |name: &String| {
                Ok(file
                    .get(name)
                    .map_err(unreadable)?
                    .map(|tensor| (name.clone(), tensor)))
            };
            let all = file.tensor_infos().keys().map(read);
            return Ok(all
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect());
        }
    }
    Ok(BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, fixture, set_by_formula, values};

    static SMALL: Preset = Preset {
        name: "small",
        width: 16,
        depth: 2,
        heads: 2,
        decoder_width: 8,
        decoder_depth: 1,
        decoder_heads: 2,
    };

    fn small(image_size: usize) -> VitConfig {
        VitConfig {
            preset: &SMALL,
            image_size,
            patch_size: 4,
        }
    }

    /// The content of the files that `tests/fixtures/vit/make.py` writes.
    fn expected() -> ParamStore {
        let mut params = vit::encoder(&small(8), 0).unwrap();
        params.set_trainable("pos_embed", true);
        set_by_formula(&params, 0.1);
        params
    }

    #[test]
    fn a_wrapped_pth_and_half_precision_are_read() {
        for (file, tolerance) in [
            ("vit/wrapped.pth", 0.0),
            ("vit/bf16.safetensors", 1.0 / 256.0),
        ] {
            let found = import(&fixture(file), &small(8)).unwrap();
            assert_eq!(found.resampled_from, None);
            let expected = expected();
            for name in expected.names() {
                let [found, expected] =
                    [&found.params, &expected].map(|p| values(p.get(name).unwrap()));
                assert_close(name, &found, &expected, tolerance, 0..0);
            }
        }
    }

    #[test]
    fn positions_are_resampled_as_in_timm() {
        for (side, key) in [(12, "grid3"), (16, "grid4")] {
            let found = import(&fixture("vit/wrapped.pth"), &small(side)).unwrap();
            assert_eq!(found.resampled_from, Some(2));
            let expected = crate::params::read(&fixture("vit/resampled.safetensors")).unwrap();
            let found = values(found.params.get("pos_embed").unwrap());
            assert_close(key, &found, &expected[key].1, 1e-6, 0..0);
        }
    }

    #[test]
    fn errors_for_unsuitable_files_name_a_remedy() {
        let message = |path: &Path, vit: &VitConfig| import(path, vit).unwrap_err().to_string();
        let nano = VitConfig {
            preset: vit::preset("nano").unwrap(),
            ..small(8)
        };
        let other = message(&fixture("vit/wrapped.pth"), &nano);
        assert!(
            other.contains("`cls_token` has shape [1, 1, 16], expected [1, 1, 64]")
                && other.contains("backbone.variant"),
            "{other}"
        );
        let deeper = VitConfig {
            preset: &DEEP,
            ..small(8)
        };
        let lacks = message(&fixture("vit/wrapped.pth"), &deeper);
        assert!(lacks.contains("lacks `blocks.2.norm1.weight`"), "{lacks}");
        let shallow = VitConfig {
            preset: &SHALLOW,
            ..small(8)
        };
        let strange = message(&fixture("vit/wrapped.pth"), &shallow);
        assert!(strange.contains("contains `blocks.1."), "{strange}");
        assert!(
            message(&fixture("train/probe.safetensors"), &small(8))
                .contains("not a ViT with timm's parameter names")
        );
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text.pth");
        std::fs::write(&text, "no checkpoint").unwrap();
        assert!(message(&text, &small(8)).contains("torch.save"));
        assert!(
            message(&dir.path().join("absent.safetensors"), &small(8))
                .contains("absent.safetensors")
        );
    }

    static DEEP: Preset = Preset { depth: 3, ..SMALL };
    static SHALLOW: Preset = Preset { depth: 1, ..SMALL };
}
