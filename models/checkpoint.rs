//! Import of encoders pretrained elsewhere: ViTs of timm, MAE, DeiT and DINO, as safetensors or PyTorch `.pth` files.
//!
//! All of them use timm's parameter names. They differ in the wrapping (`{"model": ...}`, `module.`), in additional parts (decoder,
//! head), in the number format and in the grid of the position embedding.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::files;
use crate::params::ParamStore;
use crate::pth::Pth;
use crate::vit::{self, Preset, VitConfig, positions};

/// By its name an encoder is found in a file.
const ANCHOR: &str = "patch_embed.proj.weight";

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
}

/// The encoder that the file at `path` holds, as `vit`; f16, bf16 and f64 become f32, and a position embedding of another
/// grid is resampled as timm does it. `prefix` chooses one of several encoders by what stands before its names.
///
/// # Errors
/// [`Error::Checkpoint`] when the file is none, holds no ViT, several and no `prefix`, a ViT of another size or with parts ours has not.
pub fn import(path: &Path, vit: &VitConfig, prefix: Option<&str>) -> Result<Imported> {
    let refuse = |message: String| Error::Checkpoint {
        path: path.to_owned(),
        message,
    };
    let mut file = Weights::open(path).map_err(refuse)?;
    let (prefix, mut found) = inside(&file.names(), prefix).map_err(refuse)?;
    let params = vit::encoder(vit, 0)?;
    let mut resampled_from = None;
    for name in params.names() {
        let stored = found
            .remove(name.as_str())
            .ok_or_else(|| refuse(lacking(name, vit)))?;
        let ours = params.get(name)?;
        let shape = file.shape(&stored).unwrap_or_default();
        let from = grid_of(&shape, vit.preset.width);
        let from = from.filter(|_| name == "pos_embed" && shape != ours.dims());
        // A tensor that does not fit is not read: it may claim any size.
        if shape != ours.dims() && from.is_none() {
            return Err(refuse(differing(name, &shape, ours)));
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
    let strange: Vec<&str> = found.keys().map(String::as_str).take(3).collect();
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
        prefix,
    })
}

/// Says what of the checkpoint `file` was taken: "c.pth, prefix `module.`, positions resampled from 14x14".
pub fn taken(file: &str, prefix: &str, resampled_from: Option<usize>) -> String {
    let prefix = match prefix {
        "" => "no prefix".to_owned(),
        prefix => format!("prefix `{prefix}`"),
    };
    let positions = resampled_from.map(|side| format!(", positions resampled from {side}x{side}"));
    format!("{file}, {prefix}{}", positions.unwrap_or_default())
}

/// Returns the preset in the metadata of a checkpoint of this program ([`VitConfig::metadata`]); `None` for any other file.
pub fn preset(path: &Path) -> Option<&'static Preset> {
    let file = files::read(path).ok()?;
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

/// An open file with named tensors. Integers and booleans, which no weights are, are left out.
enum Weights {
    Safetensors {
        bytes: Vec<u8>,
        header: Metadata,
        /// Where the numbers begin.
        start: usize,
    },
    Pth(Pth),
}

impl Weights {
    fn open(path: &Path) -> std::result::Result<Self, String> {
        if path.extension().is_none_or(|e| e != "safetensors") {
            return Pth::open(path).map(Self::Pth).map_err(unreadable);
        }
        let unreadable = |e: String| format!("is no safetensors file: {e}");
        let bytes = files::read(path).map_err(|e| unreadable(e.to_string()))?;
        let read = SafeTensors::read_metadata(&bytes).map_err(|e| unreadable(e.to_string()))?;
        let (length, header) = read;
        Ok(Self::Safetensors {
            bytes,
            header,
            start: length + size_of::<u64>(),
        })
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Pth(file) => file.tensors.keys().cloned().collect(),
            Self::Safetensors { header, .. } => {
                let tensors = header.tensors().into_iter();
                let floats = tensors.filter(|(_, about)| floating(about.dtype).is_some());
                floats.map(|(name, _)| name).collect()
            }
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Pth(file) => Some(file.tensors.get(name)?.shape.clone()),
            Self::Safetensors { header, .. } => Some(header.info(name)?.shape.clone()),
        }
    }

    fn read(&mut self, name: &str) -> std::result::Result<Tensor, String> {
        match self {
            Self::Pth(file) => {
                let bytes = file.bytes(name).map_err(unreadable)?;
                let strided = &file.tensors[name];
                tensor(&bytes, strided.dtype, &strided.shape)
            }
            Self::Safetensors {
                bytes,
                header,
                start,
            } => {
                let absent = || format!("`{name}` is outside the file");
                let about = header.info(name).ok_or_else(absent)?;
                let (from, to) = about.data_offsets;
                let bytes = bytes.get(*start + from..*start + to).ok_or_else(absent)?;
                let dtype = floating(about.dtype).ok_or_else(absent)?;
                tensor(bytes, dtype, &about.shape)
            }
        }
    }
}

fn unreadable(error: String) -> String {
    format!(
        "cannot be read as a checkpoint of PyTorch 1.6 or newer ({error}); write it again by `torch.save(state_dict, path)`, \
         or as .safetensors"
    )
}

fn floating(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

fn tensor(bytes: &[u8], dtype: DType, shape: &[usize]) -> std::result::Result<Tensor, String> {
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu).map_err(|e| e.to_string())
}

