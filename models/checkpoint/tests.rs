mod kinds;
use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};

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
        assert!(
            found(&prefixes, None)
                .unwrap_err()
                .unwrap()
                .contains(listed)
        );
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

/// Writes an encoder with a prefix, and other tensors, as safetensors.
fn written(path: &Path, prefix: &str, others: &[(&str, [usize; 2])]) {
    let params = expected();
    let own = params.names().iter().map(|name| {
        let tensor = params.get(name).unwrap();
        (
            format!("{prefix}{name}"),
            tensor.dims().to_vec(),
            values(tensor),
        )
    });
    let zeros = |(name, shape): &(&str, [usize; 2])| {
        (
            (*name).to_owned(),
            shape.to_vec(),
            vec![0.0; shape[0] * shape[1]],
        )
    };
    let all: Vec<_> = own.chain(others.iter().map(zeros)).collect();
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let data: Vec<Vec<u8>> = all.iter().map(|(.., values)| bytes(values)).collect();
    let views = all.iter().zip(&data).map(|((name, shape, _), data)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_linear_classifier_anywhere_in_the_file_shows_labels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    for (prefix, name, shape, expected) in [
        ("", "head.weight", [5, 16], true),
        ("", "head.fc.weight", [5, 16], true),
        ("module.", "module.fc.weight", [5, 16], true),
        ("backbone.", "classifier.weight", [5, 16], true),
        ("backbone.", "head.weight", [5, 16], true),
        // Projections of DINO and MoCo, and a layer of another width.
        ("", "head.last_layer.weight", [5, 16], false),
        ("", "head.0.weight", [5, 16], false),
        ("", "head.weight", [5, 8], false),
    ] {
        written(&path, prefix, &[(name, shape)]);
        assert_eq!(
            has_classifier(&path, None).unwrap(),
            expected,
            "{prefix} {name}"
        );
        assert_eq!(
            import(&path, &small(8), None).unwrap().has_classifier,
            expected
        );
    }
}

#[test]
fn mocos_small_model_with_its_many_heads_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("moco.safetensors");
    for (prefix, fits) in [
        ("module.momentum_encoder.", false),
        ("base_encoder.", false),
        ("module.", true),
    ] {
        written(&path, prefix, &[]);
        let found = import(&path, &small(8), None);
        assert_eq!(found.is_ok(), fits, "{prefix}");
        if let Err(error) = found {
            let error = error.to_string();
            assert!(
                error.contains("MoCo v3") && error.contains("12 heads"),
                "{error}"
            );
        }
    }
}

/// Both scalings of the same pixels give the same patch embeddings.
#[test]
fn another_scaling_of_images_is_folded_into_the_patch_embedding() {
    let (params, vit) = (expected(), small(8));
    let (factor, offset) = ([0.5, 2.0, 1.25], [0.25, -1.0, 0.0]);
    let x = crate::testing::formula(3, 2 * 3 * 64, 1.0);
    let scaled = x.iter().enumerate().map(|(at, x)| {
        let channel = at / 64 % 3;
        (f64::from(*x) * factor[channel] + offset[channel]) as f32
    });
    let images = |values: Vec<f32>| {
        Tensor::from_vec(values, (2, 3, 8, 8), &candle_core::Device::Cpu).unwrap()
    };
    let embedded =
        |params: &ParamStore, images: &Tensor| values(&vit::embed(params, &vit, images).unwrap());
    let expected = embedded(&params, &images(scaled.collect()));
    let before = embedded(&params, &images(x.clone()));
    rescale(&params, factor, offset).unwrap();
    let found = embedded(&params, &images(x));
    assert_close("embedding", &found, &expected, 1e-5, 0..0);
    assert!(
        before
            .iter()
            .zip(&expected)
            .any(|(a, b)| (a - b).abs() > 0.1)
    );
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
    let message = |path: &Path, vit: &VitConfig| import(path, vit, None).unwrap_err().to_string();
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
    // It named three as if these were all.
    for part in ["contains `blocks.1.", " and 9 others, which a plain ViT"] {
        assert!(strange.contains(part), "{strange}");
    }
    assert!(
        message(&fixture("train/probe.safetensors"), &small(8))
            .contains("not a ViT with timm's parameter names")
    );
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.pth");
    std::fs::write(&text, "no checkpoint").unwrap();
    assert!(message(&text, &small(8)).contains("torch.save"));
    assert!(
        message(&dir.path().join("absent.safetensors"), &small(8)).contains("absent.safetensors")
    );
}

