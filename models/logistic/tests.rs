use super::*;
use crate::testing::{formula, json};

const CODES: usize = 40;
const CLASSES: usize = 5;
const PATCHES: usize = 30;

/// The bags of `tests/fixtures/logistic/make.py`, without scale.
fn bags(first: usize, images: usize) -> (Rows, Vec<u32>) {
    let mut rows = Rows::new(CODES);
    let labels: Vec<u32> = (first..first + images)
        .map(|i| (i % CLASSES) as u32)
        .collect();
    for (at, label) in labels.iter().enumerate() {
        let uniform = formula(400_000 + (first + at) as u32, 2 * PATCHES, 1.0);
        let mut counts = [0_u32; CODES];
        for pair in uniform.chunks_exact(2) {
            let [own, place] = [pair[0], pair[1]].map(|v| (f64::from(v) + 1.0) / 2.0);
            let code = match own < 0.12 {
                true => f64::from(*label) * 8.0 + place * 8.0,
                false => place * CODES as f64,
            };
            counts[code as usize] += 1;
        }
        let found = (0..).zip(counts).filter(|(_, n)| *n > 0);
        rows.push(found.map(|(code, n)| (code, n as f32)));
    }
    (rows, labels)
}

/// Returns train and val rows, scaled, with their labels.
fn splits() -> [(Rows, Vec<u32>); 2] {
    let (mut train, labels) = bags(0, 300);
    let (mut val, val_labels) = bags(300, 400);
    let factor = 1.0 / train.mean_square().sqrt();
    train.scale(factor);
    val.scale(factor);
    [(train, labels), (val, val_labels)]
}

#[test]
fn every_strength_ends_at_the_optimum_of_scikit_learn() {
    let [(train, labels), (val, val_labels)] = splits();
    for one in json("logistic/optimum.json").as_array().unwrap() {
        let number = |key: &str| one[key].as_f64().unwrap();
        let l2 = number("l2");
        let start = Logistic::zeros(CODES, CLASSES);
        let model = fit(&train, &labels, l2, start, &|| false).unwrap();
        assert!(model.has_converged(), "{l2}: {}", model.largest_derivative);
        let top1 = model.evaluate(&val, &val_labels).top1;
        assert!((top1 - number("top1")).abs() <= 0.5, "{l2}: {top1}, {one}");
        let loss = model.loss(&train, &labels);
        assert!((loss - number("loss")).abs() < 1e-4, "{l2}: {loss}, {one}");
        let value = Objective::new(&train, &labels, CLASSES, l2)
            .at(model.weight)
            .value;
        assert!(
            (value - number("objective")).abs() < 1e-6,
            "{l2}: {value}, {one}"
        );
    }
}

#[test]
fn the_strength_has_the_lowest_held_out_loss_and_the_search_ends_where_it_rises() {
    let [(train, labels), (val, val_labels)] = splits();
    let strengths = [1e-4, 1.0, 1e-1, 1e-2, 1e-3, 1e-5];
    let chosen = choose(&train, &labels, CLASSES, &strengths, &|| false).unwrap();
    let losses: Vec<f64> = chosen.tried.iter().map(|one| one.loss).collect();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let best = chosen.tried.iter().find(|one| one.loss == lowest).unwrap();
    assert_eq!(best.l2, chosen.l2);
    assert!(
        losses.len() < strengths.len() && losses.last() > Some(&lowest),
        "{losses:?}"
    );
    // The path of the search does not change the optimum.
    let alone = choose(&train, &labels, CLASSES, &[chosen.l2], &|| false).unwrap();
    let top1 = |chosen: &Chosen| chosen.model.evaluate(&val, &val_labels).top1;
    assert_eq!(top1(&alone), top1(&chosen));
    let close = alone.model.weight.iter().zip(&chosen.model.weight);
    assert!(close.clone().all(|(a, b)| (a - b).abs() < 1e-2));
}

#[test]
fn the_result_does_not_depend_on_threads_or_blocks() {
    let [(train, labels), _] = splits();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| choose(&train, &labels, CLASSES, &[1e-2, 1e-3], &|| false).unwrap())
    };
    assert_eq!(on(1).model.weight, on(3).model.weight);
    // Blocks of another size give the same sums but for rounding.
    let objective = Objective::new(&train, &labels, CLASSES, 1e-3);
    let weight = formula(7, (CODES + 1) * CLASSES, 1.0);
    let weight: Vec<f64> = weight.into_iter().map(f64::from).collect();
    let whole = objective.at(weight.clone());
    let parts = [0..1, 1..130, 130..300].map(|rows| ByColumn::new(&train, rows));
    let split = Objective {
        blocks: parts.into(),
        ..objective
    }
    .at(weight);
    assert!((whole.value - split.value).abs() < 1e-12);
    let same = whole.gradient.iter().zip(&split.gradient);
    assert!(same.clone().all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn interruptions_and_classes_of_one_image_are_errors() {
    let [(train, labels), _] = splits();
    let stopped = choose(&train, &labels, CLASSES, &[1e-2], &|| true);
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let mut rows = Rows::new(2);
    rows.push([(0, 1.0)]);
    rows.push([(1, 1.0)]);
    let error = choose(&rows, &[0, 1], 2, &[1e-2, 1e-3], &|| false).unwrap_err();
    assert!(error.to_string().contains("held out"), "{error}");
}
