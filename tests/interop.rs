//! Exchanges models with PyTorch.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use common::{Bench, HEAD, RECIPE, ROWS, column};
use tessera_models::vit::{self, VitConfig};
use tessera_models::{ParamStore, checkpoint, params};

/// Returns a second suite that evaluates the first one's pretrained encoder.
fn elsewhere(checkpoint: &str) -> String {
    format!(
        "{HEAD}tokenizers: [{{name: Theirs, kind: none, override: {{pretrain: {{checkpoint: {checkpoint}}}}}}}]\n\
         baselines: [no-pretraining]\n{RECIPE}"
    )
    .replace("name: tiny", "name: elsewhere")
}

#[test]
fn a_checkpoint_gives_the_same_results_in_another_suite() {
    let bench = Bench::whole();
    bench.fine(&[
        "run",
        "suite.yaml",
        "--only",
        "Identity",
        "--set",
        "seeds=[1]",
    ]);
    let made = "runs/tiny/cells/identity-s1/encoder.safetensors";
    std::fs::write(bench.path("other.yaml"), elsewhere(made)).unwrap();
    let arguments = [
        "run",
        "other.yaml",
        "--set",
        "seeds=[1]",
        "--store",
        "other",
    ];
    let plan = bench.fine(&[&arguments[..], &["--dry-run"]].concat());
    assert!(
        plan.contains("import to compute") && !plan.contains("pretrain to compute"),
        "{plan}"
    );
    bench.fine(&arguments);
    let (ours, theirs) = (bench.path("runs/tiny"), bench.path("runs/elsewhere"));
    assert_eq!(column(&theirs, "tokenizer"), ["No pretraining", "Theirs"]);
    for name in ["knn_top1", "lp_top1", "ft_top1"] {
        assert_eq!(column(&ours, name)[0], column(&theirs, name)[1], "{name}");
    }
    assert_eq!(column(&theirs, "pretrain_epochs"), ["", ""]);
    let table = std::fs::read_to_string(theirs.join("tables/table1.md")).unwrap();
    assert!(table.contains("Theirs: pretrain.checkpoint = "), "{table}");
    assert!(theirs.join("cells/theirs-s1/encoder.safetensors").is_file());
}

/// The file has no classifier, so the next suite took its encoder for one without labels.
#[test]
fn an_encoder_that_was_trained_with_labels_says_so_in_its_file() {
    let rows = "tokenizers: [{name: Labels, kind: oracle}]\n";
    let recipe =
        "pretrain: {epochs: 1, batch: 32, base_lr: 1.0e-3, warmup_epochs: 0}\nknn: {k: 5}\n";
    let bench = Bench::new(&format!("{HEAD}{rows}{recipe}"));
    bench.fine(&["run", "suite.yaml", "--out", "out"]);
    let made = "out/cells/labels-s0/encoder.safetensors";
    let features = format!(
        "{{name: F, kind: kmeans, with: {{features: {{kind: checkpoint, file: {made}}}, k: 4, epochs: 1, batch: 32}}}}"
    );
    let next = format!(
        "{HEAD}tokenizers: [{{name: Theirs, kind: none}}, {features}]\npretrain: {{checkpoint: {made}}}\nknn: {{k: 5}}\n"
    );
    std::fs::write(bench.path("next.yaml"), next).unwrap();
    bench.fine(&["run", "next.yaml", "--out", "next"]);
    assert_eq!(column(&bench.path("next"), "saw_labels"), ["true"; 4]);
    // The file that the import wrote says it, too.
    let imported = bench.path("next/cells/theirs-s0/encoder.safetensors");
    assert!(checkpoint::has_classifier(&imported, None).unwrap());
}

