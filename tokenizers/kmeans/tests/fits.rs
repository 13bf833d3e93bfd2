//! Whole fits compared with reference loops, scikit-learn and linfa, and on degenerate data.

use super::*;
use crate::kmeans::run::Run;
use crate::kmeans::{lloyd, mini_batch};

fn fixture() -> (Given, serde_json::Value) {
    let text = include_str!("../../../tests/fixtures/kmeans/sklearn.json");
    let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
    let values = fixture["rows"].as_array().unwrap().iter();
    let rows = values.map(|v| v.as_f64().unwrap() as f32).collect();
    (Given { rows, dim: 6 }, fixture)
}

fn fields(more: serde_json::Value) -> Fields {
    config(8, more).parse().unwrap()
}

fn fit(given: &Given, more: serde_json::Value) -> Result<Codebook> {
    let images = Colors(given.rows.len() / given.dim);
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        fit::fit(given, &images, &fields(more), 0, cx)
    })
}

/// Fits from the first eight rows as centres.
fn from_first(
    given: &Given,
    more: serde_json::Value,
    algorithm: impl FnOnce(&mut Run<'_>, Vec<f32>) -> Result<Codebook>,
) -> Codebook {
    let images = Colors(given.rows.len() / given.dim);
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let fields = fields(more);
        let seen = (0..images.0).collect();
        let mut run = Run::new(given, &images, seen, &fields, 0, cx);
        algorithm(&mut run, given.rows[..8 * 6].to_vec()).unwrap()
    })
}

/// Returns the nearest of `centers` and its squared distance, in f64.
fn nearest(row: &[f32], centers: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (id, center) in centers.chunks(row.len()).enumerate() {
        let each = row.iter().zip(center);
        let distance = each.map(|(x, c)| (f64::from(*x) - c).powi(2)).sum();
        if distance < best.1 {
            best = (id, distance);
        }
    }
    best
}

fn inertia(given: &Given, codebook: &Codebook) -> f64 {
    let centers: Vec<f64> = codebook.centers.iter().copied().map(f64::from).collect();
    let rows = given.rows.chunks(given.dim);
    rows.map(|row| nearest(row, &centers).1).sum()
}

fn assert_centers(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let error = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs();
    let worst = found.iter().zip(expected).map(error).fold(0.0, f64::max);
    assert!(worst <= tolerance, "centres differ by {worst}");
}

#[test]
fn a_mini_batch_fit_equals_the_reference() {
    let (given, _) = fixture();
    let more = json!({"epochs": 3, "batch": 100, "shuffle": false});
    let found = from_first(&given, more, mini_batch::from);
    let mut centers: Vec<f64> = given.rows[..48].iter().copied().map(f64::from).collect();
    let mut weights = [0.0; 8];
    for batch in (0..3).flat_map(|_| given.rows.chunks(600)) {
        let places: Vec<usize> = batch
            .chunks(6)
            .map(|row| nearest(row, &centers).0)
            .collect();
        for (row, id) in batch.chunks(6).zip(places) {
            weights[id] += 1.0;
            for (center, x) in centers[id * 6..].iter_mut().zip(row) {
                *center += (f64::from(*x) - *center) / weights[id];
            }
        }
        let largest = weights.iter().copied().fold(0.0, f64::max);
        assert!(
            weights.iter().all(|w| *w >= 0.01 * largest),
            "no reassignment"
        );
    }
    assert_centers(&found.centers, &centers, 1e-4);
    assert_eq!(found.weights, weights.map(|w| w as f32));
}

#[test]
fn a_lloyd_fit_equals_the_reference() {
    let (given, _) = fixture();
    let more = json!({"algorithm": "lloyd", "epochs": 7, "batch": 130});
    let found = from_first(&given, more, lloyd::from);
    let mut centers: Vec<f64> = given.rows[..48].iter().copied().map(f64::from).collect();
    let mut counts = [0.0_f32; 8];
    for pass in 0..8 {
        let mut sums = vec![0.0; 48];
        counts = [0.0; 8];
        for row in given.rows.chunks(6) {
            let id = nearest(row, &centers).0;
            counts[id] += 1.0;
            let sum = sums[id * 6..].iter_mut().zip(row);
            sum.for_each(|(s, x)| *s += f64::from(*x));
        }
        // The last pass only counts.
        if pass < 7 {
            let each = centers.iter_mut().zip(&sums).enumerate();
            each.for_each(|(at, (c, sum))| *c = sum / f64::from(counts[at / 6]));
        }
    }
    assert_centers(&found.centers, &centers, 1e-4);
    assert_eq!(found.weights, counts);
}

