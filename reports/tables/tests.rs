mod bags;
mod chance;
mod runs;

use super::*;
use crate::columns::{Comparison, MetricRow};

fn record(name: &str, kind: &str, seed: u64, lp: f64) -> Record {
    Record {
        suite: "test".into(),
        tokenizer: name.into(),
        kind: kind.into(),
        dataset: "mosaics".into(),
        backbone: "nano".into(),
        image_size: 32,
        patch_size: 4,
        seed,
        lp_top1: Some(lp),
        ft_top1: Some(lp + 20.0),
        pooling_lp: "cls".into(),
        pooling_ft: "mean".into(),
        n_train: 200,
        n_val: 100,
        class_list_hash: "abcd".into(),
        status: "ok".into(),
        ..Record::default()
    }
}

fn records() -> Vec<Record> {
    let kmeans = |seed, lp| Record {
        codebook_size: Some(50),
        tcas: Some(0.25),
        tcas_null: Some(0.8),
        kmeans_epochs: Some(3),
        codebook_used: Some(48),
        ..record("K-means Pixel, K=50", "kmeans", seed, lp)
    };
    vec![
        record("No pretraining", "none", 0, 20.0),
        record("Identity function (MAE)", "continuous", 0, 40.0),
        record("Identity function (MAE)", "continuous", 1, 42.0),
        kmeans(0, 50.0),
        kmeans(1, 54.0),
    ]
}

/// [`records`] with two seeds of every row.
fn of_two_seeds() -> Vec<Record> {
    let mut all = records();
    all.push(record("No pretraining", "none", 1, 22.0));
    all
}

#[test]
fn table_1_has_differences_from_the_identity_row() {
    let rendered = render(1, &of_two_seeds(), &TableContext::default()).unwrap();
    let lines: Vec<&str> = rendered.markdown.lines().collect();
    let expected = [
        "| Tokenizer               |      LP acc. ↑ |  Δ LP |      FT acc. ↑ |  Δ FT |",
        "| ----------------------- | -------------: | ----: | -------------: | ----: |",
        "| No pretraining          |     21.0 ± 1.4 | -20.0 |     41.0 ± 1.4 | -20.0 |",
        "| Identity function (MAE) |     41.0 ± 1.4 |       |     61.0 ± 1.4 |       |",
        "| K-means Pixel, K=50     | **52.0 ± 2.8** | +11.0 | **72.0 ± 2.8** | +11.0 |",
    ];
    assert_eq!(lines[2..7], expected);
    let header = "tokenizer,lp_acc,lp_acc_sd,lp_delta,ft_acc,ft_acc_sd,ft_delta,knn_acc,paper_lp_acc,paper_ft_acc,status,lp_p,ft_p,setting,note";
    let csv: Vec<&str> = rendered.csv.lines().collect();
    // A new evaluation adds columns between these.
    let known: Vec<&str> = header.split(',').collect();
    let found: Vec<&str> = csv[0].split(',').filter(|c| known.contains(c)).collect();
    assert_eq!(found, known);
    assert!(
        csv[3].starts_with(
            "\"K-means Pixel, K=50\",52,2.8284271247461903,11,72,2.8284271247461903,11,"
        ),
        "{}",
        csv[3]
    );
}

#[test]
fn table_2_and_7_show_codebooks() {
    let two = render(2, &records(), &TableContext::default())
        .unwrap()
        .markdown;
    assert!(
        two.contains(
            "| K-means Pixel, K=50     |  0.250 | 0.800 |             0.550 |    50 |   48 |"
        ),
        "{two}"
    );
    let seven = render(7, &records(), &TableContext::default()).unwrap().csv;
    assert!(
        seven.contains("\"K-means Pixel, K=50\",50,3,0.25,0.55,52,2.8284271247461903,72,"),
        "{seven}"
    );
    assert!(!seven.contains("Identity"));
}

