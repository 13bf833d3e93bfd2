//! The way in: `bench init`, `bench score FOLDER`, defaults, and errors that name everything that is missing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "start/places.rs"]
mod places;

use std::path::Path;

use common::{Bench, HEAD, RECIPE, ROWS, column, error};

/// Writes `count` images of two classes into `folder`.
fn classes(folder: &Path, count: u8) {
    for (class, add) in [("ant", 0), ("bee", 90)] {
        for at in 0..count {
            let path = folder.join(class).join(format!("{at:02}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let shade = |x: u32, y: u32| image::Rgb([at * 3 + add, (x * 9) as u8, (y * 7) as u8]);
            image::RgbImage::from_fn(20, 24, shade).save(path).unwrap();
        }
    }
}

/// Returns a folder `photos` with images in the folders `splits`.
fn photos(splits: &[&str]) -> Bench {
    let bench = Bench::new("");
    for split in splits {
        classes(&bench.path("photos").join(split), 12);
    }
    bench
}

#[test]
fn a_first_suite_is_written_for_every_layout_and_runs() {
    for (splits, said) in [
        (
            &["train", "val"][..],
            "24 train and 24 val images in class folders in train and val",
        ),
        (
            &["train"],
            "24 images in class folders in train, and no val",
        ),
        (&[""], "24 images in class folders, about 20 pixels"),
    ] {
        let bench = photos(splits);
        let found = bench.fine(&["init", "photos"]);
        assert!(found.contains(said), "{found}");
        assert!(found.contains("wrote photos.yaml"), "{found}");
        let text = std::fs::read_to_string(bench.path("photos.yaml")).unwrap();
        assert!(text.contains("image_size: 20\npatch_size: 4\n"), "{text}");
        let few = text.replace("[50, 100]", "[2,3]");
        std::fs::write(bench.path("photos.yaml"), &few).unwrap();
        bench.fine(&["validate", "photos.yaml"]);
        bench.fine(&["score", "photos.yaml", "--out", "out"]);
        let rows = [
            "K-means Pixel, K=2",
            "K-means Pixel, K=3",
            "K-means HOG, K=2",
            "K-means HOG, K=3",
        ];
        assert_eq!(column(&bench.path("out"), "tokenizer"), rows);
        bench.refused(&["init", "photos"], &["photos.yaml", "--out"]);
        // With a recipe, the same lines are no comments.
        bench.fine(&["init", "photos", "--train", "--out", "trained.yaml"]);
        let trained = std::fs::read_to_string(bench.path("trained.yaml")).unwrap();
        for key in ["baselines", "backbone", "pretrain", "knn", "linear_probe"] {
            let mut lines = trained.lines();
            let line = lines.find(|line| line.starts_with(&format!("{key}: ")));
            assert!(few.contains(&format!("\n# {}\n", line.unwrap())), "{key}");
        }
        if splits.len() == 1 {
            let without = trained.replace(", hold_out: 0.1", "");
            std::fs::write(bench.path("without.yaml"), without).unwrap();
            let tokenize = ["tokenize", "without.yaml", "--split", "val"];
            let row = ["--only", "K-means Pixel, K=50", "--out", "ids.npy"];
            let args = [&tokenize[..], &row].concat();
            bench.refused(&args, &["--split val: found no images"]);
            assert!(!bench.path("ids.npy").exists());
            for args in [
                &["validate", "without.yaml"][..],
                &["run", "without.yaml", "--dry-run"],
            ] {
                bench.refused(args, &["hold_out: 0.1", "bench score"]);
            }
        }
        let said = bench.fine(&["validate", "trained.yaml", "--set", "knn.k=5"]);
        assert!(said.contains("5 rows x 1 seeds"), "{said}");
    }
}

/// Packs the class folders of `photos/train` into two shards, `NAME-0.tar` and `NAME-1.tar`, in `photos`.
fn pack(bench: &Bench, name: &str) {
    let train = bench.path("photos/train");
    let class = |(at, class)| {
        let shard = bench.path(&format!("photos/{name}-{at}.tar"));
        let mut shard = tar::Builder::new(std::fs::File::create(shard).unwrap());
        shard.append_dir_all(class, train.join(class)).unwrap();
        for image in std::fs::read_dir(train.join(class)).unwrap() {
            let label = image.unwrap().path().with_extension("cls");
            std::fs::write(&label, class).unwrap();
            let name = Path::new(class).join(label.file_name().unwrap());
            shard.append_path_with_name(&label, name).unwrap();
        }
        shard.finish().unwrap();
    };
    ["ant", "bee"].into_iter().enumerate().for_each(class);
    std::fs::remove_dir_all(train).unwrap();
}

#[test]
fn shards_of_one_split_are_scored_and_a_part_is_held_out_for_training() {
    for name in ["train", "part"] {
        let bench = photos(&["train"]);
        pack(&bench, name);
        let found = bench.fine(&["init", "photos", "--train"]);
        assert!(
            found.contains("images in .tar shards of one split"),
            "{found}"
        );
        let trained = std::fs::read_to_string(bench.path("photos.yaml")).unwrap();
        assert!(trained.contains("hold_out: 0.1}"), "{trained}");
        assert!(
            trained.contains("image_size: 20\npatch_size: 4\n"),
            "{trained}"
        );
        bench.fine(&["validate", "photos.yaml"]);
        bench.fine(&["run", "photos.yaml", "--dry-run"]);
        let score = ["score", "photos", "--kmeans", "pixel", "--k", "2"];
        bench.fine(&[&score[..], &["--out", "out"]].concat());
        assert_eq!(
            column(&bench.path("out"), "tokenizer"),
            ["K-means Pixel, K=2"]
        );
        let without = trained.replace(", hold_out: 0.1", "");
        std::fs::write(bench.path("without.yaml"), without).unwrap();
        bench.refused(
            &["validate", "without.yaml"],
            &["hold_out: 0.1", "bench score"],
        );
    }
}

/// It failed after the whole pretraining.
#[test]
fn a_choice_without_images_to_hold_out_is_refused_before_any_work() {
    let bench = Bench::new("");
    for split in ["train", "val"] {
        classes(&bench.path("photos").join(split), 1);
    }
    bench.fine(&["init", "photos", "--train", "--k", "2"]);
    let run = ["run", "photos.yaml", "--set", "knn.k=1"];
    let said = ["linear_probe.base_lr", "no class has two train images"];
    bench.refused(&run, &said);
    assert!(!bench.path("runs/.store/pretrain").exists());
    let one = [
        &run[..],
        &["--dry-run", "--set", "linear_probe.base_lr=0.1"],
    ]
    .concat();
    bench.fine(&one);
}

/// It had an accuracy of 0 % on no images.
#[test]
fn a_bag_of_tokens_without_val_images_is_refused_before_any_work() {
    let bench = photos(&["train"]);
    bench.fine(&["init", "photos", "--k", "2"]);
    let bag = ["photos.yaml", "--set", "bag_of_tokens={}"];
    for verb in ["validate", "score"] {
        let args = [&[verb], &bag[..]].concat();
        bench.refused(&args, &["val", "hold_out: 0.1", "bag_of_tokens"]);
    }
    let held_out = ["--set", "dataset.hold_out=0.2", "--out", "out"];
    bench.fine(&[&["score"], &bag[..], &held_out].concat());
}

#[test]
fn a_folder_is_scored_without_a_suite() {
    let bench = photos(&[""]);
    bench.fine(&[
        "score",
        "photos",
        "--kmeans",
        "hog,pixel",
        "--k",
        "2,3",
        "--out",
        "out",
    ]);
    let out = bench.path("out");
    let rows = [
        "K-means HOG, K=2",
        "K-means HOG, K=3",
        "K-means Pixel, K=2",
        "K-means Pixel, K=3",
    ];
    assert_eq!(column(&out, "tokenizer"), rows);
    assert!(
        column(&out, "tcas")
            .iter()
            .all(|tcas| tcas.parse::<f64>().is_ok())
    );
    // The suite in the run folder is a suite.
    bench.fine(&["score", "out/suite.yaml", "--out", "again"]);
    assert_eq!(column(&bench.path("again"), "tcas"), column(&out, "tcas"));
    let bench = Bench::whole();
    bench.refused(
        &["score", "suite.yaml", "--k", "5"],
        &["--kmeans and --k", "no folder"],
    );
    bench.refused(&["score", "."], &["train/<class>"]);
    let wrong = bench.bench(&["score", ".", "--kmeans", "colours"]);
    assert!(
        error(&wrong).contains("possible values: pixel, hog"),
        "{}",
        error(&wrong)
    );
}

#[test]
fn all_missing_fields_are_named_at_once() {
    let bench = Bench::new(&format!(
        "pretrain:\n  epochs: 3\nfine_tune: {{epochs: 2, batch: 8}}\n{ROWS}"
    ));
    bench.refused(
        &["validate", "suite.yaml"],
        &[
            "suite.yaml: missing fields `dataset`, `image_size`, `patch_size`, `backbone`",
            "fine_tune (line 3): missing field `base_lr`",
            "pretrain (line 1): missing fields `batch`, `base_lr`",
        ],
    );
    let bench = Bench::new(&format!("{HEAD}tokenizers: [{{with: {{}}}}]\n"));
    bench.refused(
        &["validate", "suite.yaml"],
        &["tokenizers[0]: missing fields `name`, `kind`"],
    );
    // Those of the dataset and of every row too, but for swept ones.
    let bench = Bench::new(
        "dataset: {kind: image-folder}
tokenizers:
  - {name: A, kind: kmeans, with: {features: {kind: onnx}, epochs: 1}}
  - {kind: kmeans, with: {features: {kind: pixels}}, sweep: {k: [3]}}
",
    );
    bench.refused(
        &["validate", "suite.yaml"],
        &[
            "missing fields `image_size`, `patch_size`;",
            "; dataset (line 1): missing field `root`",
            "; tokenizers[0].with (line 3): missing field `k`",
            "; tokenizers[0].with.features (line 3): missing field `model`",
            "; tokenizers[1] (line 4): missing field `name`; tokenizers[1].with (line 4): missing field `epochs`",
        ],
    );
}

#[test]
fn all_wrong_rows_are_named_at_once() {
    let bench = Bench::new(&format!(
        "{HEAD}tokenizers:
  - {{name: A, kind: kmeans, with: {{features: {{kind: pixels}}, k: 0, epochs: 1}}}}
  - {{name: B, kind: kmeanz}}
  - {{name: C, kind: oracle}}
  - {{name: C, kind: oracle}}
"
    ));
    bench.refused(
        &["validate", "suite.yaml"],
        &[
            "2 rows are wrong:\n  suite.yaml:",
            "tokenizers[1].kind: ",
            "\n  suite.yaml:",
            "the name \"C\" occurs twice",
        ],
    );
}

#[test]
fn fields_with_one_sensible_value_have_defaults() {
    let plain = "dataset: {kind: mosaics, train: 96, val: 40, size: 16}
image_size: 16
patch_size: 4
backbone: {variant: nano}
pretrain: {epochs: 20, batch: 32, base_lr: 1.0e-3}
knn: {}
linear_probe: {epochs: 5, batch: 64, base_lr: 0.1}
fine_tune: {epochs: 2, batch: 32, base_lr: 1.0e-3}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 2}}
";
    let bench = Bench::new(plain);
    let shown = bench.fine(&["validate", "suite.yaml", "--resolved"]);
    for line in [
        "version: 1",
        "name: suite",
        "seeds:\n- 0\n",
        "eval_transform:\n  resize_shorter: 16\n  crop: 16",
        "warmup_epochs: 2.0",
        "weight_decay: 0.05",
        "mask_ratio: 0.75",
        "augment: random-resized-crop",
        "temperature: 0.07",
        "pooling: cls",
        "pooling: mean",
        "layer_decay: 0.75",
        "warmup_epochs: 0.5",
        "seed: 0",
        "restarts: 1",
    ] {
        assert!(shown.contains(line), "expected {line:?} in: {shown}");
    }
    // What is shown is a suite with the same result.
    std::fs::write(bench.path("shown.yaml"), &shown).unwrap();
    assert_eq!(bench.fine(&["validate", "shown.yaml", "--resolved"]), shown);
    // A model that is trained is named.
    let nameless = plain.replace("backbone: {variant: nano}\n", "");
    std::fs::write(bench.path("suite.yaml"), nameless).unwrap();
    bench.refused(
        &["validate", "suite.yaml"],
        &["backbone", "missing beside `pretrain`"],
    );
}

