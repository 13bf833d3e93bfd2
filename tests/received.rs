//! Run folders that others wrote: nothing outside is written, removed or published, and no text of theirs passes for ours.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{Bench, HEAD, ROWS};

const CELL: &str = "out/cells/k-means-pixel-k-4-s0";

/// Returns a scored suite. Without `SHA256SUMS`, nothing but the files themselves can contradict an edit.
fn scored() -> Bench {
    let bench = Bench::new(&format!("{HEAD}{ROWS}"));
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    fs::remove_file(bench.path("out/SHA256SUMS")).unwrap();
    bench
}

fn edited(path: &Path, edit: impl Fn(String) -> String) {
    fs::write(path, edit(fs::read_to_string(path).unwrap())).unwrap();
}

/// `.lock` as a link emptied any file of the user, a linked folder lost its files, and a linked picture published what it led to.
#[test]
fn links_that_lead_out_of_a_run_folder_are_refused() {
    let bench = scored();
    let precious = bench.path("precious");
    fs::create_dir(&precious).unwrap();
    let files = [
        "victim",
        "table1.tex",
        "tcas-lp.svg",
        "gallery.png",
        "results.csv",
    ];
    let put = || {
        for name in files {
            fs::write(precious.join(name), name).unwrap();
        }
    };
    put();
    let gallery = format!("{CELL}/gallery.png");
    for (link, to) in [
        ("out/.lock", "victim"),
        ("out/log.txt", "victim"),
        ("out/.lock", "absent"),
        ("out/tables", ""),
        ("out/figures", ""),
        (CELL, ""),
        (&gallery, "gallery.png"),
        ("out/cells/other", ""),
        ("out/submit", ""),
    ] {
        let (path, aside) = (bench.path(link), bench.path("aside"));
        let moved = fs::rename(&path, &aside).is_ok();
        symlink(precious.join(to), &path).unwrap();
        let parts = [link, "found a link to ", "remove the link"];
        bench.refused(&["report", "out"], &parts);
        bench.refused(&["score", "suite.yaml", "--out", "out"], &parts);
        for name in files {
            assert_eq!(
                fs::read(precious.join(name)).unwrap(),
                name.as_bytes(),
                "{link}"
            );
        }
        assert_eq!(
            fs::read_dir(&precious).unwrap().count(),
            files.len(),
            "{link}"
        );
        fs::remove_file(&path).unwrap();
        if moved {
            fs::rename(&aside, &path).unwrap();
        }
    }
    // One within the folder leads nowhere else.
    let [log, inner] = ["out/log.txt", "out/cells/log.txt"].map(|name| bench.path(name));
    fs::rename(&log, inner).unwrap();
    symlink("cells/log.txt", log).unwrap();
    bench.fine(&["report", "out"]);
}

#[test]
fn what_is_no_picture_is_not_put_into_the_page() {
    let bench = scored();
    let picture = bench.path(&format!("{CELL}/gallery.png"));
    fs::write(&picture, "a private key").unwrap();
    bench.refused(&["report", "out"], &["gallery.png", "expected a PNG"]);
}

/// A name with a heading, a table and a link was live Markdown, and "no regression" was a line of the terminal.
#[test]
fn names_with_line_breaks_are_refused() {
    let bench = scored();
    let path = bench.path("out/results.csv");
    edited(&path, |text| {
        text.replace("K-means Pixel, K=4", "K\n\n# No regression\n")
    });
    bench.refused(
        &["report", "out"],
        &[
            "results.csv",
            "tokenizer \"K\\n\\n# No",
            "expected a line of text",
        ],
    );
    bench.refused(
        &["compare", "out", "out"],
        &["results.csv", "expected a line of text"],
    );
}

/// 489 KiB needed 1.6 GB.
#[test]
fn aliases_of_a_suite_are_counted() {
    let bench = scored();
    let many = |what: &str, count| vec![what; count].join(",");
    let bomb = format!(
        "zz_a: &a [{}]\nzz_b: [{}]\n",
        many("0", 250_000),
        many("*a", 90)
    );
    edited(&bench.path("out/suite.yaml"), |text| text + &bomb);
    bench.refused(&["report", "out"], &["suite.yaml", "values"]);
}

/// The page showed no codes beside a row with four.
#[test]
fn counts_of_another_codebook_are_refused() {
    let bench = scored();
    let path = bench.path(&format!("{CELL}/counts.npy"));
    let whole = fs::read(&path).unwrap();
    let shape = b"(4, 10, )";
    let at = whole
        .windows(shape.len())
        .position(|part| part == shape)
        .unwrap();
    let zeros = {
        let mut bytes = whole.clone();
        let begin = bytes.len() - 4 * 10 * 8;
        bytes[begin..].fill(0);
        bytes
    };
    let other = {
        let mut bytes = whole.clone();
        bytes[at..at + shape.len()].copy_from_slice(b"(2, 20, )");
        bytes
    };
    for (bytes, part) in [
        (zeros, "counts of 0 used codes"),
        (other, "counts of [2, 20] codes and classes"),
    ] {
        fs::write(&path, bytes).unwrap();
        bench.refused(&["report", "out"], &[CELL, part, "results.csv"]);
    }
}