#[test]
fn the_closest_reading_of_tcas_stands_beside_the_papers_without_a_difference() {
    let of = |suite: &str, t: f64| Record {
        suite: suite.into(),
        dataset: "imagenet100".into(),
        backbone: "S".into(),
        image_size: 224,
        patch_size: 16,
        codebook_size: Some(200),
        kmeans_epochs: Some(100),
        tcas: Some(0.9),
        tcas_sharp: Some(0.51),
        tcas_sharp_t: Some(t),
        ..record("K-means Pixel, K=200", "kmeans", 0, 50.0)
    };
    let header = |table: u32, record: Record| -> Vec<String> {
        let rendered = render(table, &[record], &TableContext::default()).unwrap();
        let lines = rendered.markdown.lines();
        let mut lines = lines.filter(|line| line.starts_with('|'));
        let cells = |line: &str| line.split('|').map(|c| c.trim().to_owned()).collect();
        let (titles, values): (Vec<String>, Vec<String>) =
            (cells(lines.next().unwrap()), cells(lines.nth(1).unwrap()));
        let pairs = titles.iter().zip(&values);
        let mut pairs: Vec<String> = pairs.map(|(t, v)| format!("{t}: {v}")).collect();
        if rendered
            .markdown
            .contains("“closest reading” is equation 8")
        {
            pairs.push("footnote".into());
        }
        pairs
    };
    // The paper's Table 7 prints TCAS for this row, Table 2 does not.
    let seven = header(7, of("imagenet100", 0.0025));
    let at = seven.iter().position(|c| c == "closest reading: 0.510");
    assert_eq!(seven[at.unwrap() + 1], "paper TCAS: 0.49", "{seven:?}");
    assert!(seven.contains(&"footnote".into()) && !seven.iter().any(|c| c.contains('Δ')));
    let two = header(2, of("imagenet100", 0.0025));
    assert!(two.contains(&"closest reading: 0.510".into()), "{two:?}");
    // Another temperature, and another dataset.
    for record in [
        of("imagenet100", 0.002),
        of("imagenet1k", 0.0025),
        of("mine", 0.0025),
    ] {
        let seven = header(7, record);
        assert!(
            !seven
                .iter()
                .any(|c| c.contains("closest") || c == "footnote"),
            "{seven:?}"
        );
    }
}