#[test]
fn a_suite_may_consist_of_a_checkpoint() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}{RECIPE}"));
    save(&random("nano", 16, 4), &bench.path("model.safetensors"));
    let recipe = RECIPE.split_once('\n').unwrap().1;
    let suite = format!(
        "{HEAD}tokenizers: [{{name: Theirs, kind: none}}]\npretrain: {{checkpoint: model.safetensors}}\n{recipe}"
    );
    std::fs::write(bench.path("suite.yaml"), suite).unwrap();
    bench.fine(&["validate", "suite.yaml"]);
    bench.fine(&[
        "run",
        "suite.yaml",
        "--set",
        "fine_tune=null",
        "--set",
        "seeds=[0]",
    ]);
    assert_eq!(column(&bench.path("runs/tiny"), "status"), ["ok"]);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_before_any_work() {
    let bench = Bench::new(&elsewhere("absent.pth"));
    bench.refused(
        &["run", "suite.yaml"],
        &["suite.yaml:", "absent.pth does not exist", "optional"],
    );
    save(
        &random("Ti", 16, 4),
        &bench.path("absent.pth").with_extension("safetensors"),
    );
    std::fs::write(bench.path("suite.yaml"), elsewhere("absent.safetensors")).unwrap();
    bench.refused(
        &["run", "suite.yaml"],
        &["checkpoint", "has shape", "backbone.variant"],
    );
    let beside =
        elsewhere("absent.safetensors").replace("{checkpoint: ", "{epochs: 5, checkpoint: ");
    std::fs::write(bench.path("suite.yaml"), beside).unwrap();
    bench.refused(
        &["run", "suite.yaml"],
        &["override.pretrain.epochs", "has no effect with"],
    );
    let nothing = format!("{HEAD}tokenizers: [{{name: Theirs, kind: none}}]\n{RECIPE}");
    std::fs::write(bench.path("suite.yaml"), nothing).unwrap();
    bench.refused(
        &["run", "suite.yaml"],
        &["tokenizers[0].kind", "pretrained elsewhere"],
    );
    let missing = format!(
        "{HEAD}{ROWS}{}",
        RECIPE.replace("batch: 32, base_lr: 1.0e-3, warmup_epochs: 1, ", "")
    );
    std::fs::write(bench.path("suite.yaml"), missing).unwrap();
    bench.refused(
        &["run", "suite.yaml"],
        &["pretrain", "missing fields `batch`, `base_lr`"],
    );
}

