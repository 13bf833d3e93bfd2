use std::fs;

use tessera_reports::page::Card;
use tessera_reports::to_csv;

use super::super::layout::MAPS;
use super::*;
use crate::folder::earlier::Earlier;
use crate::folder::layout::SUMS;

#[test]
fn older_folders_have_the_fit_seed_of_their_suite() {
    let dir = tempfile::tempdir().unwrap();
    let record = |tokenizer: &str, fit_seconds| Record {
        tokenizer: tokenizer.into(),
        fit_seconds,
        status: "ok".into(),
        ..Record::default()
    };
    let records = [record("K", Some(1.0)), record("VQ", None)];
    let results = dir.path().join(RESULTS);
    fs::write(&results, to_csv(&records).unwrap()).unwrap();
    let fit_seeds = || -> Vec<String> {
        let data = measured(dir.path(), &results).unwrap();
        data.records.into_iter().map(|r| r.fit_seeds).collect()
    };
    // Without the suite nothing is known.
    assert_eq!(fit_seeds(), ["", ""]);
    fs::write(dir.path().join(SUITE), "fit_seed: 3\n").unwrap();
    assert_eq!(fit_seeds(), ["3", ""]);
    fs::write(dir.path().join(SUITE), "fit_seed: [\n").unwrap();
    assert!(measured(dir.path(), &results).is_err());
}

/// A folder with two rows, labels and predictions of k-NN.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let record = |tokenizer: &str| Record {
        tokenizer: tokenizer.into(),
        tcas: Some(0.5),
        knn_top1: Some(75.0),
        n_val: 4,
        status: "ok".into(),
        ..Record::default()
    };
    let records = [record("K"), record("VQ")];
    let metric = |record: &Record| MetricRow {
        tokenizer: record.tokenizer.clone(),
        metric: "tcas".into(),
        value: record.tcas,
        ..MetricRow::default()
    };
    let metrics: Vec<MetricRow> = records.iter().map(metric).collect();
    let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
    write(RESULTS, to_csv(&records).unwrap());
    write(METRICS, to_csv(&metrics).unwrap());
    put(&dir.path().join(LABELS), &[0, 1, 0, 1]);
    for name in cell_folders(&records) {
        let cell = dir.path().join(CELLS).join(name);
        fs::create_dir_all(&cell).unwrap();
        put(&cell.join("predictions-knn.npy"), &[0, 1, 0, 0]);
    }
    dir
}

fn put(path: &Path, numbers: &[u32]) {
    npy::write(path, &[numbers.len()], numbers.iter().copied()).unwrap();
}

fn read(folder: &Path) -> anyhow::Result<RunData> {
    measured(folder, &folder.join(RESULTS))
}

