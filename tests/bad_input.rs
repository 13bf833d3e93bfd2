//! Invalid suites and data: exit status 2 before any work, with file, line, field, found and expected value, and remedy.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{Bench, HEAD, RECIPE, ROWS, column, error};

/// Returns the small suite over a folder of images.
fn folder_suite(more: &str) -> String {
    let head = HEAD.replace(
        "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}",
        "{kind: image-folder, root: images}",
    );
    format!(
        "{head}tokenizers: [{{name: K, kind: kmeans, with: {{features: {{kind: pixels}}, k: 2, epochs: 1}}}}]\n{more}"
    )
}

fn png(path: &Path, shade: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_fn(20, 20, |x, y| {
        image::Rgb([shade, (x * 9) as u8, (y * 7) as u8])
    })
    .save(path)
    .unwrap();
}

/// Creates two classes of `per_class` images in both splits.
fn images(bench: &Bench, per_class: u8) {
    for split in ["train", "val"] {
        for class in ["ant", "bee"] {
            for at in 0..per_class {
                png(
                    &bench.path(&format!("images/{split}/{class}/{at:03}.png")),
                    at,
                );
            }
        }
    }
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_name() {
    let bench = Bench::new(&format!(
        "{HEAD}{ROWS}{}",
        RECIPE.replace("epochs: 3", "epochz: 3")
    ));
    bench.refused(
        &["run", "suite.yaml"],
        &["suite.yaml:", "pretrain", "epochz", "epochs"],
    );
}

#[test]
fn a_wrong_type_inside_with_names_file_line_and_field() {
    let rows = "tokenizers:
  - name: K
    kind: kmeans
    with:
      features: {kind: pixels}
      k: many
      epochs: 1
";
    let bench = Bench::new(&format!("{HEAD}{rows}"));
    bench.refused(
        &["score", "suite.yaml"],
        &["suite.yaml:14", "tokenizers[0].with.k", "many"],
    );
}

#[test]
fn a_missing_dataset_folder_error_describes_the_layout() {
    let bench = Bench::new(&folder_suite(""));
    bench.refused(&["score", "suite.yaml"], &["images", "train/<class>"]);
}

#[test]
fn an_empty_class_folder_is_named() {
    let bench = Bench::new(&folder_suite(""));
    images(&bench, 3);
    for split in ["train", "val"] {
        std::fs::create_dir_all(bench.path(&format!("images/{split}/cat"))).unwrap();
    }
    bench.refused(&["score", "suite.yaml"], &["cat"]);
}

#[test]
fn splits_with_different_classes_are_refused() {
    let bench = Bench::new(&folder_suite(""));
    images(&bench, 3);
    png(&bench.path("images/train/wasp/0.png"), 1);
    bench.refused(&["score", "suite.yaml"], &["wasp", "val"]);
}

#[test]
fn a_broken_image_among_good_ones_is_skipped_and_counted() {
    let bench = Bench::new(&folder_suite(""));
    images(&bench, 60);
    std::fs::write(
        bench.path("images/train/ant/broken.jpg"),
        b"\xff\xd8 not a picture",
    )
    .unwrap();
    // A terminal would obey this name.
    std::fs::write(bench.path("images/train/ant/\u{1b}[31mred.png"), b"x").unwrap();
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert!(output.status.success(), "{}", error(&output));
    assert!(error(&output).contains("broken.jpg"), "{}", error(&output));
    let out = bench.path("out");
    let listed = std::fs::read_to_string(out.join("skipped_images.txt")).unwrap();
    assert!(listed.contains("train/ant/broken.jpg\t"), "{listed}");
    assert!(
        listed.contains("train/ant/\\u{1b}[31mred.png\t"),
        "{listed}"
    );
    assert_eq!(column(&out, "skipped_images"), ["2", "2"]);
    assert_eq!(column(&out, "n_train"), ["120", "120"]);
}

#[test]
fn many_broken_images_stop_the_run() {
    let bench = Bench::new(&folder_suite(""));
    images(&bench, 10);
    for at in 0..3 {
        std::fs::write(
            bench.path(&format!("images/train/ant/broken{at}.png")),
            b"no",
        )
        .unwrap();
    }
    bench.refused(&["score", "suite.yaml"], &["broken", "at most 1 %"]);
}

#[test]
fn more_codes_than_patches_are_refused() {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    let parts = ["99999", "patches"];
    bench.refused(
        &[
            "score",
            "suite.yaml",
            "--set",
            "tokenizers[1].sweep.k=[99999]",
        ],
        &parts,
    );
}

#[test]
fn a_run_folder_that_cannot_be_written_is_refused() {
    let bench = Bench::whole();
    std::fs::write(bench.path("file"), b"").unwrap();
    bench.refused(
        &["run", "suite.yaml", "--out", "file/out"],
        &["file/out", "--out"],
    );
    bench.refused(
        &["run", "suite.yaml", "--store", "file/store"],
        &["file/store", "--store"],
    );
    std::fs::create_dir(bench.path("full")).unwrap();
    std::fs::write(bench.path("full/thesis.tex"), b"").unwrap();
    bench.refused(
        &["run", "suite.yaml", "--out", "full"],
        &["thesis.tex", "not a run folder"],
    );
}

/// Every number out of its range is refused by its field, before any work.
#[test]
fn numbers_out_of_range_are_refused() {
    let bench = Bench::whole();
    for (field, values) in [
        (
            "pretrain.base_lr",
            &["-0.1", "0", ".nan", ".inf", "1.0e400"][..],
        ),
        ("pretrain.weight_decay", &["-0.05", ".nan"]),
        ("pretrain.warmup_epochs", &["-1", "3.5", ".inf"]),
        ("pretrain.label_smoothing", &["-0.1", "1"]),
        ("pretrain.mask_ratio", &["0", "1", "-0.5", "1.5"]),
        (
            "pretrain.crop_scale",
            &["[0, 1]", "[0.5, 0.2]", "[0.5, 1.5]"],
        ),
        ("knn.temperature", &["0", "-0.07"]),
        ("knn.k", &["0", "97"]),
        (
            "linear_probe.base_lr",
            &["-1", "[]", "[0.1, -1]", "[0.1, 0.1]", "[0.1, .nan]", "fast"],
        ),
        ("linear_probe.weight_decay", &["-1"]),
        ("linear_probe.warmup_epochs", &["6", "-1"]),
        ("linear_probe.crop_scale", &["[-1, 1]", "[0.2, 1]"]),
        ("fine_tune.base_lr", &["-1"]),
        ("fine_tune.from_scratch_base_lr", &["0"]),
        ("fine_tune.layer_decay", &["0", "1.1", "5e-324", "1e-12"]),
        ("fine_tune.weight_decay", &["-1"]),
        // A rate that rises to it.
        ("fine_tune.min_lr", &["-1", "1000"]),
        ("fine_tune.warmup_epochs", &["2.5"]),
        ("fine_tune.label_smoothing", &["1"]),
        ("fine_tune.drop_path", &["1", "-0.1"]),
        ("fine_tune.mixup", &["-0.8"]),
        ("fine_tune.cutmix", &["-1"]),
        ("fine_tune.random_erasing", &["1.1"]),
        ("fine_tune.crop_scale", &["[0.2, 0.1]"]),
    ] {
        for value in values {
            let set = format!("{field}={value}");
            bench.refused(
                &["run", "suite.yaml", "--out", "out", "--set", &set],
                &[field],
            );
        }
    }
}

#[test]
fn more_neighbours_than_images_are_refused_before_any_work() {
    let bench = Bench::whole();
    let args = ["validate", "suite.yaml", "--set", "knn.k=97"];
    let said = ["suite.yaml: knn.k: ", "k is 97", "(from --set knn.k)"];
    bench.refused(&args, &said);
    let own = "tokenizers[0].override={knn: {k: 97}}";
    let own = ["validate", "suite.yaml", "--set", own];
    let set = ".override.knn.k: row ";
    bench.refused(&own, &[set, "(from --set tokenizers[0].override)"]);
    bench.fine(&["validate", "suite.yaml", "--set", "knn.k=96"]);
}

#[test]
fn an_empty_split_is_refused_and_an_absent_val_class_is_said() {
    let bench = Bench::whole();
    let run = |set| bench.bench(&["score", "suite.yaml", "--out", "out", "--set", set]);
    for (set, parts) in [
        (
            "dataset.train=4",
            "found 4, expected a whole number of at least 10",
        ),
        ("dataset.val=0", "val"),
        ("dataset.train=0", "train"),
    ] {
        let output = run(set);
        assert_eq!(output.status.code(), Some(2), "{set}");
        assert!(error(&output).contains(parts), "{set}: {}", error(&output));
    }
    let output = run("dataset.val=7");
    assert!(output.status.success());
    let said = error(&output);
    assert!(said.contains("no images of 3 of 10 classes"), "{said}");
}

/// Upper bounds: refused at once, instead of memory or threads without end.
#[test]
fn absurd_sizes_are_refused() {
    let bench = Bench::whole();
    let run = ["run", "suite.yaml", "--out", "out"];
    for (more, part) in [
        (
            ["--threads", "1000000"],
            "--threads 1000000: expected 1 to 1024",
        ),
        (
            ["--set", "image_size=1000000000"],
            "image_size: found 1000000000, expected a whole number of at least 1 and at most 16384",
        ),
        (
            ["--set", "eval_transform.resize_shorter=1000000000"],
            "resize_shorter: found 1000000000, expected a whole number of at least 1 and at most 16384",
        ),
        (
            ["--set", "metrics.tcas_sharp_t=0"],
            "metrics.tcas_sharp_t: found 0, expected a number above 0 and at most 1000",
        ),
        (
            ["--set", "pretrain.epochs=0"],
            "pretrain.epochs: found 0, expected a whole number of at least 1 and at most 1000000",
        ),
        (
            ["--set", "tokenizers[1].sweep.k=[4294967296]"],
            "with.k: found 4294967296, expected a whole number of at least 1 and at most 16777216",
        ),
        (
            ["--workers", "1000000"],
            "--workers 1000000: expected at most 1024",
        ),
        (
            ["--set", "patch_size=16"],
            "patch_size: found 16, the whole image, expected at most half of image_size (16)",
        ),
        (
            ["--set", "patch_size=0"],
            "patch_size: found 0, expected a whole number of at least 1",
        ),
    ] {
        bench.refused(&[&run[..], &more].concat(), &[part]);
    }
}

/// A reader of a pipe without a writer would wait for ever.
#[test]
#[cfg(unix)]
fn pipes_and_folders_are_no_files() {
    let file = "{name: F, kind: token-file, with: {train: wrong, codebook_size: 4}}";
    let graph = "{name: G, kind: onnx-ids, with: {model: wrong, codebook_size: 4, input: {scale: zero-one}}}";
    let weights = "{name: C, kind: none, override: {pretrain: {checkpoint: wrong}}}";
    let features = "{name: W, kind: continuous, with: {features: {kind: checkpoint, file: wrong, variant: nano}}}";
    for is_pipe in [true, false] {
        for row in [file, graph, weights, features] {
            let bench = Bench::new(&format!("{HEAD}tokenizers: [{row}]\n{RECIPE}"));
            let (path, found) = (
                bench.path("wrong"),
                ["a folder", "a pipe"][usize::from(is_pipe)],
            );
            match is_pipe {
                true => assert!(
                    std::process::Command::new("mkfifo")
                        .arg(&path)
                        .status()
                        .unwrap()
                        .success()
                ),
                false => std::fs::create_dir(&path).unwrap(),
            }
            bench.refused(
                &["validate", "suite.yaml"],
                &["wrong", found, "expected a regular file"],
            );
            bench.refused(
                &["validate", "wrong"],
                &["wrong", found, "expected a regular file"],
            );
        }
    }
}

/// Class lists are read before anything else, also by `validate`.
#[test]
#[cfg(unix)]
fn a_pipe_in_place_of_a_list_is_refused() {
    let bench = Bench::whole();
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("wrong"))
        .status();
    assert!(made.unwrap().success());
    std::fs::create_dir_all(bench.path("images/ant")).unwrap();
    std::fs::write(bench.path("images/ant/0.png"), "").unwrap();
    let list = "dataset={kind: image-folder, root: images, classes: wrong}";
    bench.refused(
        &["validate", "suite.yaml", "--set", list],
        &["a pipe", "expected a regular file"],
    );
}