#[test]
fn inertias_equal_scikit_learns_within_one_percent() {
    let (given, reference) = fixture();
    let lloyd = json!({"algorithm": "lloyd", "epochs": 100});
    let batches = json!({"epochs": 3, "batch": 100, "shuffle": false});
    let found = [
        ("lloyd", from_first(&given, lloyd, lloyd::from)),
        ("batches", from_first(&given, batches, mini_batch::from)),
    ];
    for (name, codebook) in found {
        let (found, expected) = (
            inertia(&given, &codebook),
            reference[name].as_f64().unwrap(),
        );
        let error = (found / expected - 1.0).abs();
        assert!(error <= 0.01, "{name}: {found} against {expected}");
    }
}

#[test]
fn linfa_agrees_from_the_same_start() {
    if !cfg!(feature = "linfa") {
        return;
    }
    let (given, _) = fixture();
    for (algorithm, epochs) in [("lloyd", 50), ("mini-batch", 10)] {
        let with = |engine| json!({"algorithm": algorithm, "epochs": epochs, "batch": 100, "engine": engine});
        let ours = inertia(&given, &fit(&given, with("gemm")).unwrap());
        let other = fit(&given, with("linfa")).unwrap();
        let theirs = inertia(&given, &other);
        assert!(
            (ours / theirs - 1.0).abs() < 0.01,
            "{algorithm}: {ours} and {theirs}"
        );
        let expected = if algorithm == "lloyd" { 600.0 } else { 6000.0 };
        assert_eq!(other.weights.iter().sum::<f32>(), expected, "{algorithm}");
    }
}

#[test]
fn every_init_fits_well_and_equally_on_any_threads() {
    let (given, reference) = fixture();
    for algorithm in ["lloyd", "mini-batch"] {
        for init in ["k-means++", "k-means||", "random"] {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let more = json!({"algorithm": algorithm, "init": init, "epochs": 20, "batch": 100, "restarts": 3});
                pool.build().unwrap().install(|| fit(&given, more).unwrap())
            };
            let found = on(1);
            assert_eq!(found, on(3), "{algorithm} {init}");
            let (found, expected) = (
                inertia(&given, &found),
                reference["inertia"].as_f64().unwrap(),
            );
            assert!(
                found < 1.1 * expected,
                "{algorithm} {init}: {found} against {expected}"
            );
        }
    }
}

#[test]
fn restarts_keep_the_best_with_its_own_counts() {
    let (given, _) = fixture();
    let more = |restarts| json!({"algorithm": "lloyd", "init": "random", "epochs": 30, "restarts": restarts, "k": 16});
    let of = |restarts| inertia(&given, &fit(&given, more(restarts)).unwrap());
    let inertias: Vec<f64> = (1..=6).map(of).collect();
    assert!(
        inertias.windows(2).all(|pair| pair[1] <= pair[0]),
        "{inertias:?}"
    );
    assert!(
        inertias[5] < inertias[0],
        "some other start is better: {inertias:?}"
    );
    let best = fit(&given, more(6)).unwrap();
    let mut counts = vec![0.0; 16];
    let nearest = best.nearest(Matching::Euclidean);
    for id in nearest.assign(&given.rows).unwrap() {
        counts[id as usize] += 1.0;
    }
    assert_eq!(best.weights, counts);
}

#[test]
fn empty_centres_move_to_far_patches() {
    let (given, _) = fixture();
    let more = json!({"algorithm": "lloyd", "epochs": 50});
    let far = |run: &mut Run<'_>, mut centers: Vec<f32>| {
        centers[6..18].fill(1e4);
        lloyd::from(run, centers)
    };
    let found = from_first(&given, more.clone(), far);
    assert!(
        found.weights.iter().all(|count| *count > 0.0),
        "{:?}",
        found.weights
    );
    assert_eq!(found, from_first(&given, more, far));
}

