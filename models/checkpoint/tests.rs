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
        message(&dir.path().join("absent.safetensors"), &small(8)).contains("absent.safetensors")
    );
}

static DEEP: Preset = Preset { depth: 3, ..SMALL };
static SHALLOW: Preset = Preset { depth: 1, ..SMALL };