#[test]
fn texts_in_other_encodings_are_refused_with_their_line() {
    let bench = Bench::whole();
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let little: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let latin = text
        .replace("Identity", "Identit\u{e9}")
        .chars()
        .map(|c| c as u32 as u8)
        .collect();
    for (bytes, part) in [(little, "found UTF-16"), (latin, "0xe9 in line 10")] {
        std::fs::write(bench.path("suite.yaml"), bytes).unwrap();
        bench.refused(&["validate", "suite.yaml"], &["suite.yaml", part, "UTF-8"]);
        let said = error(&bench.bench(&["validate", "suite.yaml"]));
        assert!(!said.contains("give the path"), "{said}");
    }
    let parts = ["absent.yaml", "give the path of a suite file"];
    bench.refused(&["validate", "absent.yaml"], &parts);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n";
    std::fs::write(bench.path("suite.yaml"), pointer).unwrap();
    bench.refused(&["validate", "suite.yaml"], &["suite.yaml", "git lfs pull"]);
    std::fs::write(bench.path("suite.yaml"), text.replace("seeds:", "\tseeds:")).unwrap();
    bench.refused(
        &["validate", "suite.yaml"],
        &["suite.yaml:3", "a tab", "spaces"],
    );
    std::fs::write(bench.path("suite.yaml"), format!("\u{feff}{text}")).unwrap();
    bench.fine(&["validate", "suite.yaml"]);
}

