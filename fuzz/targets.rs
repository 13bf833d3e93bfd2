//! The parsers of files from outside, each as a function of the bytes of a file.
//!
//! A target ends when the parser accepts or refuses its input. A panic, an abort, five seconds or a gigabyte are findings.
//! `tests/fuzz.rs` replays the corpora with these functions.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use serde_json::{Value, json};
use tessera::data::{self, Dataset, EvalTransform, ViewPlan};
use tessera::folder::data::RunData;
use tessera::folder::earlier::Earlier;
use tessera::folder::read;
use tessera::metrics::Table;
use tessera::models::checkpoint;
use tessera::models::vit::{Preset, VitConfig};
use tessera::reports::compare::{Gate, Side, regression};
use tessera::reports::figures::figures;
use tessera::reports::{render, tables};
use tessera::suite::Suite;
use tessera::{
    BuildContext, Config, Grid, Groups, Image, InputSpec, Registry, Split, TargetSpec, onnx,
    read_replies,
};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Gives an input to a parser.
pub type Parser = fn(&[u8]);

/// Name and function of every target.
pub const TARGETS: &[(&str, Parser)] = &[
    ("suite", suite),
    ("manifest", manifest),
    ("npy", npy),
    ("cifar", cifar),
    ("shard", shard),
    ("jpeg", image),
    ("image", image),
    ("pth", |input| checkpoint_at("file.pth", input)),
    ("pickle", pickle),
    ("safetensors", |input| {
        checkpoint_at("file.safetensors", input)
    }),
    ("onnx", graph),
    ("results", results),
    ("replies", replies),
];

/// Calls `with` with a folder that is kept for the thread, because a new one per input costs more than most parsers.
fn in_folder(with: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
    }
    FOLDER.with(|folder| with(folder.path()));
}

/// Writes a file and the folders above it.
fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file in the folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

fn suite(input: &[u8]) {
    in_folder(|dir| {
        let path = dir.join("suite.yaml");
        put(&path, input);
        let registry = Registry::builtin();
        if let Ok(mut suite) = Suite::load(&path, &[], &registry) {
            let cx = BuildContext::alone(&registry, suite.file.image_size, suite.grid());
            let _ = suite.check_rows(&cx);
            let _ = suite.check_training(&registry);
        }
    });
}

/// The manifest of a graph whose digest is put in place of `DIGEST`.
fn manifest(input: &[u8]) {
    let digest = include_str!("graph.sha256").trim();
    let text = String::from_utf8_lossy(input).replace("DIGEST", digest);
    in_folder(|dir| {
        let model = dir.join("graph.onnx");
        put(&model, include_bytes!("graph.onnx"));
        put(&dir.join("graph.yaml"), text.as_bytes());
        build("onnx-ids", json!({"model": model}));
    });
}

/// Builds the tokenizer of a row of a suite with 4 x 4 patches of 4 x 4 pixels.
fn build(kind: &str, with: Value) {
    let registry = Registry::builtin();
    let cx = BuildContext::alone(&registry, 16, Grid { rows: 4, cols: 4 });
    let with = Config::from_value(with);
    let factory = registry.tokenizer(kind, &with).expect("a builtin kind");
    let _ = factory.build(&with, &cx);
}

/// Ids of a row, predictions and counts of a run folder.
fn npy(input: &[u8]) {
    in_folder(|dir| {
        let path = dir.join("counts.npy");
        put(&path, input);
        build("token-file", json!({"train": path, "codebook_size": 7}));
        let _ = read::numbers(&path);
        let _ = Table::load(dir).map(|mut table| table.values(1.0));
    });
}

fn cifar(input: &[u8]) {
    let (classes, names) = match input.first() {
        Some(0) => (100, &["train.bin", "test.bin", "fine_label_names.txt"][..]),
        _ => (
            10,
            &[
                "test_batch.bin",
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ][..],
        ),
    };
    in_folder(|dir| {
        for name in names {
            put(&dir.join(name), input.get(1..).unwrap_or_default());
        }
        dataset(
            dir,
            json!({"kind": "cifar-binary", "root": dir, "classes": classes}),
        );
    });
}

fn shard(input: &[u8]) {
    in_folder(|dir| {
        let path = dir.join("shard.tar");
        put(&path, input);
        dataset(
            dir,
            json!({"kind": "webdataset", "train": path, "val": path}),
        );
    });
}