#[test]
fn degenerate_data_give_finite_centres() {
    let engines: &[&str] = match cfg!(feature = "linfa") {
        true => &["gemm", "linfa"],
        false => &["gemm"],
    };
    let same = |n| Given {
        rows: [1.5, -2.0, 0.25].repeat(n),
        dim: 3,
    };
    let apart = Given {
        rows: (0..30).map(|v| v as f32).collect(),
        dim: 3,
    };
    for engine in engines {
        for algorithm in ["lloyd", "mini-batch"] {
            for init in ["k-means++", "k-means||", "random"] {
                let with =
                    |k| json!({"k": k, "algorithm": algorithm, "init": init, "engine": engine});
                for (given, k) in [(same(1), 1), (same(40), 7), (same(5), 5)] {
                    let found = fit(&given, with(k)).unwrap();
                    let near = |v: (usize, &f32)| (v.1 - given.rows[v.0 % 3]).abs() < 1e-5;
                    assert!(
                        found.centers.iter().enumerate().all(near),
                        "{engine} {algorithm} {init}"
                    );
                    assert!(found.inertia.unwrap().per_patch < 1e-5);
                }
                let found = fit(&apart, with(10)).unwrap();
                assert!(found.centers.iter().all(|v| v.is_finite()));
                if algorithm == "lloyd" && *engine == "gemm" {
                    assert_eq!(
                        found.weights, [1.0; 10],
                        "{init}: every patch is its own centre"
                    );
                }
            }
        }
    }
}

#[test]
fn the_error_names_image_and_patch_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY] {
        let (mut given, _) = fixture();
        given.rows[321 * 6 + 2] = bad;
        for algorithm in ["lloyd", "mini-batch"] {
            let more = json!({"algorithm": algorithm, "batch": 100});
            let error = fit(&given, more).unwrap_err().to_string();
            assert!(error.contains("train image 321, patch 0"), "{error}");
            assert!(error.contains("expected finite numbers"), "{error}");
        }
    }
}

#[test]
fn images_held_out_are_not_fitted_and_measuring_changes_nothing() {
    let (given, _) = fixture();
    let (seen, held_out) = fit::split(600, 50, 7);
    assert_eq!((seen.len(), held_out.len()), (550, 50));
    assert!(held_out.iter().all(|image| !seen.contains(image)));
    assert_eq!(fit::split(600, 50, 7).1, held_out);
    let (seen, _) = fit::split(600, 0, 7);
    assert_eq!(seen, (0..600).collect::<Vec<_>>());
    let measured = fit(&given, json!({"held_out": 100, "epochs": 10})).unwrap();
    let inertia = measured.inertia.unwrap();
    assert!(inertia.held_out && inertia.images == 100);
    // 600 rows of variance 1 in 6 dimensions around 5 centres.
    assert!((4.0..8.0).contains(&inertia.per_patch), "{inertia}");
    let centers = |run: &mut Run<'_>, _| mini_batch::fit(run);
    let plain = from_first(&given, json!({"epochs": 10}), centers);
    let fitted = fit(&given, json!({"epochs": 10})).unwrap();
    assert_eq!(fitted.centers, plain.centers);
}

#[test]
fn without_held_out_images_the_inertia_is_that_of_all_images() {
    let (given, _) = fixture();
    for algorithm in ["mini-batch", "lloyd"] {
        for restarts in [1, 2] {
            let with = json!({"algorithm": algorithm, "restarts": restarts, "epochs": 3});
            let codebook = fit(&given, with).unwrap();
            let found = codebook.inertia.unwrap();
            let expected = inertia(&given, &codebook) / 600.0;
            let off = (found.per_patch / expected - 1.0).abs();
            assert!(off < 1e-5, "{algorithm} {restarts}: {found} {expected}");
            assert_eq!((found.images, found.held_out), (600, false));
        }
    }
}