#[test]
#[cfg(unix)]
fn a_pipe_among_the_images_is_named_and_never_opened() {
    let bench = Bench::new(&folder_suite(""));
    images(&bench, 3);
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("images/train/ant/pipe.png"))
        .status();
    assert!(made.unwrap().success());
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert!(output.status.success(), "{}", error(&output));
    let said = error(&output);
    assert!(
        said.contains("ant/pipe.png: is a pipe, socket or device; remove it"),
        "{said}"
    );
    assert_eq!(column(&bench.path("out"), "skipped_images")[0], "1");
}

#[test]
fn a_name_longer_than_the_file_system_takes_has_a_folder() {
    let rows = ROWS.replace(
        "K-means Pixel, K={k}",
        &format!("{}{{k}}", "wide ".repeat(80)),
    );
    let bench = Bench::new(&format!("{HEAD}{rows}"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let cells = std::fs::read_dir(bench.path("out/cells")).unwrap();
    let names = cells.map(|cell| cell.unwrap().file_name().into_string().unwrap());
    let cut: Vec<String> = names.filter(|name| name.starts_with("wide-wide")).collect();
    assert_eq!(cut.len(), 4, "two values of k, two seeds: {cut:?}");
    assert!(cut.iter().all(|name| name.len() < 220), "{cut:?}");
}

#[test]
fn invalid_yaml_is_refused_with_its_line() {
    let bench = Bench::new("version: 1\nname: [a\n");
    bench.refused(&["validate", "suite.yaml"], &["suite.yaml"]);
}

#[test]
fn theory_refuses_sizes_and_tokenizations_that_do_not_exist() {
    let bench = Bench::new("");
    for (args, part) in [
        (
            &["--classes", "1"][..],
            "--classes: found 1, expected 2 to 32",
        ),
        (
            &["--overlap", "200"],
            "--overlap: found 200, expected at most 199",
        ),
        (
            &["--overlap", "9"],
            "--overlap: found 9, expected an even number",
        ),
        (
            &["--tokens", "3"],
            "--tokens: found 3, expected a divisor of the 190 points in P1 only",
        ),
        (&["--partition", "190,190"], "expected 3 numbers"),
    ] {
        bench.refused(&[&["theory"], args].concat(), &[part]);
    }
}

/// The limit of the process stands for a small machine.
#[test]
fn more_memory_than_the_machine_has_is_refused_before_it_is_asked_for() {
    let head = HEAD.replace("image_size: 16", "image_size: 2048");
    let head = head.replace("patch_size: 4", "patch_size: 2048");
    let row =
        "{name: K, kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 1, batch: 32}}";
    let bench = Bench::new(&format!("{head}tokenizers: [{row}]\n"));
    for arguments in ["--out out", "--dry-run", "--dry-run --json"] {
        let line =
            format!("ulimit -v 2000000; exec \"$0\" score suite.yaml --threads 1 {arguments}");
        let mut small = std::process::Command::new("sh");
        small
            .args(["-c", &line, env!("CARGO_BIN_EXE_bench")])
            .current_dir(bench.dir.path());
        let output = small.env_remove("TESSERA_STORE").output().unwrap();
        let said = error(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        let parts = [
            "suite.yaml: row \"K\": fit needs about ",
            "this process may use 2.0 GB",
            "patch_size",
            "--threads",
        ];
        for part in parts {
            assert!(said.contains(part), "{arguments}: {part} in {said}");
        }
    }
}

#[test]
fn a_file_that_is_too_large_for_a_suite_is_refused_before_it_is_read() {
    let bench = Bench::new("");
    let file = std::fs::File::create(bench.path("weights.bin")).unwrap();
    file.set_len(1 << 40).unwrap();
    let found = "weights.bin: found 1099511627776 bytes, expected at most 67108864";
    bench.refused(&["validate", "weights.bin"], &[found, "path of a suite"]);
}