/// Decodes an image at its own size, and for `fast_decode`.
fn image(input: &[u8]) {
    in_folder(|dir| {
        let path = dir.join("train/a/image.png");
        put(&path, input);
        // A small file may claim a hundred million pixels; once is enough.
        let small = |image: Image| image.width * image.height <= 1 << 20;
        if data::decode_file(&path).is_ok_and(small) {
            put(&dir.join("val/a/image.png"), input);
            let with = json!({"kind": "image-folder", "root": dir, "fast_decode": true});
            dataset(dir, with);
        }
    });
}

/// Scans a dataset, and renders its first image.
fn dataset(dir: &Path, with: Value) {
    let _ = fs::remove_dir_all(dir.join("cache"));
    let spec = Registry::builtin().dataset(&Config::from_value(with));
    let spec = spec.expect("right fields");
    let Ok(scan) = data::scan(&*spec, &dir.join("cache"), &|_, _, _| (), &|| false) else {
        return;
    };
    let Ok(mut dataset) = Dataset::open(&*spec, &scan) else {
        return;
    };
    dataset.decode_for(8);
    let eval = EvalTransform {
        resize_shorter: 8,
        crop: 8,
    };
    if let Ok(view) = dataset.view(Split::Val, &[0], ViewPlan::Eval, eval) {
        let _ = view.as_view().render(&InputSpec::imagenet(8));
    }
}

fn checkpoint_at(name: &str, input: &[u8]) {
    static TINY: Preset = Preset {
        name: "tiny",
        width: 16,
        depth: 2,
        heads: 2,
        decoder_width: 8,
        decoder_depth: 1,
        decoder_heads: 2,
    };
    let vit = VitConfig {
        preset: &TINY,
        image_size: 8,
        patch_size: 4,
    };
    in_folder(|dir| {
        let path = dir.join(name);
        put(&path, input);
        let _ = checkpoint::import(&path, &vit, None);
        let _ = checkpoint::import(&path, &vit, Some("teacher.backbone"));
        let _ = checkpoint::preset(&path);
    });
}

/// The pickle of a `.pth`, in an archive with right checksums and storages of numbers.
fn pickle(input: &[u8]) {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let numbers: Vec<u8> = (0..1024_u16)
        .flat_map(|n| f32::from(n).to_le_bytes())
        .collect();
    for (name, bytes) in [
        ("a/data.pkl", input),
        ("a/data/0", &numbers),
        ("a/data/1", &numbers),
    ] {
        archive
            .start_file(name, SimpleFileOptions::default())
            .expect("an archive in memory");
        archive.write_all(bytes).expect("an archive in memory");
    }
    let archive = archive.finish().expect("an archive in memory");
    checkpoint_at("file.pth", archive.get_ref());
}

fn graph(input: &[u8]) {
    let _ = onnx::check(input, None);
    let _ = onnx::check(input, Some("ids"));
}

/// What a program of a row writes for batches of two images: ids, codes or values by the first byte.
fn replies(input: &[u8]) {
    let groups = Groups::new(&[3, 5]).expect("two groups");
    let target = match input.first() {
        Some(0) => TargetSpec::Values { dim: 3 },
        Some(1) => TargetSpec::Codes { groups },
        _ => TargetSpec::Ids { codebook_size: 7 },
    };
    let grid = Grid { rows: 4, cols: 4 };
    let _ = read_replies(input.get(1..).unwrap_or_default(), target, (2, grid));
}

/// Reads the run in `dir` from `results.csv`, a zero byte, and `metrics.csv`, with a suite of the results' name.
pub fn run_of(input: &[u8], dir: &Path) -> Option<RunData> {
    let mut files = input.splitn(2, |byte| *byte == 0);
    for name in ["results.csv", "metrics.csv"] {
        put(&dir.join(name), files.next().unwrap_or_default());
    }
    let suite = Earlier::of(dir).ok()?.records?.pop()?.suite;
    put(
        &dir.join("suite.yaml"),
        format!("name: {}\n", json!(suite)).as_bytes(),
    );
    read::whole(dir).ok()
}

/// Computes from a run what `bench report` and `bench compare` compute.
fn results(input: &[u8]) {
    in_folder(|dir| {
        let Some(run) = run_of(input, dir) else {
            return;
        };
        let cx = run.table_context(run.comparisons());
        for table in tables() {
            let _ = render(table.number, &run.records, &cx);
        }
        let (drawn, predictors) = figures(&run.records, &run.figure_data());
        let _ = run.page(drawn, predictors, Vec::new());
        let side = Side {
            metrics: run.metric_rows(),
            records: run.records,
            ..Side::default()
        };
        let found = regression(&side, &side, &Gate::default());
        let _ = (found.text(true), found.markdown());
    });
}
