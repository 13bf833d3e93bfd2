//! Tables of several runs, and footnotes that hold for some rows only.

use super::*;

/// Two runs with rows of the same names; the second differs by `change`.
fn two(change: impl Fn(&mut Record)) -> Vec<Record> {
    let run = |lp: f64| {
        let rows = [("Identity function (MAE)", "continuous"), ("K", "kmeans")];
        let rows = rows.into_iter().zip([lp, lp + 10.0]);
        rows.flat_map(|((name, kind), lp)| [0, 1].map(|s| record(name, kind, s, lp + s as f64)))
    };
    let mut second: Vec<Record> = run(60.0).collect();
    second.iter_mut().for_each(change);
    run(30.0).chain(second).collect()
}

fn markdown(number: u32, records: &[Record]) -> String {
    let rendered = render(number, records, &TableContext::default()).unwrap();
    rendered.markdown
}

/// Bold numbers of the rows, without those of the second accuracy.
fn bold(markdown: &str) -> usize {
    markdown.lines().filter(|line| line.contains("**")).count()
}

#[test]
fn rows_of_two_runs_are_told_apart_and_do_not_compete() {
    type Change = fn(&mut Record);
    let cases: [(Change, &str); 3] = [
        (|r| r.image_size = 64, "64 px, patches of 4 px"),
        (|r| r.suite = "other".into(), "suite other"),
        (|r| r.recipe_hash = "0123456789".into(), "recipe 01234567"),
    ];
    for (change, told) in cases {
        let records = two(change);
        for number in [1, 3] {
            let found = markdown(number, &records);
            let rows = found.lines().filter(|line| line.starts_with("| "));
            assert_eq!(rows.filter(|row| row.contains(told)).count(), 2, "{found}");
            // Each run has its best row, and its own baseline.
            assert_eq!(bold(&found), 2, "{found}");
        }
        let found = markdown(1, &records);
        assert_eq!(found.matches("+10.0").count(), 4, "{found}");
        assert!(!found.contains("+40.0"), "{found}");
        let shown = summary(&records, &Metrics::default());
        assert_eq!(shown.matches("K (").count(), 2, "{shown}");
    }
    // One run has no such column.
    assert!(!markdown(1, &two(|_| ())[..4]).contains("setting"));
}

/// Their seeds were averaged into one row, or the second record of a seed was dropped.
#[test]
fn another_tokenizer_or_precision_of_a_name_is_another_row() {
    type Change = fn(&mut Record, bool);
    let cases: [(Change, [&str; 2]); 4] = [
        (
            |r, is_second| r.fields = format!("{{\"k\": {}}}", if is_second { 12 } else { 16 }),
            ["with.k 16", "with.k 12"],
        ),
        (
            |r, is_second| r.dtype = if is_second { "bf16" } else { "f32" }.into(),
            ["dtype f32", "dtype bf16"],
        ),
        (
            |r, is_second| r.fit_seeds = if is_second { "1" } else { "0" }.into(),
            ["fit_seeds 0", "fit_seeds 1"],
        ),
        (
            |r, is_second| r.tokenizer_digest = if is_second { "ab" } else { "cd" }.into(),
            ["tokenizer_digest cd", "tokenizer_digest ab"],
        ),
    ];
    for (change, told) in cases {
        for seed in [0, 1] {
            let mut records = vec![
                record("K", "kmeans", 0, 30.0),
                record("K", "kmeans", seed, 50.0),
            ];
            change(&mut records[0], false);
            change(&mut records[1], true);
            let found = markdown(1, &records).replace("\\_", "_");
            assert!(!found.contains("40.0"), "{found}");
            for told in told {
                let rows = found.lines().filter(|line| line.starts_with("| "));
                assert_eq!(
                    rows.filter(|row| row.contains(told)).count(),
                    1,
                    "{told}: {found}"
                );
            }
            assert_eq!(left_out(&records), None);
        }
    }
    // Seeds of one row are one row, and a repeated seed is named.
    let same = [0, 1].map(|seed| record("K", "kmeans", seed, 30.0 + 20.0 * seed as f64));
    assert!(markdown(1, &same).contains("40.0"));
    let twice = [
        record("K", "kmeans", 0, 30.0),
        record("K", "kmeans", 0, 50.0),
    ];
    assert!(left_out(&twice).unwrap().contains("K, seed 0"));
}

/// The comparison of K by linear probing over so many seeds.
fn tested(seeds: usize, p_holm: f64) -> Comparison {
    Comparison {
        evaluation: "lp".into(),
        tokenizer: "K".into(),
        baseline: "Identity function (MAE)".into(),
        seeds,
        p_holm,
        ..Comparison::default()
    }
}