#[test]
fn a_suite_that_states_everything_resolves_to_itself() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}{RECIPE}"));
    let shown = bench.fine(&["validate", "suite.yaml", "--resolved"]);
    assert!(shown.contains("resize_shorter: 16"), "{shown}");
    assert!(shown.contains("warmup_epochs: 1.0"), "{shown}");
}

/// A name of digits would be a number in YAML.
#[test]
fn a_folder_may_be_called_like_a_number() {
    let bench = photos(&[""]);
    std::fs::rename(bench.path("photos"), bench.path("2024")).unwrap();
    bench.fine(&["init", "2024"]);
    bench.fine(&["validate", "2024.yaml"]);
}

/// It wrote the ids of one of them.
#[test]
fn only_one_row_can_be_tokenized() {
    let bench = Bench::whole();
    let args = [
        "tokenize",
        "suite.yaml",
        "--only",
        "K-means*",
        "--split",
        "val",
        "--out",
        "ids.npy",
    ];
    bench.refused(
        &args,
        &[
            "K-means Pixel, K=4",
            "K-means Pixel, K=8",
            "expected one row",
        ],
    );
    assert!(!bench.path("ids.npy").exists());
}

#[test]
fn a_folder_of_the_same_name_does_not_replace_a_run() {
    let bench = Bench::new("");
    for (place, count) in [("a", 12), ("b", 11), ("copy", 12)] {
        classes(&bench.path(place).join("photos"), count);
    }
    let score = |place: &str, more: &[&str]| {
        let folder = format!("{place}/photos");
        let args = ["score", &folder, "--kmeans", "hog", "--k", "2"];
        bench.bench(&[&args[..], more].concat())
    };
    assert!(score("a", &[]).status.success());
    for same in ["a", "./b/../a", "copy", "a"] {
        assert!(score(same, &[]).status.success(), "the same images");
    }
    let other = score("b", &[]);
    assert_eq!(other.status.code(), Some(2));
    let said = error(&other);
    for part in ["runs/photos", "a/photos", "b/photos", "--out"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(score("b", &["--out", "other"]).status.success());
    // A suite of that name, whose images may grow.
    let suite = |place: &str| {
        let rows =
            "tokenizers: [{name: H, kind: kmeans, with: {features: {kind: hog}, k: 2, epochs: 2}}]";
        let images = format!("dataset: {{kind: image-folder, root: {place}/photos}}");
        let head = "name: photos\nimage_size: 16\npatch_size: 4";
        std::fs::write(bench.path("s.yaml"), format!("{head}\n{images}\n{rows}\n")).unwrap();
    };
    suite("b");
    bench.refused(
        &["score", "s.yaml"],
        &["runs/photos", "a/photos", "b/photos", "--out"],
    );
    suite("a");
    classes(&bench.path("a/photos"), 13);
    bench.fine(&["score", "s.yaml"]);
    suite("b");
    bench.refused(
        &["score", "s.yaml"],
        &["runs/photos", "a/photos", "b/photos", "--out"],
    );
    std::fs::remove_dir_all(bench.path("a")).unwrap();
    assert!(score("b", &[]).status.success(), "images that are gone");
}

#[test]
fn shards_of_the_same_name_do_not_replace_a_run_either() {
    let bench = photos(&["train"]);
    pack(&bench, "train");
    let shards = ["train-0.tar", "train-1.tar"];
    for (place, shards) in [("a", &shards[..]), ("b", &shards[..1])] {
        let folder = bench.path(place).join("photos");
        std::fs::create_dir_all(&folder).unwrap();
        for shard in shards {
            // As in the cache of a hub, where files are links.
            let from = bench.path("photos").join(shard);
            std::os::unix::fs::symlink(from, folder.join(shard)).unwrap();
        }
    }
    let more = ["--kmeans", "pixel", "--k", "2"];
    for _ in 0..2 {
        bench.fine(&[&["score", "a/photos"][..], &more].concat());
    }
    let other = [&["score", "b/photos"][..], &more].concat();
    bench.refused(&other, &["runs/photos", "a/photos", "--out"]);
}

/// Such a name was an option of the next command, or a field of the suite.
#[test]
fn a_first_suite_of_a_folder_with_an_odd_name_can_be_used() {
    for (folder, file) in [
        ("\u{e9}t\u{e9}", "t.yaml"),
        ("\u{65e5}\u{672c}", "images.yaml"),
        ("#h", "h.yaml"),
        ("-- x", "x.yaml"),
        ("ab\nprecision: bf16\n#", "ab-precision--bf16.yaml"),
    ] {
        let bench = Bench::new("");
        classes(&bench.path(folder), 12);
        let said = bench.fine(&["init", "--", folder]);
        assert!(said.contains(&format!("wrote {file}")), "{said}");
        let found = bench.fine(&["validate", file, "--resolved"]);
        assert!(
            found.contains("image_size: 20") && !found.contains("\nprecision: bf16"),
            "{found}"
        );
    }
}

/// The next command refused the suite, or left out images without a word before it.
#[test]
fn a_first_suite_of_few_images_is_one_that_runs() {
    let bench = Bench::new("");
    classes(&bench.path("few"), 4);
    std::fs::write(bench.path("few/ant/scan.bmp"), "BM").unwrap();
    let k = ["init", "few", "--train", "--k"];
    let said = bench.fine(&[&k[..], &["5"]].concat());
    assert!(said.contains("skipped image ant/scan.bmp"), "{said}");
    let text = std::fs::read_to_string(bench.path("few.yaml")).unwrap();
    assert!(text.contains("\nknn: {k: 4}\n"), "{text}");
    bench.fine(&["run", "few.yaml", "--dry-run"]);
    std::fs::remove_file(bench.path("few.yaml")).unwrap();
    bench.refused(&[&k[..], &["1000"]].concat(), &["with.k", "1000"]);
    assert!(!bench.path("few.yaml").exists());
    std::fs::remove_dir_all(bench.path("few/bee")).unwrap();
    bench.refused(&[&k[..], &["2"]].concat(), &["class", "ant"]);
    let said = bench.fine(&["init", "few", "--k", "2"]);
    assert!(said.contains("ant"), "{said}");
}