/// timm loads the files with `strict=True` and computes the same tokens. Needs Python with timm and safetensors.
#[test]
fn timm_loads_our_files_strictly() {
    let Some(python) = python() else {
        common::skipped(
            "no Python with timm and safetensors (TESSERA_PYTHON, VIRTUAL_ENV or python3)",
        );
        return;
    };
    let bench = Bench::whole();
    bench.fine(&[
        "run",
        "suite.yaml",
        "--only",
        "Identity",
        "--set",
        "seeds=[0]",
    ]);
    let cell = bench.path("runs/tiny/cells/identity-s0");
    let folder = bench.path("check");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(
        cell.join("encoder.safetensors"),
        folder.join("small.safetensors"),
    )
    .unwrap();
    std::fs::copy(
        cell.join("finetuned.safetensors"),
        folder.join("finetuned.safetensors"),
    )
    .unwrap();
    let nano = config("nano", 16, 4);
    let trained = checkpoint::import(&folder.join("small.safetensors"), &nano, None)
        .unwrap()
        .params;
    save_tokens(&trained, &nano, &folder.join("tokens_small.safetensors"));
    let small = config("S", 224, 16);
    let encoder = vit::encoder(&small, 7).unwrap();
    save(&encoder, &folder.join("vit_s.safetensors"));
    save_tokens(&encoder, &small, &folder.join("tokens_vit_s.safetensors"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vit/check.py");
    let output = Command::new(python)
        .arg(script)
        .arg(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", common::error(&output));
    assert_eq!(said.matches("strict load").count(), 3, "{said}");
}

/// Two encoders in one file, of another grid of patches: which one was taken must be visible wherever a reader looks.
#[test]
fn a_run_says_what_it_took_of_a_checkpoint() {
    let rows = "tokenizers:
  - {name: Theirs, kind: none, override: {pretrain: {checkpoint: both.safetensors, checkpoint_prefix: student, checkpoint_scale: minus-one-one}}}
  - {name: F, kind: kmeans, with: {features: {kind: checkpoint, file: both.safetensors, variant: nano, prefix: teacher.backbone}, k: 4, epochs: 1, batch: 32}}\n";
    let bench = Bench::new(&format!("{HEAD}{rows}{RECIPE}"));
    let encoder = random("nano", 28, 4);
    let named = |prefix: &str| {
        let tensor = |name: &String| {
            let values = encoder.get(name).unwrap();
            let flat = values.flatten_all().unwrap().to_vec1().unwrap();
            (format!("{prefix}{name}"), values.dims().to_vec(), flat)
        };
        encoder.names().iter().map(tensor).collect::<Vec<_>>()
    };
    let tensors = [named("student."), named("teacher.backbone.")].concat();
    let file = bench.path("both.safetensors");
    params::write(&file, tensors, Default::default()).unwrap();
    let short = [
        "--set",
        "seeds=[0]",
        "--set",
        "fine_tune=null",
        "--set",
        "linear_probe=null",
    ];
    let [encoder, features] = [("student.", "minus-one-one"), ("teacher.backbone.", "imagenet")]
        .map(|(prefix, scale)| {
            format!("both.safetensors, prefix `{prefix}`, positions resampled from 7x7, images scaled by {scale}")
        });
    // The second run finds everything in the store.
    for out in ["first", "second"] {
        let run = [&["run", "suite.yaml", "--out", out], &short[..]].concat();
        let output = bench.bench(&run);
        let said = common::error(&output);
        assert!(output.status.success(), "{said}");
        for line in [
            format!("Theirs: encoder of {encoder}"),
            format!("F: features of {features}"),
        ] {
            assert_eq!(said.matches(&line).count(), 1, "{out}: {line} in {said}");
        }
        let run = bench.path(out);
        assert_eq!(column(&run, "encoder_checkpoint"), [encoder.as_str(), ""]);
        assert_eq!(column(&run, "features_checkpoint"), ["", features.as_str()]);
        let about = std::fs::read_to_string(run.join("environment.json")).unwrap();
        let about: serde_json::Value = serde_json::from_str(&about).unwrap();
        assert_eq!(about["models"]["F"]["checkpoint"], features.as_str());
        let page = std::fs::read_to_string(run.join("report.html")).unwrap();
        let note = format!("Theirs (encoder of {encoder}); F (features of {features})");
        assert!(page.contains(&note), "{note}");
        assert!(
            page.contains(&format!("[\"features of\",\"{features}\"]")),
            "the card"
        );
    }
}

fn config(variant: &str, image_size: usize, patch_size: usize) -> VitConfig {
    VitConfig {
        preset: vit::preset(variant).unwrap(),
        image_size,
        patch_size,
    }
}

fn random(variant: &str, image_size: usize, patch_size: usize) -> ParamStore {
    vit::encoder(&config(variant, image_size, patch_size), 0).unwrap()
}

fn save(params: &ParamStore, path: &Path) {
    params.save(path, Default::default()).unwrap();
}

/// Saves the tokens of the formula's image (`tests/fixtures/reference.py`).
fn save_tokens(encoder: &ParamStore, vit: &VitConfig, path: &Path) {
    let side = vit.image_size;
    let hash = |i: u32| {
        let x = i.wrapping_add(5_u32.wrapping_mul(0x9E37_79B9));
        let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        x ^ (x >> 16)
    };
    let image =
        (0..3 * (side * side) as u32).map(|i| (f64::from(hash(i)) / 2_f64.powi(31) - 1.0) as f32);
    let image =
        Tensor::from_vec(image.collect::<Vec<_>>(), (1, 3, side, side), &Device::Cpu).unwrap();
    let embedded = vit::embed(encoder, vit, &image).unwrap();
    let tokens = vit::encode_tokens(
        encoder,
        vit,
        &embedded,
        &|_, _| None,
        &vit::Pass::inference(),
    )
    .unwrap();
    let tokens = tokens.normed(encoder).unwrap().squeeze(0).unwrap();
    let shape = tokens.dims().to_vec();
    let values = tokens.flatten_all().unwrap().to_vec1().unwrap();
    params::write(
        path,
        vec![("tokens".into(), shape, values)],
        Default::default(),
    )
    .unwrap();
}

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("TESSERA_PYTHON").map(PathBuf::from);
    let environment = std::env::var_os("VIRTUAL_ENV").map(|e| PathBuf::from(e).join("bin/python"));
    let all = named
        .into_iter()
        .chain(environment)
        .chain([PathBuf::from("python3")]);
    all.into_iter().find(|python| {
        let mut command = Command::new(python);
        let ended = command
            .args(["-c", "import timm, safetensors.torch"])
            .output();
        ended.is_ok_and(|output| output.status.success())
    })
}