/// Rows of an added run had no stars and no p, and nothing said so.
#[test]
fn every_row_has_the_star_of_its_own_run_or_a_note() {
    type Change = fn(&mut Record);
    let changes: [Change; 3] = [
        |r| r.recipe_hash = "01".into(),
        |r| r.suite = "other".into(),
        |r| r.dataset_fingerprint = "ab".into(),
    ];
    for change in changes {
        let mut records = two(change);
        records.iter_mut().for_each(|r| r.ft_top1 = None);
        let ids = |records: &[Record]| records.iter().map(Record::row_id).collect();
        let found = |own: f64, other: Option<f64>| {
            let cx = TableContext {
                comparisons: vec![tested(2, own)],
                own: ids(&records[..4]),
                others: vec![OtherRun {
                    rows: ids(&records[4..]),
                    comparisons: other.map(|p| tested(2, p)).into_iter().collect(),
                    ..OtherRun::default()
                }],
                ..TableContext::default()
            };
            let rendered = render(1, &records, &cx).unwrap();
            let rows = rendered.markdown.lines().filter(|l| l.starts_with("| K"));
            let stars: Vec<bool> = rows.map(|row| row.contains("+10.0*")).collect();
            (stars, rendered)
        };
        let (stars, rendered) = found(0.01, Some(0.5));
        assert_eq!(stars, [true, false], "{}", rendered.markdown);
        assert!(!rendered.markdown.contains("No marks and no p"));
        let (stars, rendered) = found(0.5, Some(0.01));
        assert_eq!(stars, [false, true], "{}", rendered.markdown);
        assert!(rendered.csv.contains(",0.5,") && rendered.csv.contains(",0.01,"));
        assert!(
            rendered
                .markdown
                .contains("(`comparisons.csv`; of an added run, computed")
        );
        let (stars, rendered) = found(0.01, None);
        assert_eq!(stars, [true, false], "{}", rendered.markdown);
        let note = "predictions of both rows for all seeds: K (";
        assert_eq!(rendered.markdown.matches(note).count(), 1);
        let rows = rendered.csv.lines().filter(|l| l.starts_with('K'));
        let said: Vec<bool> = rows.map(|l| l.contains("No marks and no p")).collect();
        assert_eq!(said, [false, true]);
    }
}

#[test]
fn a_comparison_with_another_row_than_the_difference_marks_nothing() {
    let records = &two(|_| ())[..4];
    let cx = TableContext {
        comparisons: vec![Comparison {
            baseline: "another".into(),
            ..tested(2, 0.01)
        }],
        ..TableContext::default()
    };
    let found = render(1, records, &cx).unwrap();
    assert!(!found.markdown.contains("+10.0*") && !found.csv.contains(",0.01"));
    assert!(
        found.markdown.contains("for all seeds: K."),
        "{}",
        found.markdown
    );
}

