use super::*;

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

#[test]
fn table_1_has_deltas_against_the_identity_row() {
    let rendered = render(1, &records(), &TableContext::default()).unwrap();
    let lines: Vec<&str> = rendered.markdown.lines().collect();
    assert_eq!(
        lines[2],
        "| Tokenizer               |    LP acc. | delta LP |    FT acc. | delta FT |"
    );
    assert_eq!(
        lines[5],
        "| Identity function (MAE) | 41.0 ± 1.4 |          | 61.0 ± 1.4 |          |"
    );
    assert_eq!(
        lines[6],
        "| K-means Pixel, K=50     | 52.0 ± 2.8 |    +11.0 | 72.0 ± 2.8 |    +11.0 |"
    );
    assert!(
        rendered
            .csv
            .contains("\"K-means Pixel, K=50\",52,+11.0,72,+11.0,,,,,,"),
        "{}",
        rendered.csv
    );
}

#[test]
fn table_2_and_7_show_codebooks() {
    let two = render(2, &records(), &TableContext::default())
        .unwrap()
        .markdown;
    assert!(
        two.contains("| K-means Pixel, K=50     |                  0.250 | 0.800 |    50 |   48 |"),
        "{two}"
    );
    let seven = render(7, &records(), &TableContext::default()).unwrap().csv;
    assert!(
        seven.contains("\"K-means Pixel, K=50\",50,3,0.250,52,72,,,,,"),
        "{seven}"
    );
    assert!(!seven.contains("Identity"));
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
        "Saw labels in its making: K-means Pixel, K=50.",
        "No pretraining: pretrain.epochs = 4.",
        "failed loss is NaN",
        "- A note.",
        "2 seeds, mean ± standard deviation",
        "200 train and 100 val images",
    ] {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
    assert!(summary(&all).contains("failed"));
}

#[test]
fn an_unknown_table_is_refused() {
    assert!(matches!(
        render(3, &records(), &TableContext::default()),
        Err(Error::NoTable(3))
    ));
}

#[test]
fn noise_is_said_to_be_noise() {
    let few = Record {
        n_classes: 10,
        tcas: Some(0.79),
        ..records().pop().unwrap()
    };
    let rendered = render(2, std::slice::from_ref(&few), &TableContext::default()).unwrap();
    // 200 images x 64 patches / (48 codes x 10 classes)
    assert!(
        rendered.markdown.contains("K-means Pixel, K=50 (26)."),
        "{}",
        rendered.markdown
    );
    assert!(
        rendered
            .markdown
            .contains("permuted: K-means Pixel, K=50 (0.010).")
    );
    let many = Record {
        n_train: 2000,
        tcas: Some(0.5),
        ..few
    };
    let rendered = render(2, &[many], &TableContext::default()).unwrap();
    assert!(!rendered.markdown.contains("Fewer than 100"));
    assert!(!rendered.markdown.contains("within 0.02"));
}

#[test]
fn differences_that_are_significant_are_marked() {
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
        test: "bootstrap".into(),
        p: p / 2.0,
        p_holm: p,
    };
    let cx = TableContext {
        comparisons: vec![comparison("lp", 0.01), comparison("ft", 0.2)],
        ..TableContext::default()
    };
    let rendered = render(1, &records(), &cx).unwrap();
    let (table, notes) = (&rendered.markdown, "over 2 seeds, Holm over the rows");
    assert!(
        table.contains(" +11.0* |") && table.contains(" +11.0 |"),
        "{table}"
    );
    assert!(table.contains(notes), "{table}");
    assert!(rendered.csv.contains(",0.01,0.2"), "{}", rendered.csv);
    assert!(!rendered.csv.contains('*'));
}
