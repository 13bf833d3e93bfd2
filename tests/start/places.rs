//! Folders whose names or places are unusual.

use crate::common::results;
use crate::{HEAD, ROWS, classes, column, photos};

/// Its path in a suite that this program wrote was read as a variable that is not set.
#[test]
fn a_folder_may_be_called_as_a_variable_is_written() {
    let bench = photos(&[]);
    classes(&bench.path("${X}/photos"), 12);
    bench.refused(&["init", "${X}/photos", "--k", "0"], &["k: found 0"]);
    assert!(!bench.path("photos.yaml").exists());
    bench.fine(&["init", "${X}/photos"]);
    bench.fine(&["validate", "photos.yaml"]);
    let again = |out: &str| {
        let suite = format!("{out}/suite.yaml");
        bench.fine(&["report", out]);
        bench.fine(&["score", &suite, "--out", "again"]);
        assert_eq!(results(&bench.path("again")), results(&bench.path(out)));
        std::fs::remove_dir_all(bench.path("again")).unwrap();
    };
    bench.fine(&["score", "${X}/photos", "--k", "2", "--out", "pictures"]);
    again("pictures");
    let named = ROWS.replace("K-means Pixel, K=", "K ${:-$}{Y} ");
    let suite = format!("{HEAD}baseline: \"K ${{:-$}}{{Y}} 4\"\n{named}");
    std::fs::write(bench.path("${X}/own.yaml"), suite).unwrap();
    bench.fine(&["score", "${X}/own.yaml", "--out", "own"]);
    assert!(column(&bench.path("own"), "tokenizer").contains(&"K ${Y} 4".to_owned()));
    again("own");
}

/// The first run counted its own pictures as images, or made its folder a class.
#[test]
fn a_run_folder_and_a_store_among_the_images_are_refused() {
    let bench = photos(&["train", "val"]);
    classes(&bench.path("flat"), 12);
    let suite = |root: &str| {
        format!(
            "{}{ROWS}",
            HEAD.replace(
                "{kind: mosaics, seed: 3, train: 96, val: 40, size: 16}",
                &format!("{{kind: image-folder, root: {root}}}")
            )
        )
    };
    std::fs::write(bench.path("split.yaml"), suite("photos")).unwrap();
    std::fs::write(bench.path("flat.yaml"), suite("flat")).unwrap();
    for (suite, out, store, option) in [
        ("split.yaml", "photos/train/ant/run", "store", "--out"),
        ("split.yaml", "photos/val", "store", "--out"),
        ("flat.yaml", "flat/run", "store", "--out"),
        ("flat.yaml", "out", "flat/store", "--store"),
    ] {
        let args = ["score", suite, "--out", out, "--store", store];
        bench.refused(&args, &[option, "classes of images"]);
    }
    assert!(!bench.path("flat/run").exists() && !bench.path("flat/store").exists());
    // A further folder would hide that the others are classes, also with a list of them.
    std::fs::write(bench.path("list.txt"), "ant\nbee\n").unwrap();
    std::fs::write(bench.path("list.yaml"), suite("flat, classes: list.txt")).unwrap();
    let listed = ["score", "list.yaml", "--store", "store", "--out"];
    bench.refused(&[&listed[..], &["flat/run"]].concat(), &["--out"]);
    // Beside the splits, and hidden, nothing is taken for images.
    bench.fine(&[
        "score",
        "split.yaml",
        "--out",
        "photos/run",
        "--store",
        "photos/store",
    ]);
    bench.fine(&[
        "score",
        "flat.yaml",
        "--out",
        "out",
        "--store",
        "flat/.store",
    ]);
}