#[test]
fn the_inertia_survives_a_save() {
    let (given, _) = fixture();
    let fitted = fit(&given, json!({"held_out": 10})).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("codebook.safetensors");
    fitted.save(&path).unwrap();
    assert_eq!(Codebook::load(&path).unwrap(), fitted);
    let old = Codebook {
        inertia: None,
        ..fitted
    };
    old.save(&path).unwrap();
    assert_eq!(Codebook::load(&path).unwrap(), old);
}

#[test]
fn progress_includes_the_inertia() {
    let registry = Registry::builtin();
    let notes = std::sync::Mutex::new(Vec::new());
    with_cx(&registry, |cx| {
        let progress =
            |done, total, note: &str| notes.lock().unwrap().push((done, total, note.to_owned()));
        let cx = BuildContext {
            progress: &progress,
            ..*cx
        };
        let more = json!({"algorithm": "lloyd", "epochs": 2, "restarts": 2, "k": 3});
        KMeansFactory
            .fit(&config(3, more), &Colors(20), 0, &cx)
            .unwrap();
    });
    let notes = notes.into_inner().unwrap();
    assert!(
        notes
            .iter()
            .any(|(done, total, _)| (*done, *total) == (1, 4)),
        "{notes:?}"
    );
    assert!(
        notes.iter().all(|(.., note)| note.contains("inertia ")),
        "{notes:?}"
    );
    let last = &notes.last().unwrap().2;
    assert!(last.contains("per patch on 20 fitted images"), "{last}");
}

#[test]
fn every_field_that_changes_the_codebook_changes_the_fit_inputs() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let inputs = |more| KMeansFactory.fit_inputs(&config(5, more), cx).unwrap();
        let plain = inputs(json!({}));
        let spelled = json!({"algorithm": "mini-batch", "init": "k-means++", "restarts": 1, "engine": "gemm"});
        assert_eq!(inputs(spelled), plain);
        assert_eq!(
            inputs(json!({"matching": "cosine"})),
            plain,
            "matching is not part of the fit"
        );
        for more in [
            json!({"k": 6}),
            json!({"epochs": 4}),
            json!({"batch": 17}),
            json!({"shuffle": false}),
            json!({"algorithm": "lloyd"}),
            json!({"init": "k-means||"}),
            json!({"init": "random"}),
            json!({"restarts": 2}),
            json!({"engine": "linfa"}),
            json!({"held_out": 1}),
        ] {
            assert_ne!(inputs(more.clone()), plain, "{more}");
        }
    });
}

#[test]
fn wrong_fields_are_refused_with_their_names() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let cx = BuildContext {
            images: Some([10, 10]),
            ..*cx
        };
        for (more, expected) in [
            (
                json!({"restarts": 0}),
                "with.restarts: found 0, expected a whole number of at least 1",
            ),
            (
                json!({"held_out": 10}),
                "with.held_out: found 10, but the train split has only 10 images",
            ),
            (
                json!({"held_out": 5, "k": 21}),
                "with.k: found 21, but the train split has only 20 patches after 5 held out",
            ),
            (json!({"algorithm": "loyd"}), "did you mean `lloyd`?"),
            (json!({"init": "kmeans++"}), "did you mean `k-means++`?"),
            (json!({"engine": "blas"}), "expected `gemm` or `linfa`"),
        ] {
            let error = KMeansFactory
                .validate(&config(2, more), &cx)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        let many = BuildContext {
            images: Some([100_000_000, 10]),
            ..cx
        };
        let with = json!({"engine": "linfa", "algorithm": "lloyd"});
        let error = KMeansFactory
            .validate(&config(2, with), &many)
            .err()
            .unwrap()
            .to_string();
        let reason = match cfg!(feature = "linfa") {
            true => "in memory, expected at most 4 GiB; use `engine: gemm`",
            false => "built without it",
        };
        assert!(
            error.contains("with.engine: found linfa") && error.contains(reason),
            "{error}"
        );
    });
}

/// Others who share a store could not read it.
#[test]
fn a_codebook_has_the_permissions_of_other_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let [codebook, other] = ["codebook.safetensors", "other"].map(|name| dir.path().join(name));
    Codebook::new(vec![0.0; 4], 2).save(&codebook).unwrap();
    std::fs::write(&other, "").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(codebook), mode(other));
}