/// The chosen prefix, and the names that begin with it, by what follows it.
fn inside(
    names: &[String],
    wanted: Option<&str>,
) -> std::result::Result<(String, BTreeMap<String, String>), String> {
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

fn choose<'a>(prefixes: &[&'a str], wanted: Option<&str>) -> std::result::Result<&'a str, String> {
    let bare = |prefix: &str| prefix.trim_end_matches('.').to_owned();
    let all = || {
        format!(
            "\"{}\"",
            Vec::from_iter(prefixes.iter().map(|p| bare(p))).join("\", \"")
        )
    };
    match (prefixes, wanted) {
        ([], _) => Err(format!(
            "contains no tensor `...{ANCHOR}`; it is not a ViT with timm's parameter names"
        )),
        ([prefix], None) => Ok(prefix),
        // Each name is compared with each prefix.
        (_, _) if prefixes.len() > ENCODERS => Err(format!(
            "holds {} encoders, expected at most {ENCODERS}",
            prefixes.len()
        )),
        (_, None) => Err(format!(
            "holds {} encoders with the prefixes {}; choose one with `checkpoint_prefix:` beside `checkpoint:`, or with `prefix:` beside `file:`",
            prefixes.len(),
            all()
        )),
        (_, Some(wanted)) => {
            let chosen = prefixes.iter().find(|p| bare(p) == bare(wanted));
            chosen.copied().ok_or_else(|| {
                format!(
                    "holds no encoder by the prefix {wanted:?}, expected one of {}",
                    all()
                )
            })
        }
    }
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
            let found = import(&fixture(file), &small(8), None).unwrap();
            assert_eq!(found.resampled_from, None);
            let expected = expected();
            for name in expected.names() {
                let [found, expected] =
                    [&found.params, &expected].map(|p| values(p.get(name).unwrap()));
                assert_close(name, &found, &expected, tolerance, 0..0);
            }
        }
    }

    /// `tests/fixtures/vit/make_pth.py`: protocol 4, channels-last, transposed and sliced tensors, buffers of integers and booleans.
    #[test]
    fn of_student_and_teacher_in_one_file_the_chosen_one_is_read() {
        let file = fixture("vit/layouts.pth");
        let message = |prefix| import(&file, &small(8), prefix).unwrap_err().to_string();
        let both = "\"student.module.backbone\", \"teacher.backbone\"";
        let ambiguous = message(None);
        assert!(
            ambiguous.contains("layouts.pth: holds 2 encoders") && ambiguous.contains(both),
            "{ambiguous}"
        );
        assert!(ambiguous.contains("`checkpoint_prefix:`"), "{ambiguous}");
        assert!(message(Some("ema")).contains(both));
        let read = |prefix| import(&file, &small(8), Some(prefix)).unwrap();
        let expected = expected();
        let (teacher, student) = (read("teacher.backbone."), read("student.module.backbone"));
        assert_eq!(teacher.prefix, "teacher.backbone.");
        for name in expected.names() {
            let of = |params: &ParamStore| values(params.get(name).unwrap());
            assert_eq!(of(&teacher.params), of(&expected), "{name}");
            assert!(of(&student.params).iter().all(|v| *v == 1.0), "{name}");
        }
    }

    #[test]
    fn an_ema_beside_the_model_and_an_encoder_within_it_are_other_prefixes() {
        let names = |prefixes: &[&str]| -> Vec<String> {
            let named = |p: &&str| [format!("{p}{ANCHOR}"), format!("{p}cls_token")];
            prefixes.iter().flat_map(named).collect()
        };
        let found = |prefixes: &[&str], wanted| {
            inside(&names(prefixes), wanted).map(|(_, found)| Vec::from_iter(found.into_keys()))
        };
        for (prefixes, listed) in [
            (
                ["state_dict.", "state_dict_ema."],
                "\"state_dict\", \"state_dict_ema\"",
            ),
            (["model.", "model_ema."], "\"model\", \"model_ema\""),
            (["", "ema."], "\"\", \"ema\""),
        ] {
            assert!(found(&prefixes, None).unwrap_err().contains(listed));
            for chosen in prefixes {
                assert_eq!(
                    found(&prefixes, Some(chosen)).unwrap(),
                    ["cls_token", ANCHOR]
                );
            }
        }
        assert_eq!(found(&["module."], None).unwrap(), ["cls_token", ANCHOR]);
    }

    #[test]
    fn parts_beside_the_encoder_are_not_read() {
        let names = [ANCHOR, "head.weight", "decoder_embed.weight"];
        let names = names.map(|name| format!("model.{name}"));
        let (_, found) = inside(&names, None).unwrap();
        assert_eq!(Vec::from_iter(found.into_keys()), [ANCHOR]);
    }

    #[test]
    fn positions_are_resampled_as_in_timm() {
        for (side, key) in [(12, "grid3"), (16, "grid4")] {
            let found = import(&fixture("vit/wrapped.pth"), &small(side), None).unwrap();
            assert_eq!(found.resampled_from, Some(2));
            let expected = crate::params::read(&fixture("vit/resampled.safetensors")).unwrap();
            let found = values(found.params.get("pos_embed").unwrap());
            assert_close(key, &found, &expected[key].1, 1e-6, 0..0);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_remedy() {
        let message =
            |path: &Path, vit: &VitConfig| import(path, vit, None).unwrap_err().to_string();
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
