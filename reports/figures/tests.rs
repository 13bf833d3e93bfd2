use super::*;

fn record(name: &str, seed: u64, tcas: f64, lp: f64) -> Record {
    Record {
        tokenizer: name.into(),
        kind: "kmeans".into(),
        seed,
        tcas: Some(tcas),
        pnmi: Some(1.0 - tcas),
        lp_top1: Some(lp),
        status: "ok".into(),
        ..Record::default()
    }
}

fn data() -> (Vec<Record>, FigureData) {
    let records = vec![
        record("a", 0, 0.8, 20.0),
        record("a", 1, 0.8, 22.0),
        record("b", 0, 0.6, 40.0),
        record("b", 1, 0.6, 44.0),
        record("c", 0, 0.4, 61.0),
        record("c", 1, 0.4, 59.0),
    ];
    let predicted = |name: &str, seed| Predicted {
        tokenizer: name.into(),
        seed,
        right: vec![true, seed == 0, false, false],
    };
    let data = FigureData {
        losses: vec![(
            "pretrain".into(),
            Curve {
                name: "a".into(),
                points: vec![(0.0, 1.0), (1.0, 0.5)],
            },
        )],
        predicted: BTreeMap::from([("lp", vec![predicted("a", 0), predicted("a", 1)])]),
        labels: vec![0, 0, 1, 1],
        classes: vec!["ant".into(), "bee".into()],
        ..FigureData::default()
    };
    (records, data)
}

#[test]
fn every_metric_with_numbers_has_a_figure_and_a_line() {
    let (records, data) = data();
    let (figures, predictors) = figures(&records, &data);
    let names: Vec<&str> = figures.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tcas-lp",
            "pnmi-lp",
            "predictors-lp",
            "curves-pretrain",
            "classes-lp"
        ]
    );
    let lines: Vec<(&str, &str, usize)> = predictors
        .iter()
        .map(|p| (p.metric.as_str(), p.accuracy.as_str(), p.n))
        .collect();
    assert_eq!(lines, [("tcas", "lp", 3), ("pnmi", "lp", 3)]);
    // Seed means 21, 42, 60 at 0.8, 0.6, 0.4.
    assert!((predictors[0].slope + 97.5).abs() < 1e-9, "{predictors:?}");
    assert!((predictors[0].r + predictors[1].r).abs() < 1e-9);
    for figure in &figures {
        figure.files().unwrap();
    }
}

/// Distances from the nulls and the bag of tokens predict accuracies of encoders; the bag does not predict itself.
#[test]
fn distances_from_nulls_and_the_bag_of_tokens_predict_too() {
    let records: Vec<Record> = (0..6)
        .map(|i| Record {
            bag_top1: Some(f64::from(i * i % 4)),
            ..record(
                &format!("row {i}"),
                0,
                f64::from(i) / 10.0,
                30.0 - f64::from(i),
            )
        })
        .collect();
    let row = |r: &Record, metric: &str, value, null: f64| MetricRow {
        tokenizer: r.tokenizer.clone(),
        metric: metric.into(),
        value,
        se: Some(0.003),
        null_mean: Some(null),
        null_se: Some(0.004),
        ..MetricRow::default()
    };
    let both = |r: &Record| [row(r, "tcas", r.tcas, 0.9), row(r, "pnmi", r.pnmi, 0.1)];
    let data = FigureData {
        metrics: records.iter().flat_map(both).collect(),
        ..FigureData::default()
    };
    let (_, predictors) = figures(&records, &data);
    let of = |accuracy: &str| -> Vec<&str> {
        let of = predictors.iter().filter(|p| p.accuracy == accuracy);
        of.map(|p| p.metric.as_str()).collect()
    };
    let from_null = ["tcas_below_null", "pnmi_above_null"];
    assert_eq!(
        of("lp"),
        [&["tcas", "pnmi", "bag_top1"][..], &from_null].concat()
    );
    assert_eq!(of("bag"), [&["tcas", "pnmi"][..], &from_null].concat());
    let below = predictors
        .iter()
        .find(|p| p.metric == "tcas_below_null")
        .unwrap();
    assert!((below.r - 1.0).abs() < 1e-9, "accuracy falls as TCAS rises");
}

