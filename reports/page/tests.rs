mod chance;
mod escaped;

use super::*;
use crate::{MetricRow, Predicted};

fn record(name: &str, seed: u64, lp: f64) -> Record {
    Record {
        suite: "test".into(),
        tokenizer: name.into(),
        kind: "kmeans".into(),
        seed,
        lp_top1: Some(lp),
        tcas: Some(0.5),
        tcas_null: Some(0.8),
        n_classes: 3,
        status: "ok".into(),
        ..Record::default()
    }
}

fn predicted(name: &str, seed: u64, every: usize) -> Predicted {
    Predicted {
        tokenizer: name.into(),
        seed,
        right: (0..400).map(|i| i % every == 0).collect(),
    }
}

/// The card of a dense table.
fn card_of(name: &str, table: &[u64], classes: usize) -> Card {
    let card = Card::of_counts(name, classes, |take| {
        for (row, code) in table.chunks_exact(classes).zip(0..) {
            let row: Vec<(u32, u64)> = (0..).zip(row.iter().copied()).collect();
            let found: Vec<(u32, u64)> = row.into_iter().filter(|(_, n)| *n > 0).collect();
            if !found.is_empty() {
                take(code, &found);
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    card.unwrap()
}

#[test]
fn the_page_needs_no_network() {
    let html = page(&[record("a", 0, 50.0)], &Page::default());
    let other = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!other.contains("http://") && !other.contains("https://") && !other.contains("url("));
}

#[test]
fn the_advice_names_the_best_row_and_its_uncertainty() {
    let records = [
        record("good", 0, 50.0),
        record("good", 1, 50.0),
        record("near", 0, 49.5),
        record("near", 1, 50.0),
        record("bad", 0, 25.0),
        record("bad", 1, 25.0),
    ];
    let mut near = [predicted("near", 0, 2), predicted("near", 1, 2)];
    near[0].right[0] = false;
    near[0].right[2] = false;
    let mut all = vec![predicted("good", 0, 2), predicted("good", 1, 2)];
    all.extend(near);
    all.extend([predicted("bad", 0, 4), predicted("bad", 1, 4)]);
    let data = FigureData {
        predicted: [("lp", all)].into(),
        ..FigureData::default()
    };
    let text = advice(&records, &data).join("\n");
    for part in [
        "<strong>good</strong> with 50.0 ± 0.0 %",
        "over 2 seeds",
        "The next, near, has 0.2 percentage points less",
        "does not differ significantly from: near (p",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("bad"), "{text}");
}

#[test]
fn only_compared_rows_that_are_behind_count_as_worse() {
    let records = [
        record("one seed", 0, 70.0),
        record("two seeds", 0, 65.0),
        record("two seeds", 1, 60.0),
        record("unknown", 0, 10.0),
    ];
    let data = FigureData {
        predicted: [(
            "lp",
            vec![
                predicted("one seed", 0, 4),
                predicted("two seeds", 0, 2),
                predicted("two seeds", 1, 4),
            ],
        )]
        .into(),
        ..FigureData::default()
    };
    let text = advice(&records, &data).join("\n");
    assert!(
        text.contains("<strong>one seed</strong>")
            && text.contains("does not differ significantly from: two seeds"),
        "{text}"
    );
    assert!(
        text.contains("Not compared image by image: unknown."),
        "{text}"
    );
}

/// A partial run: the means of two seeds and of one are not compared.
#[test]
fn rows_are_ranked_on_seeds_that_all_have() {
    let records = [
        record("whole", 0, 50.0),
        record("whole", 1, 80.0),
        record("partial", 0, 60.0),
    ];
    let mut all = vec![predicted("whole", 0, 4), predicted("whole", 1, 1)];
    all.push(predicted("partial", 0, 2));
    let data = FigureData {
        predicted: [("lp", all)].into(),
        ..FigureData::default()
    };
    let text = advice(&records, &data).join("\n");
    for part in [
        "<strong>partial</strong> with 60.0 % (one seed that every row has;",
        "The next, whole, has 25.0 percentage points less; on other images of this kind the gap would be 2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let apart = [record("a", 0, 50.0), record("b", 1, 80.0)];
    let text = advice(&apart, &FigureData::default()).join("\n");
    assert!(text.contains("no seed that every row has"), "{text}");
}

#[test]
fn few_images_that_differ_have_words_and_no_interval() {
    for differ in [0, 1, 9] {
        let mut near = predicted("near", 0, 2);
        near.right
            .iter_mut()
            .step_by(2)
            .take(differ)
            .for_each(|r| *r = false);
        let data = FigureData {
            predicted: [("lp", vec![predicted("good", 0, 2), near])].into(),
            ..FigureData::default()
        };
        let records = [record("good", 0, 50.0), record("near", 0, 49.0)];
        let text = advice(&records, &data).join("\n");
        let words =
            format!("the two differ on {differ} of 400 validation images, which are too few");
        assert!(text.contains(&words), "{text}");
        assert!(!text.contains("95 % interval"), "{text}");
    }
}

#[test]
fn the_best_row_is_compared_with_the_row_without_pretraining() {
    let random = Record {
        encoder: "random".into(),
        ft_top1: Some(60.0),
        ..record("No pretraining", 0, 40.0)
    };
    let trained = Record {
        ft_top1: Some(50.0),
        ..record("K", 0, 50.0)
    };
    let records = [random, trained];
    let text = advice(&records, &FigureData::default()).join("\n");
    assert!(
        text.contains("By fine-tuning, the only compared row is <strong>K</strong> with 50.0 %, which is not above No pretraining with 60.0 % (one"),
        "{text}"
    );
    assert!(text.contains(
        "By linear probing, the only compared row is <strong>K</strong> with 50.0 % (one"
    ));
    let tied = [
        record("a", 0, 50.0),
        record("b", 0, 50.0),
        record("c", 0, 40.0),
    ];
    let text = advice(&tied, &FigureData::default()).join("\n");
    let both = "the best are, with equal numbers, <strong>a</strong> with 50.0 %; <strong>b</strong> with 50.0 % (";
    assert!(text.contains(both) && !text.contains("The next"), "{text}");
    // Each has its own deviation, and the sums of equal numbers may be rounded in two ways.
    let of_row = |name: &'static str, lp: [f64; 3]| {
        (0..).zip(lp).map(move |(seed, lp)| record(name, seed, lp))
    };
    let rows = of_row("a", [0.1, 0.2, 0.3]).chain(of_row("b", [0.3, 0.2, 0.1]));
    let text = advice(&Vec::from_iter(rows), &FigureData::default()).join("\n");
    assert!(text.contains("best are, with equal numbers"), "{text}");
    let spread = Vec::from_iter(of_row("a", [50.0; 3]).chain(of_row("b", [40.0, 50.0, 60.0])));
    let text = advice(&spread, &FigureData::default()).join("\n");
    let both = "<strong>a</strong> with 50.0 ± 0.0 %; <strong>b</strong> with 50.0 ± 10.0 % (mean";
    assert!(text.contains(both), "{text}");
    let html = ranking::ranking(&records, &FigureData::default());
    assert!(html.contains("FT not above No pretraining") && !html.contains("LP not above"));
}

#[test]
fn a_loss_that_rises_is_named() {
    let losses = |name: &str, ends: [f64; 2]| {
        let points = vec![(0.0, ends[0]), (1.0, ends[1])];
        let name = name.to_owned();
        ("pretrain".to_owned(), crate::figure::Curve { name, points })
    };
    let data = FigureData {
        losses: vec![losses("K", [1.02, 4.04e15]), losses("good", [1.0, 0.9])],
        ..FigureData::default()
    };
    let text = advice(&[record("K", 0, 10.0)], &data).join("\n");
    assert!(
        text.contains("not lowered its loss")
            && text.contains("K (1.02 to 4.0e15)")
            && !text.contains("good"),
        "{text}"
    );
}

#[test]
fn the_page_lists_files_that_the_run_has() {
    let records = [record("a", 0, 50.0), record("b", 0, 40.0)];
    for has in files() {
        let files = vec![has];
        let found = page(
            &records,
            &Page {
                files,
                ..Page::default()
            },
        );
        assert_eq!(found.matches("<li><a href=").count(), 1);
        assert!(found.contains(&format!("href=\"{has}\"")), "{has}");
    }
}

#[test]
fn rows_that_saw_labels_are_not_recommended() {
    let mut seen = record("seen", 0, 90.0);
    seen.saw_labels = true;
    let text = advice(&[seen, record("unseen", 0, 50.0)], &FigureData::default()).join("\n");
    assert!(
        text.contains("<strong>unseen</strong>")
            && text.contains("they were built with labels: seen"),
        "{text}"
    );
}

/// A row that was only scored, and its lines of `metrics.csv`. All fits have the same numbers.
fn scored(name: &str, fit_seeds: &str, (tcas, se): (f64, f64)) -> (Record, Vec<MetricRow>) {
    let record = Record {
        lp_top1: None,
        codebook_size: Some(8),
        tcas: Some(tcas),
        fit_seeds: fit_seeds.into(),
        ..record(name, 0, 0.0)
    };
    let row = MetricRow {
        tokenizer: name.into(),
        metric: "tcas".into(),
        value: Some(tcas),
        // Permuted labels deviate by `se`, and so does the distance.
        se: Some(se * (20.0_f64 / 21.0).sqrt()),
        null_mean: record.tcas_null,
        null_se: Some(se / 21.0_f64.sqrt()),
        ..MetricRow::default()
    };
    let seeds = fit_seeds.split(' ').map(|seed| seed.parse().ok());
    let fits = seeds
        .filter(|_| record.fits() > 1)
        .map(|fit_seed| MetricRow {
            fit_seed,
            ..row.clone()
        });
    let rows = std::iter::once(row.clone()).chain(fits).collect();
    (record, rows)
}

fn advice_on(rows: Vec<(Record, Vec<MetricRow>)>) -> String {
    let (records, metrics): (Vec<Record>, Vec<_>) = rows.into_iter().unzip();
    let data = FigureData {
        metrics: metrics.concat(),
        ..FigureData::default()
    };
    advice(&records, &data).join("\n")
}

#[test]
fn the_most_aligned_row_is_ahead_by_its_error() {
    let text = advice_on(vec![
        scored("far", "0 1 2", (0.79, 0.001)),
        scored("best", "0 1 2", (0.70, 0.004)),
        scored("near", "", (0.705, 0.001)),
        scored("once", "0", (0.71, 0.0001)),
    ]);
    for part in [
        "<strong>best</strong> are the most aligned with classes: TCAS 0.700, 0.100 ± 0.004 below",
        "Not shown to be behind it, by 2 standard errors of the difference: near.",
        "Not compared, because the codebook was fitted once (`fit_seeds`) or the error is unknown: once.",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let once = advice_on(vec![
        scored("best", "0", (0.70, 0.0001)),
        scored("near", "0", (0.71, 0.0001)),
    ]);
    assert!(
        once.contains("cannot be told: its codebook was fitted once"),
        "{once}"
    );
    let chance = advice_on(vec![scored("best", "", (0.70, 0.06))]);
    assert!(
        chance.contains("No TCAS is shown to be below") && !chance.contains("<strong>"),
        "{chance}"
    );
}

#[test]
fn remarks_on_chance_and_on_the_row_without_pretraining_come_from_errors() {
    let random = Record {
        encoder: "random".into(),
        tcas: None,
        ..record("No pretraining", 0, 50.0)
    };
    let rows = vec![
        scored("clear", "", (0.795, 0.0001)),
        scored("chance", "", (0.70, 0.06)),
    ];
    let (mut records, metrics): (Vec<Record>, Vec<_>) = rows.into_iter().unzip();
    (records[0].lp_top1, records[1].lp_top1) = (Some(25.0), Some(49.75));
    records.push(random);
    let mut near = predicted("chance", 0, 2);
    near.right[0] = false;
    let data = FigureData {
        metrics: metrics.concat(),
        predicted: [(
            "lp",
            vec![
                predicted("clear", 0, 4),
                near,
                predicted("No pretraining", 0, 2),
            ],
        )]
        .into(),
        ..FigureData::default()
    };
    let html = ranking::ranking(&records, &data);
    for part in [
        "<td>LP below No pretraining</td>",
        "<td>TCAS not shown to be below its null (0.100 ± 0.060); LP not above No pretraining</td>",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
}

#[test]
fn cards_have_usage_and_classes_of_the_most_used_codes() {
    // Three codes, two classes.
    let card = card_of("x", &[1, 3, 0, 0, 30, 10], 2);
    assert_eq!(card.usage, [40, 4]);
    let heat = card.heat.unwrap();
    assert_eq!((heat.codes, heat.classes), (vec![2, 0], vec![0, 1]));
    assert_eq!(heat.percent, [[75, 25], [25, 75]]);
    let many: Vec<u64> = (0..1000).map(|i| i + 1).collect();
    assert_eq!(card_of("x", &many, 1).usage.len(), 63);
}

#[test]
fn two_hundred_rows_and_a_thousand_classes_stay_small() {
    let names: Vec<String> = (0..200).map(|i| format!("tokenizer {i}")).collect();
    let records: Vec<Record> = names.iter().map(|n| record(n, 0, 50.0)).collect();
    let table: Vec<u64> = (0..64 * 1000).map(|i| i % 17).collect();
    let card = |(at, name): (usize, &String)| Card {
        // Each row has a gallery of 16-px patches; all rows share six 224-px images.
        picture: vec![at as u8; 110_000],
        maps: vec![7; 900_000],
        ..card_of(name, &table, 1000)
    };
    let of = Page {
        cards: names.iter().enumerate().map(card).collect(),
        data: FigureData {
            classes: (0..1000).map(|i| format!("class number {i}")).collect(),
            ..FigureData::default()
        },
        ..Page::default()
    };
    let html = page(&records, &of);
    assert!(
        html.len() > 10_000_000 && html.len() < 20_000_000,
        "{}",
        html.len()
    );
}

#[test]
fn a_sentence_on_a_correlation_says_what_the_numbers_support() {
    let predictor = |metric: &str, finding: &str, decided_by: &str| Predictor {
        metric: metric.into(),
        accuracy: "lp".into(),
        n: 7,
        r: -0.4,
        r_low: Some(-1.0),
        r_high: Some(0.2),
        r_without_low: Some(-0.9),
        r_without_high: Some(0.1),
        p: 0.02,
        p_holm: 0.06,
        finding: finding.into(),
        decided_by: decided_by.into(),
        left_out: "K-means <DeiT>".into(),
        ..Predictor::default()
    };
    let text = |predictors: Vec<Predictor>| {
        let of = Page {
            predictors,
            ..Page::default()
        };
        page(&[record("a", 0, 50.0)], &of)
    };
    let none = text(vec![
        predictor("tcas", "not shown", "row <1>"),
        predictor("nmi", "not shown", ""),
    ]);
    for part in [
        "r = \u{2212}0.40 with linear probing accuracy over 7 tokenizers, 95 % bootstrap interval \u{2212}1.00 to 0.20",
        "Without any one row r is \u{2212}0.90 to 0.10. Permutation p = 0.020, after Holm&#39;s correction over 2 metrics p = 0.060: no relation is shown.",
        "One row decides the line: without row &lt;1&gt;, r has the other sign, less than half of its size, or no value because all other rows are equal.",
        "Not in the fit, because they saw labels: K-means &lt;DeiT&gt;.",
        "Of all 2 metrics against linear probing accuracy over at most 7 tokenizers, none of them is shown",
    ] {
        assert!(none.contains(part), "{part}: {none}");
    }
    let some = text(vec![
        predictor("tcas", "shown", ""),
        predictor("nmi", "one row", "row <1>"),
    ]);
    for part in [
        "p = 0.060: a relation is shown.",
        "these are shown to be related with it: tcas (permutation test",
        "<strong>One row decides</strong> these, which are no evidence: nmi (row &lt;1&gt;).",
    ] {
        assert!(some.contains(part), "{part}: {some}");
    }
}

#[test]
fn rows_of_another_recipe_and_of_fewer_seeds_are_named() {
    let of = |name: &str, seed, recipe: &str| Record {
        recipe_hash: recipe.into(),
        ..record(name, seed, 50.0)
    };
    let mut records = Vec::new();
    for seed in [0, 1] {
        let random = Record {
            encoder: "random".into(),
            ..of("floor", seed, "z")
        };
        records.extend([random, of("longer", seed, "y")]);
        records.extend(["a", "b"].map(|name| of(name, seed, "x")));
    }
    let named = |records: &[Record]| {
        let html = page(records, &Page::default());
        let rank = "may decide their rank: ";
        let rows = html
            .split_once(rank)
            .map(|(_, rest)| rest.split('.').next());
        (
            rows.flatten().map(str::to_owned),
            html.matches("<td>another recipe").count(),
            html.matches("LP over 1 of 2 seeds").count(),
        )
    };
    assert_eq!(named(&records), (Some("longer".into()), 1, 0));
    records[7].lp_top1 = None;
    assert_eq!(named(&records).2, 1);
    records.retain(|r| r.tokenizer != "longer");
    assert_eq!(named(&records), (None, 0, 1));
}

/// The page said it once per seed.
#[test]
fn the_same_failure_of_several_seeds_is_said_once() {
    let failed = |seed, error: &str| Record {
        status: "failed".into(),
        error: error.into(),
        ..record("a", seed, 50.0)
    };
    let records = [failed(0, "x"), failed(1, "y"), failed(2, "x")];
    assert_eq!(
        ranking::problems(records.iter()),
        ["seeds 0, 2: failed x", "seed 1: failed y"]
    );
}