static DEEP: Preset = Preset { depth: 3, ..SMALL };
static SHALLOW: Preset = Preset { depth: 1, ..SMALL };

/// Type, shape and bytes of the tensors of a file.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Writes the small encoder after a change, as safetensors by the name of the other format.
fn changed(folder: &Path, change: impl FnOnce(&mut Tensors)) -> PathBuf {
    let params = expected();
    let mut all: Tensors = BTreeMap::new();
    for name in params.names() {
        let tensor = params.get(name).unwrap();
        let numbers = values(tensor);
        let bytes = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        let about = (Dtype::F32, tensor.dims().to_vec(), bytes);
        all.insert(name.clone(), about);
    }
    change(&mut all);
    let views = all.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let path = folder.join("model.pth");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

#[test]
fn the_content_of_a_file_decides_how_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(dir.path(), |_| {});
    let read = |path: &Path| {
        values(
            import(path, &small(8), None)
                .unwrap()
                .params
                .get("cls_token")
                .unwrap(),
        )
    };
    let other = dir.path().join("wrapped.safetensors");
    std::fs::copy(fixture("vit/wrapped.pth"), &other).unwrap();
    assert_eq!(read(&path), read(&other));
    assert!(preset(&other).unwrap().is_none());
    let whole = std::fs::read(&path).unwrap();
    for (bytes, part) in [
        (
            &whole[..whole.len() - 1],
            "cut or damaged; copy or download it again",
        ),
        (&whole[..50], "cut or damaged"),
        (
            &std::fs::read(&other).unwrap()[..5000],
            "copy it again if it is cut",
        ),
        (b"", "is empty (0 bytes)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "git lfs pull",
        ),
        (b"<!doctype html>", "is a web page; download the file again"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0", "(gzip); unpack it"),
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
            "format before 1.6",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        for error in [
            import(&path, &small(8), None).unwrap_err(),
            preset(&path).unwrap_err(),
        ] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn a_vit_of_another_kind_is_refused_with_its_own_remedy() {
    let dir = tempfile::tempdir().unwrap();
    const QKV: &str = "blocks.0.attn.qkv.weight";
    fn set(tensors: &mut Tensors, name: &str, dtype: Dtype, shape: &[usize]) {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        tensors.insert(name.into(), (dtype, shape.to_vec(), vec![0; bytes]));
    }
    type Change = fn(&mut Tensors);
    let cases: [(Change, &[&str]); 16] = [
        (
            |t| set(t, QKV, Dtype::I8, &[48, 16]),
            &["has integers", "before its quantisation"],
        ),
        (|t| set(t, QKV, Dtype::F8_E4M3, &[48, 16]), &["has float8"]),
        (|t| set(t, QKV, Dtype::C64, &[48, 16]), &["is complex"]),
        (
            |t| drop(t.remove("blocks.0.attn.qkv.bias")),
            &["save zeros by that name"],
        ),
        (
            |t| drop(t.remove("blocks.0.norm1.bias")),
            &["a norm without a bias"],
        ),
        (|t| drop(t.remove("cls_token")), &["without a class token"]),
        (
            |t| drop(t.remove("pos_embed")),
            &["without a table of positions"],
        ),
        (|t| drop(t.remove(QKV)), &["others of its block are there"]),
        (
            |t| {
                let qkv = t.remove(QKV).unwrap();
                t.insert("blocks.0.attn.q_proj.weight".into(), qkv);
            },
            &["other parameters", "`blocks.0.attn.q_proj.weight`"],
        ),
        (
            |t| set(t, "pos_embed", Dtype::F32, &[1, 4, 16]),
            &["none for the class token", "row of zeros"],
        ),
        (
            |t| set(t, "pos_embed", Dtype::F32, &[1, 6, 16]),
            &["distillation token"],
        ),
        (
            |t| set(t, "pos_embed", Dtype::F32, &[1, 8, 16]),
            &["not those of a square grid"],
        ),
        (
            |t| set(t, ANCHOR, Dtype::F32, &[16, 48]),
            &["linear layer", "weight.reshape(16, 3, 4, 4)"],
        ),
        (
            |t| set(t, ANCHOR, Dtype::F32, &[16, 1, 4, 4]),
            &["1 channels"],
        ),
        (
            |t| set(t, ANCHOR, Dtype::F32, &[16, 3, 8, 8]),
            &["set `patch_size`"],
        ),
        (
            |t| *t = BTreeMap::from([("conv.weight".into(), (Dtype::F32, vec![1], vec![0; 4]))]),
            &["found `conv.weight`", "rename its parameters"],
        ),
    ];
    for (change, parts) in cases {
        let path = changed(dir.path(), change);
        let error = import(&path, &small(8), None).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
            assert!(!error.contains("backbone.variant"), "{error}");
        }
    }
    // A buffer of integers is no weight.
    let path = changed(dir.path(), |t| set(t, "blocks.0.steps", Dtype::I64, &[1]));
    import(&path, &small(8), None).unwrap();
}

/// Heads of unusual names were left out without a word; whether they have learned from labels cannot be told.
#[test]
fn what_stands_beside_an_encoder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let left_out = |heads: &'static [(&'static str, &'static [usize])]| {
        let path = changed(dir.path(), |tensors| {
            for (name, shape) in heads {
                let bytes = vec![0; 4 * shape.iter().product::<usize>()];
                tensors.insert((*name).into(), (Dtype::F32, shape.to_vec(), bytes));
            }
        });
        let imported = import(&path, &small(8), None).unwrap();
        taken(
            ("f", "imagenet"),
            &imported.prefix,
            None,
            &imported.left_out,
        )
    };
    assert_eq!(
        left_out(&[("head.3.weight", &[10, 16])]),
        "f, no prefix, without `head.3.weight` [10, 16], images scaled by imagenet"
    );
    assert_eq!(
        left_out(&[("head.weight", &[10, 16, 1, 1])]),
        "f, no prefix, without `head.weight` [10, 16, 1, 1], images scaled by imagenet"
    );
    let decoder: &[(&str, &[usize])] = &[
        ("decoder_embed.weight", &[8, 16]),
        ("head.weight", &[10, 4]),
    ];
    assert_eq!(left_out(decoder), "f, no prefix, images scaled by imagenet");
    let many: &[(&str, &[usize])] = &[
        ("head.0.weight", &[4, 16]),
        ("head.2.weight", &[5, 16]),
        ("head.4.weight", &[6, 16]),
    ];
    assert!(
        left_out(many).contains("[5, 16], 1 more, "),
        "{}",
        left_out(many)
    );
    let moments: &[(&str, &[usize])] = &[("fc_norm.exp_avg", &[4, 16])];
    assert_eq!(left_out(moments), "f, no prefix, images scaled by imagenet");
    // The encoder around a chosen one is no head, and neither is the state of an optimiser.
    let path = dir.path().join("both.safetensors");
    written(
        &path,
        "ema.",
        &[
            ("blocks.0.attn.qkv.weight", [48, 16]),
            (ANCHOR, [16, 48]),
            ("ema.head.1.weight", [3, 16]),
        ],
    );
    let heads = import(&path, &small(8), Some("ema")).unwrap().left_out;
    assert_eq!(heads, "`ema.head.1.weight` [3, 16]");
    let training = import(&fixture("vit/training.pth"), &small(8), None).unwrap();
    assert_eq!(
        (training.left_out.as_str(), training.prefix.as_str()),
        ("", "")
    );
    let error = import(&fixture("vit/numbered.pth"), &small(8), None).unwrap_err();
    assert!(
        error.to_string().contains("`blocks.0.ls1.gamma`"),
        "{error}"
    );
}