#[test]
fn results_and_metrics_without_rows_are_refused() {
    for name in [RESULTS, METRICS] {
        let dir = folder();
        assert_eq!(read(dir.path()).unwrap().right.len(), 2);
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let header = format!("{}\n", text.lines().next().unwrap());
        for (damaged, found) in [
            (String::new(), "found no rows"),
            (header, "found no rows"),
            ("\0".repeat(text.len()), "zero bytes"),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n".into(),
                "git lfs pull",
            ),
            ("<!DOCTYPE html>\n".into(), "web page"),
            (
                text[..text.len() - 2].to_owned(),
                "no line break at its end",
            ),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = read(dir.path()).unwrap_err().to_string();
            for part in [name, found, "bench run"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
    // A row of one tokenizer is missing in one of them.
    for name in [RESULTS, METRICS] {
        let dir = folder();
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let cut: Vec<&str> = text.lines().take(2).collect();
        fs::write(&path, cut.join("\n") + "\n").unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        let parts = [name, "no row of VQ, seed 0"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    // Without metrics nothing is known of the errors.
    let dir = folder();
    fs::remove_file(dir.path().join(METRICS)).unwrap();
    assert!(read(dir.path()).unwrap().metrics.is_empty());
}

#[test]
fn a_suite_or_a_list_of_left_out_images_that_lost_lines_is_refused() {
    let dir = folder();
    let suite = "name: ''\ntokenizers: []\n";
    let write = |name, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(SUITE, suite);
    whole(dir.path()).unwrap();
    for (damaged, part) in [
        (&suite[..suite.len() - 1], "no line break at its end"),
        ("tokenizers: []\n", "no `name`"),
        ("name: other\n", "the suite \"other\""),
        ("text\n", "no `name`"),
    ] {
        write(SUITE, damaged);
        let error = whole(dir.path()).unwrap_err().to_string();
        assert!(error.contains(SUITE) && error.contains(part), "{error}");
    }
    write(SUITE, suite);
    write(SKIPPED, "a.png\tbroken\n");
    let error = whole(dir.path()).unwrap_err().to_string();
    let parts = [SKIPPED, "found 1 images", "the 0 that"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn rows_of_an_earlier_run_are_unknown_if_its_results_are_damaged() {
    let dir = folder();
    let path = dir.path().join(RESULTS);
    let text = fs::read_to_string(&path).unwrap();
    let earlier = |dir: &Path| Earlier::of(dir).map(|found| found.records.map(|all| all.len()));
    assert_eq!(earlier(dir.path()).unwrap(), Some(2));
    let header = format!("{}\n", text.lines().next().unwrap());
    for damaged in ["", &"\0".repeat(64), &header, &text[..text.len() - 1]] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(earlier(dir.path()).unwrap(), None, "{damaged:?}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(earlier(dir.path()).unwrap(), Some(0));
}

#[test]
fn predictions_and_labels_that_disagree_with_the_accuracy_are_refused() {
    let predictions = "cells/vq-s0/predictions-knn.npy";
    for (file, numbers) in [
        (predictions, &[0, 1, 0, 1][..]),
        (predictions, &[0, 1, 0]),
        (predictions, &[0, 1, 0, 0, 0]),
        (LABELS, &[1, 0, 1, 1]),
        (LABELS, &[]),
    ] {
        let dir = folder();
        put(&dir.path().join(file), numbers);
        let error = read(dir.path()).unwrap_err().to_string();
        for part in [
            "predictions-knn.npy",
            LABELS,
            RESULTS,
            "expected ",
            "bench run",
        ] {
            assert!(error.contains(part), "{file} {numbers:?}: {error}");
        }
    }
}

#[test]
fn files_that_are_cut_off_or_in_another_encoding_have_a_remedy() {
    for name in [LABELS, "cells/k-s0/predictions-knn.npy", RESULTS, METRICS] {
        let dir = folder();
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes.pop();
        if name.ends_with(".csv") {
            bytes.extend(b"\xff\n");
        }
        fs::write(&path, bytes).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(RESTORE), "{error}");
    }
}

#[test]
fn texts_of_a_spreadsheet_in_another_encoding_are_named() {
    let dir = folder();
    let path = dir.path().join(RESULTS);
    let text = fs::read_to_string(&path).unwrap();
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    let utf16 = b"\xff\xfe".iter().copied().chain(units).collect();
    let latin1 = text.replace('K', "\u{fe}");
    let latin1 = latin1.chars().map(|c| c as u8).collect();
    let ways: [(Vec<u8>, &str); 2] = [(utf16, "found UTF-16"), (latin1, "in line 2 (Latin-1?)")];
    for (bytes, found) in ways {
        fs::write(&path, bytes).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        for part in [RESULTS, found, "expected UTF-8", "CSV UTF-8", RESTORE] {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
}

/// A file without content that claims a terabyte, which no memory holds.
fn enlarge(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(1 << 40).unwrap();
}

#[test]
fn files_that_are_too_large_are_refused_before_they_are_read() {
    for name in [RESULTS, METRICS, SUMS] {
        let dir = folder();
        enlarge(&dir.path().join(name));
        let error = format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error.contains(name), "{error}");
        for part in ["found 1099511627776 bytes, expected at most", RESTORE] {
            assert_eq!(error.matches(part).count(), 1, "{part:?} in: {error}");
        }
    }
    let dir = folder();
    enlarge(&dir.path().join(MAPS));
    let error = enter_gallery(&mut Card::default(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("found 1099511627776 bytes"));
    enlarge(&dir.path().join(SUITE));
    let earlier = Earlier::of(dir.path()).unwrap();
    assert!(earlier.suite.is_null() && earlier.records.is_some());
}

#[test]
fn a_damaged_line_of_the_list_is_shown_in_part() {
    let digest = "0".repeat(64);
    for line in [
        "\u{fe}".repeat(9000),
        format!("{digest}  {}", "a".repeat(9000)),
        format!("{}  {RESULTS}", "a".repeat(9000)),
    ] {
        let dir = folder();
        fs::write(dir.path().join(SUMS), format!("{line}\n")).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(SUMS) && error.contains("..."), "{error}");
        assert!(error.len() < 1000, "{} bytes: {error}", error.len());
    }
}

/// One of two equal rows would count, and NaN would be better than any number.
#[test]
fn rows_that_are_there_twice_and_numbers_that_no_run_measures_are_refused() {
    let dir = folder();
    let path = dir.path().join(RESULTS);
    let text = fs::read_to_string(&path).unwrap();
    let second = text.lines().nth(2).unwrap();
    let refused = |text: String, part: &str| {
        fs::write(&path, text).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(RESULTS) && error.contains(part), "{error}");
    };
    refused(format!("{text}{second}\n"), "two rows of VQ, seed 0");
    for (number, part) in [
        ("NaN", "knn_top1 NaN of VQ, seed 0, expected 0 to 100"),
        ("inf", "knn_top1 inf"),
        ("100.1", "knn_top1 100.1"),
        ("-1.0", "knn_top1 -1"),
    ] {
        let other = second.replace("75.0", number);
        refused(text.replace(second, &other), part);
    }
    let other = second.replace("0.5", "inf");
    refused(text.replace(second, &other), "tcas inf of VQ, seed 0");
    let refused = |change: &dyn Fn(&mut Record), part: &str| {
        let mut records: Vec<Record> = from_csv(&text, "").unwrap();
        change(&mut records[1]);
        fs::write(&path, to_csv(&records).unwrap()).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(RESULTS) && error.contains(part), "{error}");
    };
    refused(&|r| r.status = "done".into(), "status \"done\" of VQ");
    refused(&|r| r.n_val = 5, "n_val 5 of VQ, seed 0, expected 4 as in");
    // A spreadsheet takes digits with an e for a number.
    refused(
        &|r| r.recipe_hash = "3.78028e+15".into(),
        "recipe_hash \"3.78028e+15\"",
    );
    let unconverged = |r: &mut Record| {
        r.lp_loss_fall = Some(4.6);
        r.lp_converged = "yes".into();
    };
    refused(&unconverged, "lp_converged \"yes\" of VQ");
    refused(&|r| r.codebook_size = Some(0), "codebook_size 0 of VQ");
    refused(&|r| r.knn_k = Some(0), "knn_k 0 of VQ");
    let used = |r: &mut Record| (r.codebook_size, r.perplexity) = (Some(8), Some(8.1));
    refused(
        &used,
        "perplexity 8.1 of VQ, seed 0, expected at most the 8 of",
    );
    let classes = |r: &mut Record| (r.n_classes, r.eig_sq_sum) = (2, Some(2.5));
    refused(
        &classes,
        "eig_sq_sum 2.5 of VQ, seed 0, expected at most the 2 of n_classes",
    );
    let voters = |r: &mut Record| (r.n_train, r.knn_k) = (12, Some(20));
    refused(
        &voters,
        "knn_k 20 of VQ, seed 0, expected at most the 12 of n_train",
    );
    let best = |r: &mut Record| (r.lp_top1, r.lp_top5) = (Some(97.5), Some(10.0));
    refused(
        &best,
        "lp_top5 10 of VQ, seed 0, expected at least the 97.5",
    );
}

/// Tables take the chance level from `results.csv`, and its error from `metrics.csv`.
#[test]
fn chance_levels_that_disagree_are_refused() {
    let dir = folder();
    let mut data = read(dir.path()).unwrap();
    let path = dir.path().join(METRICS);
    for rows in data.metrics.values_mut() {
        rows.iter_mut().for_each(|row| row.null_mean = Some(0.75));
    }
    metrics::check(&data, &path).unwrap();
    data.records
        .iter_mut()
        .for_each(|r| r.tcas_null = Some(0.75));
    metrics::check(&data, &path).unwrap();
    data.records[0].tcas_null = Some(0.9);
    let error = metrics::check(&data, &path).unwrap_err().to_string();
    let part = "tcas null_mean 0.75 of K, seed 0, expected 0.9 as in tcas_null of";
    assert!(error.contains(part), "{error}");
}

#[test]
fn metrics_that_disagree_with_the_results_are_refused() {
    let dir = folder();
    let path = dir.path().join(METRICS);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(",0.5,,").count(), 2, "{text}");
    for (numbers, part) in [
        (",0.6,,", "tcas 0.6 of K, seed 0, expected 0.5 as in"),
        (",,,", "tcas NaN of K, seed 0, expected 0.5 as in"),
        (",0.5,NaN,", "se NaN of K, seed 0, expected at least 0"),
        (",0.5,-0.1,", "se -0.1 of K, seed 0, expected at least 0"),
        (
            ",0.5,,-0.2",
            "tcas null_mean -0.2 of K, seed 0, expected 0 to 1",
        ),
    ] {
        fs::write(&path, text.replacen(",0.5,,", numbers, 1)).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(METRICS) && error.contains(part), "{error}");
    }
}