#[test]
fn footnotes_name_labels_overrides_and_failures() {
    let mut all = records();
    all[3].saw_labels = true;
    all[0].status = "failed".into();
    all[0].error = "loss is NaN".into();
    let cx = TableContext {
        overrides: vec![("No pretraining".into(), "pretrain.epochs = 4".into())],
        notes: vec!["A note.".into()],
        ..TableContext::default()
    };
    let markdown = render(1, &all, &cx).unwrap().markdown;
    for part in [
        "Built with labels: K-means Pixel, K=50.",
        "No pretraining: pretrain.epochs = 4.",
        "failed loss is NaN",
        "- A note.",
        "2 seeds, mean ± standard deviation",
        "200 train and 100 val images",
    ] {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
    assert!(summary(&all, &Metrics::default()).contains("failed"));
    all[0].codebook_used = Some(77);
    let columns = |all: &[Record]| {
        let shown = summary(all, &Metrics::default());
        let header = shown.lines().next().unwrap_or_default();
        header
            .replace("below null", "null")
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        columns(&all),
        ["LP", "FT", "TCAS", "null", "codes", "status"]
    );
    // Further accuracies take the place of other numbers.
    for (at, record) in all.iter_mut().enumerate() {
        let accuracy = Some(50.5 + at as f64);
        (record.ap_top1, record.knn_top1, record.bag_top1) = (accuracy, accuracy, accuracy);
    }
    assert_eq!(columns(&all), ["LP", "FT", "k-NN", "AP", "null", "status"]);
    // Long names are wrapped, numbers are not.
    all[0].tokenizer = "a name of many words ".repeat(5);
    let shown = summary(&all, &Metrics::default());
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
}

#[test]
fn an_unknown_table_is_refused() {
    assert!(matches!(
        render(8, &records(), &TableContext::default()),
        Err(Error::NoTable(8))
    ));
}

#[test]
fn footnotes_name_rows_whose_probe_has_not_converged() {
    let mut records = records();
    for (record, fall) in records.iter_mut().zip([0.2, 0.3, 2.25, 0.1, 0.5]) {
        record.lp_loss_fall = Some(fall);
        let converged = crate::columns::has_converged(fall);
        record.lp_converged = if converged { "yes" } else { "no" }.into();
    }
    let note = |records: &[Record]| {
        let rendered = render(1, records, &TableContext::default()).unwrap();
        rendered
            .markdown
            .lines()
            .find(|line| line.contains("converged"))
            .map(str::to_owned)
    };
    // The second seed of the row.
    let found = note(&records).unwrap();
    assert!(
        found.contains("(over the seeds): Identity function (MAE) (0.3 to 2.2 %)."),
        "{found}"
    );
    records[2].lp_loss_fall = None;
    let found = note(&records).unwrap();
    assert!(
        found.contains("(MAE) (not known, because it has diverged)."),
        "{found}"
    );
    records[2].lp_converged = "yes".into();
    assert_eq!(note(&records), None);
    assert!(!crate::columns::has_converged(f64::NAN));
}

#[test]
fn footnotes_say_what_errors_of_fitted_codebooks_cover() {
    let with = |fit_seeds: &str| {
        let mut record = records().pop().unwrap();
        record.fit_seeds = fit_seeds.into();
        render(2, &[record], &TableContext::default())
            .unwrap()
            .markdown
    };
    assert!(with("0").contains("Codebooks fitted once"));
    let several = with("0 1 2");
    assert!(
        several.contains("seeds 0, 1, 2, with errors over images and fits"),
        "{several}"
    );
    assert!(!with("").contains("fitted"));
}

#[test]
fn rows_that_saw_labels_are_not_bold() {
    let mut all = of_two_seeds();
    all[3].saw_labels = true;
    all[4].saw_labels = true;
    let table = render(1, &all, &TableContext::default()).unwrap().markdown;
    assert!(
        table.contains("**41.0 ± 1.4**") && !table.contains("**52.0"),
        "{table}"
    );
    assert!(table.contains("Bold: the best number of the rows built without labels, if"));
}

#[test]
fn differences_of_one_seed_have_no_mark_and_the_note_says_why() {
    let comparison = |tokenizer: &str, seeds: usize| Comparison {
        evaluation: "lp".into(),
        tokenizer: tokenizer.into(),
        seeds,
        ..Comparison::default()
    };
    let notes = |comparisons: Vec<Comparison>| {
        let cx = TableContext {
            comparisons,
            ..TableContext::default()
        };
        render(1, &records(), &cx).unwrap().markdown
    };
    let one = "compares two trained models and not their tokenizers";
    let both = notes(vec![comparison("a", 1), comparison("b", 3)]);
    assert!(
        both.contains(one) && both.contains("over 3 seeds"),
        "{both}"
    );
    assert!(!notes(vec![comparison("b", 3)]).contains(one));
    let single = notes(vec![comparison("a", 1)]);
    assert!(
        single.contains(one) && !single.contains("sign-flip"),
        "{single}"
    );
}

#[test]
fn significant_differences_are_marked() {
    let comparison = |evaluation: &str, p: f64| Comparison {
        evaluation: evaluation.into(),
        tokenizer: "K-means Pixel, K=50".into(),
        baseline: "Identity function (MAE)".into(),
        seed: None,
        seeds: 2,
        n_val: 100,
        difference: 11.0,
        ci_low: Some(2.0),
        ci_high: Some(20.0),
        only_tokenizer: None,
        only_baseline: None,
        test: "sign-flip".into(),
        p: p / 2.0,
        p_holm: p,
    };
    let cx = TableContext {
        comparisons: vec![comparison("lp", 0.01), comparison("ft", 0.2)],
        ..TableContext::default()
    };
    let rendered = render(1, &records(), &cx).unwrap();
    let (table, notes) = (
        &rendered.markdown,
        "over 2 seeds, exact sign-flip test over the validation images and Student's t over images and seeds, Holm over the rows",
    );
    assert!(
        table.contains(" +11.0* |") && table.contains(" +11.0 |"),
        "{table}"
    );
    assert!(table.contains(notes), "{table}");
    assert!(rendered.csv.contains(",0.01,0.2"), "{}", rendered.csv);
    assert!(!rendered.csv.contains('*'));
}

#[test]
fn settings_stand_apart_in_table_3_and_sweeps_are_sorted_in_4_to_6() {
    let kmeans = |name: &str, k: usize, passes: usize, lp: f64| Record {
        codebook_size: Some(k),
        kmeans_epochs: Some(passes),
        pretrain_epochs: Some(200),
        ..record(name, "kmeans", 0, lp)
    };
    let mut all = vec![
        kmeans("K-means Pixel, K=200", 200, 10, 50.0),
        kmeans("K-means Pixel, K=50", 50, 100, 55.0),
        record("Identity function (MAE)", "continuous", 0, 40.0),
    ];
    let longer = Record {
        suite: "longer".into(),
        backbone: "B".into(),
        pretrain_epochs: Some(800),
        ..kmeans("K-means Pixel, K=50", 50, 100, 60.0)
    };
    all.push(longer);
    let columns = |number: u32, column: usize, all: &[Record]| -> Vec<String> {
        let csv = render(number, all, &TableContext::default()).unwrap().csv;
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let rows = reader.records();
        rows.map(|row| row.unwrap()[column].to_owned()).collect()
    };
    let first = |number: u32, column: usize| columns(number, column, &all);
    assert_eq!(first(3, 1), ["ViT-nano", "ViT-nano", "ViT-nano", "ViT-B"]);
    assert_eq!(first(4, 0), ["50", "50", "200"]);
    assert_eq!(first(5, 0), ["10", "100", "100"]);
    assert_eq!(first(6, 2), ["800", "200", "200"]);
    let three = render(3, &all, &TableContext::default()).unwrap();
    assert!(
        three.latex.contains("\\midrule\nmosaics & ViT-B"),
        "{}",
        three.latex
    );
    // One seed has no error.
    assert!(!three.markdown.contains("**"));
    // A row that has failed is where the suite has it.
    let failed = Record {
        codebook_size: None,
        kmeans_epochs: None,
        fields: r#"{"epochs":20,"k":100}"#.into(),
        status: "failed".into(),
        ..kmeans("K-means Pixel, K=100", 0, 0, 50.0)
    };
    all.push(failed);
    let first = |number: u32, column: usize| columns(number, column, &all);
    assert_eq!(first(4, 0), ["50", "50", "100", "200"]);
    assert_eq!(first(5, 0), ["10", "20", "100", "100"]);
    assert_eq!(first(7, 1), ["50", "50", "100", "200"]);
}

/// Two projects whose folders are both called `images`, with rows of the same names.
#[test]
fn runs_of_other_images_are_other_settings_and_repeated_rows_are_named() {
    let run = |fingerprint: &str, base: f64, lp: f64| {
        let of = |name: &str, kind: &str, lp: f64| Record {
            dataset: "images".into(),
            dataset_fingerprint: fingerprint.into(),
            ..record(name, kind, 0, lp)
        };
        vec![
            of("Identity function (MAE)", "continuous", base),
            of("K-means Pixel, K=50", "kmeans", lp),
        ]
    };
    let both = [run("0123456789", 40.0, 50.0), run("abcdef0123", 10.0, 30.0)].concat();
    let csv = |records: &[Record]| {
        let rendered = render(1, records, &TableContext::default()).unwrap();
        (rendered.csv, rendered.markdown)
    };
    let (found, notes) = csv(&both);
    let rows: Vec<&str> = found.lines().skip(1).collect();
    assert_eq!(rows.len(), 4, "{found}");
    assert!(rows[3].contains("30") && rows[3].contains("20"), "{found}");
    assert!(
        rows[1].contains("images (images 01234567) ViT-nano"),
        "{found}"
    );
    assert!(
        rows[3].contains("images (images abcdef01) ViT-nano"),
        "{found}"
    );
    for images in ["01234567", "abcdef01"] {
        assert!(notes.contains(&format!("images (images {images}): 200 train")));
    }
    assert_eq!(left_out(&both), None);
    // Images that are not known are no others' images.
    let older = [run("0123456789", 40.0, 50.0), run("", 10.0, 30.0)].concat();
    assert!(csv(&older).0.contains("images (images unknown) ViT-nano"));
    // Of the same images, the first record of a seed counts, and the other is named.
    let twice = [run("0123456789", 40.0, 50.0), run("0123456789", 10.0, 30.0)].concat();
    assert_eq!(csv(&twice).0.lines().count(), 3);
    let note = left_out(&twice).unwrap();
    assert!(
        note.contains("K-means Pixel, K=50, seed 0, images (images 01234567)"),
        "{note}"
    );
}