#[test]
fn rows_that_saw_labels_are_drawn_but_not_fitted_and_one_far_row_is_named() {
    let mut records: Vec<Record> = (0..8)
        .map(|i| {
            let x = f64::from(i * 5 % 8);
            record(&format!("row {i}"), 0, x / 8.0, 40.0 + f64::from(i * i % 5))
        })
        .collect();
    records[7] = record("far", 0, 9.0, 90.0);
    records.push(Record {
        saw_labels: true,
        ..record("oracle", 0, 0.0, 99.0)
    });
    let (drawn, predictors) = figures(&records, &FigureData::default());
    let tcas = &predictors[0];
    assert_eq!((tcas.n, tcas.left_out.as_str()), (8, "oracle"));
    assert_eq!(tcas.decided_by, "far");
    assert!(
        tcas.r > 0.9 && tcas.r_without_low.unwrap() < 0.5,
        "{tcas:?}"
    );
    assert!(tcas.p_holm >= tcas.p && tcas.finding != "shown", "{tcas:?}");
    let figure = &drawn[0];
    assert!(
        figure
            .svg
            .contains("stroke-dasharray=\"2 1.5\" tabindex=\"0\" data-name=\"oracle\"")
    );
    for part in [
        "without far, r has the other sign",
        "they saw labels: oracle",
    ] {
        assert!(figure.caption.contains(part), "{}", figure.caption);
    }
    let all = FigureData {
        labelled_in_fit: true,
        ..FigureData::default()
    };
    let (_, predictors) = figures(&records, &all);
    assert_eq!((predictors[0].n, predictors[0].left_out.as_str()), (9, ""));
}

/// Accuracies of another recipe differ for that reason, and a tokenizer's further rows are no further tokenizers.
#[test]
fn rows_of_another_recipe_and_of_a_tokenizer_before_are_drawn_but_not_fitted() {
    let row = |name: &str, tcas: f64, recipe: &str, digest: &str| Record {
        recipe_hash: recipe.into(),
        tokenizer_digest: digest.into(),
        bag_top1: Some(tcas),
        ..record(name, 0, tcas, 60.0 - tcas)
    };
    let records = [
        row("longer", 0.9, "y", "1"),
        row("a", 0.1, "x", "1"),
        row("b", 0.2, "x", "2"),
        row("b again", 0.2, "x", "2"),
        row("c", 0.3, "x", "3"),
    ];
    let (drawn, predictors) = figures(&records, &FigureData::default());
    let of = |accuracy: &str| {
        let first = predictors.iter().find(|p| p.accuracy == accuracy).unwrap();
        (first.n, first.apart.as_str(), first.left_out.as_str())
    };
    assert_eq!(of("lp"), (3, "longer; b again", ""));
    // Without an encoder, only the tokenizer counts.
    assert_eq!(of("bag"), (3, "a; b again", ""));
    let dashed = "stroke-dasharray=\"2 1.5\" tabindex=\"0\" data-name=\"b again\"";
    assert!(drawn[0].svg.contains(dashed));
    let said = "an earlier row is the same tokenizer: longer; b again.";
    assert!(drawn[0].caption.contains(said), "{}", drawn[0].caption);
}

#[test]
fn holms_correction_is_over_the_metrics_of_an_accuracy() {
    let records: Vec<Record> = (0..7)
        .map(|i| record(&format!("row {i}"), 0, f64::from(i), 10.0 - f64::from(i)))
        .collect();
    let (_, predictors) = figures(&records, &FigureData::default());
    // tcas and pnmi are on a line: 2 of 7! permutations are as far.
    assert_eq!(predictors.len(), 2);
    for p in &predictors {
        let exact = 2.0 / 5040.0;
        assert!((p.p - exact).abs() < 1e-12 && (p.p_holm - 2.0 * exact).abs() < 1e-12);
        assert!((p.spearman_p - exact).abs() < 1e-12);
        assert_eq!((p.finding.as_str(), p.decided_by.as_str()), ("shown", ""));
    }
}

#[test]
fn accuracy_per_class_is_the_mean_over_seeds() {
    let (_, data) = data();
    let (rows, values) = per_class(&data, &data.predicted["lp"]);
    assert_eq!(rows, ["a"]);
    assert_eq!(values, [vec![75.0, 0.0]]);
}

#[test]
fn among_many_classes_the_most_different_are_shown() {
    let flat = vec![50.0; 100];
    let mut other = flat.clone();
    (40..64).for_each(|c| other[c] = 90.0);
    let all = (0..100).collect();
    assert_eq!(shown(&[flat, other], all), (40..64).collect::<Vec<_>>());
}

#[test]
fn a_class_without_images_is_no_class_with_accuracy_0() {
    let (_, mut data) = data();
    let before = of_classes(&data);
    data.classes.push("absent".into());
    let after = of_classes(&data);
    assert_eq!(before[0].svg, after[0].svg);
    assert!(
        after[0]
            .caption
            .contains("Classes without images in this split: 1.")
    );
}

#[test]
fn the_caption_of_the_papers_figure_names_r_squared() {
    let figures = of_paper();
    let caption = &figures[0].caption;
    for part in [
        "r = −0.92",
        "r² = 0.85",
        "y = -23.956 x + 62.941",
        "“r-value” is r²",
    ] {
        assert!(caption.contains(part), "{part}: {caption}");
    }
}