#[test]
fn footnotes_on_vectors_and_precision_name_the_rows_that_differ() {
    let mut records = two(|r| r.suite = "other".into());
    for record in &mut records {
        record.dtype = "f32".into();
    }
    assert!(!markdown(1, &records).contains("Trained in"));
    for record in &mut records[6..] {
        record.pooling_lp = "mean".into();
        record.dtype = "bf16".into();
    }
    let found = markdown(1, &records);
    for part in [
        "- Linear probing on the cls vector, fine-tuning on the mean vector; linear probing on the mean vector, fine-tuning on the mean vector: K (suite other); accuracies",
        "- Trained in f32; bf16: K (suite other).",
        "- test: mosaics: 200 train",
        "- other: mosaics: 200 train",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    records.iter_mut().for_each(|r| r.dtype = "bf16".into());
    assert!(markdown(1, &records).contains("- Trained in bf16."));
}

#[test]
fn footnotes_name_rows_of_the_table_only() {
    let mut records = records();
    records[0].status = "failed".into();
    records[1].saw_labels = true;
    let cx = TableContext {
        overrides: vec![("No pretraining".into(), "pretrain.epochs = 4".into())],
        ..TableContext::default()
    };
    let found = render(4, &records, &cx).unwrap().markdown;
    assert!(found.contains("K-means Pixel, K=50"));
    for name in ["No pretraining", "Identity"] {
        assert!(!found.contains(name), "{found}");
    }
}

#[test]
fn a_star_needs_an_interval_without_zero() {
    let comparison = |ci_low: f64| Comparison {
        p_holm: 0.04,
        ci_low: Some(ci_low),
        ci_high: Some(2.0),
        ..Comparison::default()
    };
    assert!(comparison(0.5).is_significant());
    assert!(!comparison(0.0).is_significant());
}

#[test]
fn a_footnote_names_rows_whose_means_leave_out_seeds() {
    let mut all = records();
    let name = all[2].tokenizer.clone();
    let before = render(1, &all, &TableContext::default()).unwrap().markdown;
    assert!(!before.contains("fewer seeds"), "{before}");
    all[2].lp_top1 = None;
    let note = format!("the seeds that both rows have: {name} (LP over 1 of 2 seeds).");
    let markdown = render(1, &all, &TableContext::default()).unwrap().markdown;
    assert!(markdown.contains(&note), "{markdown}");
    all.remove(2);
    let markdown = render(1, &all, &TableContext::default()).unwrap().markdown;
    let seeds = "; 1 to 2 seeds, mean ± standard deviation.";
    assert!(markdown.contains(seeds), "{markdown}");
}

/// A reader of the CSV alone took means over fewer seeds, or of another recipe, for comparable ones.
#[test]
fn the_csv_says_of_a_row_what_footnotes_say() {
    let mut all = records();
    all.iter_mut().for_each(|r| r.recipe_hash = "ab".into());
    all[0].recipe_hash = "cd".into();
    all[2].lp_top1 = None;
    for record in &mut all[3..] {
        record.saw_labels = true;
        record.fit_seeds = "0".into();
        record.status = "failed".into();
        record.error = "loss is NaN".into();
    }
    let cx = TableContext {
        overrides: vec![("No pretraining".into(), "pretrain.epochs = 4".into())],
        risen: vec!["No pretraining".into()],
        ..TableContext::default()
    };
    let rendered = render(3, &all, &cx).unwrap();
    assert!(!rendered.markdown.contains("| note"));
    let mut reader = csv::Reader::from_reader(rendered.csv.as_bytes());
    let notes = reader
        .records()
        .map(|row| row.unwrap().iter().next_back().unwrap().to_owned());
    assert_eq!(
        Vec::from_iter(notes),
        [
            "Another recipe than most rows (cd); Pretraining has not lowered its loss; pretrain.epochs = 4",
            "Means over fewer seeds (LP over 1 of 2 seeds)",
            "Codebook fitted once; Built with labels; loss is NaN",
        ]
    );
    // A row of another run that has the same name.
    let own = Record {
        recipe_hash: "ab".into(),
        ..all[0].clone()
    };
    let of_other = TableContext {
        own: [Record::row_id(&own)].into(),
        ..cx
    };
    let csv = render(3, &all, &of_other).unwrap().csv;
    assert!(
        !csv.contains("epochs = 4") && csv.contains("Another recipe than most rows (cd)\n"),
        "{csv}"
    );
}

#[test]
fn a_comparison_of_fewer_seeds_than_the_difference_marks_nothing() {
    let mut records = two(|_| ());
    records.truncate(4);
    records.iter_mut().for_each(|r| r.ft_top1 = None);
    let found = |seeds: usize| {
        let cx = TableContext {
            comparisons: vec![tested(seeds, 0.01)],
            ..TableContext::default()
        };
        render(1, &records, &cx).unwrap()
    };
    let note = "because no run folder has the predictions of both rows for all seeds: K.";
    for (seeds, whole) in [(1, false), (2, true)] {
        let found = found(seeds);
        assert_eq!(found.markdown.contains("+10.0*"), whole);
        assert_eq!(found.csv.contains(",0.01"), whole, "{}", found.csv);
        assert_eq!(found.markdown.contains(note), !whole, "{}", found.markdown);
    }
}

/// The footnote named it as if there were deltas.
#[test]
fn a_baseline_without_accuracies_is_said() {
    let mut all = records();
    let note = |all: &[Record]| {
        let found = markdown(1, all);
        let line = found
            .lines()
            .find(|line| line.contains("eltas are against") || line.contains("no deltas"));
        line.unwrap().to_owned()
    };
    assert!(note(&all).starts_with("- Deltas are against “Identity function (MAE)”."));
    for record in &mut all[1..3] {
        (record.lp_top1, record.ft_top1) = (None, None);
        record.status = "failed".into();
    }
    let expected =
        "- There are no deltas against “Identity function (MAE)”, which has no accuracies.";
    assert_eq!(note(&all), expected);
}

/// The TCAS of a control is equal on all images: the distance was that from the null of the other run.
#[test]
fn a_distance_comes_from_the_metrics_of_its_own_run() {
    let on = |images: &str| Record {
        tcas: Some(0.0),
        dataset_fingerprint: images.into(),
        ..record("Oracle", "oracle", 0, 50.0)
    };
    let records = [on("ab"), on("cd")];
    let row = |null: f64| MetricRow {
        tokenizer: "Oracle".into(),
        metric: "tcas".into(),
        value: Some(0.0),
        se: Some(0.0),
        null_mean: Some(null),
        null_se: Some(0.25),
        ..MetricRow::default()
    };
    let nulls = [0.5, 0.75].map(|null| vec![row(null)]);
    let cx = TableContext {
        metrics: records.iter().zip(nulls).collect(),
        ..TableContext::default()
    };
    let rendered = render(2, &records, &cx).unwrap();
    for line in [",0.5,0.25", ",0.75,0.25"] {
        assert!(rendered.csv.contains(line), "{}", rendered.csv);
    }
}

/// Codes that depend on positions alone had a TCAS of -0.00000000000000011 below its null.
#[test]
fn a_distance_that_is_rounding_is_zero() {
    let record = Record {
        tcas: Some(0.1 + 0.2),
        tcas_null: Some(0.3),
        codebook_size: Some(50),
        ..record("K", "kmeans", 0, 50.0)
    };
    let metric = MetricRow {
        tokenizer: "K".into(),
        metric: "tcas".into(),
        value: record.tcas,
        se: Some(0.01),
        null_mean: record.tcas_null,
        null_se: Some(0.0),
        ..MetricRow::default()
    };
    for metrics in [Vec::new(), vec![metric]] {
        let se = if metrics.is_empty() { "" } else { "0.01" };
        let cx = TableContext {
            metrics: Metrics::from_iter([(&record, metrics)]),
            ..TableContext::default()
        };
        let csv = render(2, std::slice::from_ref(&record), &cx).unwrap().csv;
        let expected = format!("K,0.30000000000000004,0.3,0,{se}");
        assert!(csv.contains(&expected), "{csv}");
    }
}

/// A table with the rows of [`two`] runs, and what is said of the second.
fn beside(records: &[Record], cx: TableContext, second: OtherRun) -> Rendered {
    let ids = |records: &[Record]| records.iter().map(Record::row_id).collect();
    let cx = TableContext {
        own: ids(&records[..4]),
        others: vec![OtherRun {
            rows: ids(&records[4..]),
            ..second
        }],
        ..cx
    };
    render(1, records, &cx).unwrap()
}

fn overrides(what: &str) -> Vec<(String, String)> {
    vec![("K".into(), what.into())]
}

/// The row stayed failed and empty, and its results in the other run were left out.
#[test]
fn a_finished_row_takes_the_place_of_one_that_an_earlier_run_has_not_finished() {
    for status in ["failed", "pending"] {
        let mut records = two(|r| r.tcas = Some(0.5));
        for record in &mut records[2..4] {
            (record.lp_top1, record.ft_top1) = (None, None);
            record.status = status.into();
        }
        let null = |record, null| {
            let row = MetricRow {
                tokenizer: "K".into(),
                metric: "tcas".into(),
                se: Some(0.0),
                null_mean: Some(null),
                null_se: Some(0.25),
                ..MetricRow::default()
            };
            (record, vec![row])
        };
        let cx = TableContext {
            metrics: [null(&records[2], 0.9), null(&records[6], 0.8)]
                .into_iter()
                .collect(),
            overrides: overrides("a = 1"),
            ..TableContext::default()
        };
        let second = OtherRun {
            comparisons: vec![tested(2, 0.01)],
            overrides: overrides("b = 2"),
            ..OtherRun::default()
        };
        let found = beside(&records, cx, second).markdown;
        for part in ["70.5 ± 0.7", "+40.0*", "- K: b = 2.", "K (0.300 ± 0.250)"] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert!(
            !found.contains("a = 1") && !found.contains(status),
            "{found}"
        );
        let note = left_out(&records).unwrap();
        let (left, taken) = note.split_once(" Taken from a later run").unwrap();
        assert!(left.contains("Identity function (MAE), seed 1,") && !left.contains("K, seed"));
        assert!(
            taken.contains("K, seed 0,") && taken.contains("K, seed 1,"),
            "{note}"
        );
    }
}

/// Those of an added run were dropped, and overrides of the first stood under both rows of a name.
#[test]
fn overrides_and_risen_losses_are_those_of_the_rows_own_run() {
    let mut records = two(|r| r.recipe_hash = "bb".into());
    records[..4]
        .iter_mut()
        .for_each(|r| r.recipe_hash = "aa".into());
    let cx = TableContext {
        overrides: overrides("a = 1"),
        ..TableContext::default()
    };
    let second = OtherRun {
        overrides: overrides("b = 2"),
        risen: vec!["K".into()],
        ..OtherRun::default()
    };
    let found = beside(&records, cx, second);
    for note in ["- K (recipe aa): a = 1.", "- K (recipe bb): b = 2."] {
        assert!(found.markdown.contains(note), "{}", found.markdown);
    }
    let rows = found.csv.lines().filter(|line| line.starts_with("K,"));
    let notes = rows.map(|row| ["a = 1", "b = 2", "not lowered"].map(|part| row.contains(part)));
    assert_eq!(
        Vec::from_iter(notes),
        [[true, false, false], [false, true, true]]
    );
}
