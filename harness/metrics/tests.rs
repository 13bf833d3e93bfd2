use std::collections::BTreeMap;
use std::path::Path;

use rand::Rng;
use rand::seq::SliceRandom;
use tessera_models::rng::keyed_rng;
use tessera_reports::Record;

use super::*;

mod dense;
mod device;
mod files;

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() <= 1.5e-6,
        "{what}: {found}, expected {expected}"
    );
}

#[test]
fn footnotes_name_the_number_of_permutations() {
    assert_eq!(tessera_reports::PERMUTATIONS, uncertainty::PERMUTATIONS);
}

/// Reference values: tcas, tcas_norm, tcas_softmax, mi, pnmi, nmi, token and class purity, perplexity, alpha, eig_sq_sum.
#[test]
fn golden_values() {
    let cases: [(&[&[u32]], [f64; 11]); 4] = [
        (
            &[&[8, 1, 1], &[0, 5, 5], &[2, 2, 6], &[0, 0, 0]],
            [
                0.276978, 0.128687, 0.483439, 0.324372, 0.298908, 0.297071, 0.633333, 0.633333,
                3.0, 0.466667, 1.273469,
            ],
        ),
        (
            &[&[30, 2, 1], &[1, 9, 0], &[4, 4, 2], &[0, 1, 6]],
            [
                0.183421, 0.099266, 0.461509, 0.474228, 0.498426, 0.445668, 0.816667, 0.75,
                3.243698, 0.258167, 1.582644,
            ],
        ),
        (
            &[&[10, 0], &[0, 10]],
            [
                0.0,
                0.0,
                0.231938,
                std::f64::consts::LN_2,
                1.0,
                1.0,
                1.0,
                1.0,
                2.0,
                0.0,
                2.0,
            ],
        ),
        (
            &[&[5, 5], &[5, 5]],
            [
                0.375, 0.210786, 0.375, 0.0, 0.0, 0.0, 0.5, 0.5, 2.0, 0.5, 1.0,
            ],
        ),
    ];
    for (table, expected) in cases {
        let flat: Vec<f64> = table
            .iter()
            .copied()
            .flatten()
            .map(|v| f64::from(*v))
            .collect();
        let v = Values::of(&flat, table[0].len(), 0.002);
        let found = [
            v.tcas,
            v.tcas_norm,
            v.tcas_softmax,
            v.mi,
            v.pnmi.unwrap(),
            v.nmi.unwrap(),
            v.token_purity,
            v.class_purity,
            v.perplexity,
            v.alpha,
            v.eig_sq_sum,
        ];
        for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            close(found, expected, &format!("{table:?} [{at}]"));
        }
    }
}

/// Equation 8 with an explicit sum over all pairs of tokens.
#[test]
fn tcas_equals_the_explicit_sum_over_all_pairs() {
    let (tokens, classes) = (23, 7);
    let table: Vec<f64> = (0..tokens * classes)
        .map(|i| f64::from((i * i * 31 % 17) as u32))
        .collect();
    let rows: Vec<Vec<f64>> = table
        .chunks(classes)
        .map(|r| {
            let sum: f64 = r.iter().sum();
            r.iter().map(|v| v / sum).collect()
        })
        .collect();
    let c = |a: usize, b: usize| {
        rows[a]
            .iter()
            .zip(&rows[b])
            .map(|(x, y)| x * y)
            .sum::<f64>()
    };
    let l1 = tokens as f64;
    let mut expected = 0.0;
    for i in 0..tokens {
        expected += (1.0 - c(i, i)).powi(2) / l1;
        expected += (0..tokens)
            .filter(|j| *j != i)
            .map(|j| c(i, j).powi(2))
            .sum::<f64>()
            / (l1 * l1);
    }
    let found = Values::of(&table, classes, 0.002);
    assert!(
        (found.tcas - expected).abs() < 1e-12,
        "{} {expected}",
        found.tcas
    );
    // A low temperature approaches one-hot rows.
    let sharp = Values::of(&[9.0, 1.0, 1.0, 9.0], 2, 1e-4);
    assert!(sharp.tcas_sharp < 1e-12, "{}", sharp.tcas_sharp);
}

#[test]
fn one_class_has_no_normalised_information() {
    let values = Values::of(&[3.0, 4.0], 1, 0.002);
    assert_eq!((values.pnmi, values.nmi), (None, None));
}

/// Each patch has a code of its own; the sums of logarithms round.
#[test]
fn metrics_of_perfect_codes_stay_in_their_range() {
    for per_class in [[16.0, 480.0, 112.0, 32.0], [7.0, 3.0, 11.0, 1.0]] {
        let mut table: Vec<f64> = Vec::new();
        for (class, patches) in per_class.iter().enumerate() {
            for _ in 0..*patches as usize {
                table.extend((0..4).map(|c| f64::from(u8::from(c == class))));
            }
        }
        let values = Values::of(&table, 4, 0.002);
        assert!((1.0 - 1e-12..=1.0).contains(&values.pnmi.unwrap()));
        assert!(values.nmi.unwrap() <= 1.0 && values.alpha >= 0.0);
    }
}

/// Number of codes and classes, and the images' labels and ids.
struct Split {
    size: (usize, usize),
    labels: Vec<u32>,
    ids: Vec<Vec<u32>>,
}

impl Split {
    fn write(&self, dir: &Path) -> Counts {
        let mut counts = CountsWriter::create(dir, dir, self.size, None).unwrap();
        for (at, (ids, label)) in self.ids.iter().zip(&self.labels).enumerate() {
            // Some images are added alone, others in batches of two.
            match (at % 3, self.ids.get(at + 1)) {
                (1, Some(next)) => {
                    let labels = [*label, self.labels[at + 1]];
                    counts
                        .add(&[ids.as_slice(), next].concat(), &labels)
                        .unwrap();
                }
                (2, _) => (),
                _ => counts.add(ids, &[*label]).unwrap(),
            }
        }
        counts.finish().unwrap()
    }

    fn table(&self) -> BTreeMap<(u32, u32), u64> {
        let mut table = BTreeMap::new();
        for (ids, label) in self.ids.iter().zip(&self.labels) {
            ids.iter()
                .for_each(|id| *table.entry((*id, *label)).or_default() += 1);
        }
        table
    }

    /// Returns the metrics, by definition, of `R` with `labels` and each image counted `weight` times.
    fn values(&self, labels: &[u32], weight: impl Fn(usize) -> f64) -> Values {
        let (codes, classes) = self.size;
        let mut table = vec![0.0; codes * classes];
        for (image, (ids, label)) in self.ids.iter().zip(labels).enumerate() {
            for id in ids {
                table[*id as usize * classes + *label as usize] += weight(image);
            }
        }
        dense::values(&table, classes, 0.002)
    }
}

fn images(informative: bool) -> Split {
    let ids = |image: u32| {
        let of_patch = |patch: u32| {
            let noise = (image / 4 * 7919 + patch * 104_729) % 16;
            if informative {
                image % 4 * 16 + noise
            } else {
                noise * 4 + patch % 4
            }
        };
        (0..32).map(of_patch).collect()
    };
    Split {
        size: (64, 4),
        labels: (0..200).map(|image| image % 4).collect(),
        ids: (0..200).map(ids).collect(),
    }
}

/// Returns random images that use part of a codebook.
fn random_images(size: (usize, usize), images: usize, patches: usize) -> Split {
    let mut rng = keyed_rng(1, "test images", 0, 0);
    let ids = (0..images).map(|_| {
        // Squaring makes low tokens frequent.
        let draw = |_| (rng.random::<f64>().powi(2) * 0.9 * size.0 as f64) as u32;
        (0..patches).map(draw).collect()
    });
    Split {
        size,
        ids: ids.collect(),
        labels: (0..images).map(|i| (i * 7 % size.1) as u32).collect(),
    }
}

/// Sizes of each storage: dense with a table per thread, dense by ranges, sparse.
const SIZES: [(usize, usize); 3] = [(300, 7), (9000, 300), (1 << 20, 20)];

#[test]
fn files_contain_the_histogram_of_the_images_at_any_size() {
    for size in SIZES {
        let split = random_images(size, 500, 50);
        let dir = tempfile::tempdir().unwrap();
        let written = split.write(dir.path());
        let counts = Counts::open(dir.path()).unwrap();
        assert_eq!((counts.codebook_size, counts.num_classes), size);
        assert_eq!(counts.labels, split.labels);
        let sparse = (size.0 * size.1) as u64 > DENSE_CELLS;
        assert_eq!(dir.path().join(SPARSE_FILE).exists(), sparse);
        assert_eq!(dir.path().join(DENSE_FILE).exists(), !sparse);
        for counts in [written, counts] {
            let mut found = BTreeMap::new();
            let mut table = counts.table().unwrap();
            table
                .each_row(|token, row| {
                    assert!(row.is_sorted() && !row.is_empty(), "{row:?}");
                    found.extend(row.iter().map(|(class, n)| ((token, *class), *n)));
                    Ok(())
                })
                .unwrap();
            assert_eq!(found, split.table(), "{size:?}");
            assert_eq!(table.total().unwrap(), 500 * 50);
            let mut pairs = BTreeMap::new();
            counts
                .each_pair(|image, token, n| {
                    assert_eq!(pairs.insert((image, token), n), None, "a repeated pair");
                    Ok(())
                })
                .unwrap();
            for (image, ids) in (0_u32..).zip(&split.ids) {
                for id in ids {
                    *pairs.get_mut(&(image, *id)).unwrap() -= 1;
                }
            }
            assert!(pairs.values().all(|n| *n == 0));
        }
    }
}

#[test]
fn counts_do_not_depend_on_threads_or_batches() {
    for size in SIZES {
        let split = random_images(size, 3000, 64);
        let ids = split.ids.concat();
        let counted = |threads: usize, images: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let mut counter = Counter::new(size.0, size.1, &std::env::temp_dir());
                for (ids, labels) in ids.chunks(images * 64).zip(split.labels.chunks(images)) {
                    counter.add(ids, labels).unwrap();
                }
                let mut found = BTreeMap::new();
                let mut table = counter.finish().unwrap();
                let take = |token, row: &[(u32, u64)]| {
                    found.extend(row.iter().map(|(class, n)| ((token, *class), *n)));
                    Ok(())
                };
                table.each_row(take).unwrap();
                found
            })
        };
        let expected = split.table();
        for (threads, images) in [(1, 3000), (3, 3000), (3, 7), (2, 1)] {
            assert_eq!(
                counted(threads, images),
                expected,
                "{size:?} {threads} {images}"
            );
        }
    }
}

#[test]
fn errors_name_ids_and_labels_out_of_range() {
    for size in SIZES {
        let message = |ids: &[u32], labels: &[u32]| {
            let mut counter = Counter::new(size.0, size.1, &std::env::temp_dir());
            counter.add(&[0, 0], &[0]).unwrap();
            counter.add(ids, labels).unwrap_err().to_string()
        };
        let (codes, classes) = (size.0 as u32, size.1 as u32);
        let of_id = message(&[0, 0, 0, codes], &[0, 0]);
        assert!(
            of_id.contains(&format!("image 2: id {codes} is not in 0..{codes}")),
            "{of_id}"
        );
        let of_label = message(&[0, 0], &[0, classes]);
        assert!(
            of_label.contains(&format!("image 2: label {classes} is not in")),
            "{of_label}"
        );
        assert!(message(&[0, 0, 0], &[0, 0]).contains("3 ids for 2 images"));
    }
}

fn assert_close(found: &Values, expected: &Values, what: &str) {
    for ((name, found), (_, expected)) in found.list().into_iter().zip(expected.list()) {
        let (found, expected) = (found.unwrap(), expected.unwrap());
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(
            error <= 1e-12,
            "{what}, {name}: {found}, expected {expected}"
        );
    }
}

#[test]
fn sparse_rows_give_the_values_of_the_definitions() {
    let mut rng = keyed_rng(0, "test tables", 0, 0);
    for (rows, classes) in [(1, 2), (40, 3), (17, 10), (100, 65), (64, 200), (700, 31)] {
        for filled in [0.02, 0.3, 1.0] {
            let mut table: Vec<f64> = (0..rows * classes)
                .map(|_| match rng.random_bool(filled) {
                    true => f64::from(rng.random_range(1..2000)),
                    false => 0.0,
                })
                .collect();
            table[0] = 3.0;
            table[classes - 1] = 2.0;
            let what = format!("{rows} x {classes}, {filled}");
            let expected = dense::values(&table, classes, 0.002);
            assert_close(&Values::of(&table, classes, 0.002), &expected, &what);
            let cells = table.iter().map(|v| *v as u64).collect();
            let found = Table::dense(rows, classes, cells).values(0.002).unwrap();
            assert_close(&found, &expected, &what);
        }
    }
}

#[test]
fn draws_resample_whole_images() {
    let split = random_images((500, 11), 400, 30);
    let dir = tempfile::tempdir().unwrap();
    let found = estimate(&split.write(dir.path()), 0.002, 5, dir.path(), &|| false).unwrap();
    let value = split.values(&split.labels, |_| 1.0);
    let nulls: Vec<Values> = (0..uncertainty::PERMUTATIONS)
        .map(|draw| {
            let mut labels = split.labels.clone();
            labels.shuffle(&mut keyed_rng(5, "null", draw, 0));
            split.values(&labels, |_| 1.0)
        })
        .collect();
    let draws: Vec<Values> = (0..uncertainty::DRAWS)
        .map(|draw| {
            split.values(&split.labels, |image| {
                let rng = &mut keyed_rng(5, "bootstrap", draw, image as u64);
                f64::from(uncertainty::poisson(rng.random()))
            })
        })
        .collect();
    for (at, (estimate, (_, value))) in found.iter().zip(value.list()).enumerate() {
        let over = |all: &[Values]| -> (f64, f64) {
            let all: Vec<f64> = all.iter().map(|v| v.list()[at].1.unwrap()).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let squares: f64 = all.iter().map(|v| (v - mean).powi(2)).sum();
            (mean, (squares / (all.len() as f64 - 1.0)).sqrt())
        };
        let (null, deviation) = over(&nulls);
        let expected = [
            (estimate.value, value.unwrap()),
            (estimate.se, over(&draws).1),
            (estimate.null_mean, null),
            (estimate.null_se, deviation / (nulls.len() as f64).sqrt()),
        ];
        for (found, expected) in expected {
            let error = (found.unwrap() - expected).abs() / expected.abs().max(1.0);
            assert!(
                error <= 1e-12,
                "{}: {found:?}, expected {expected}",
                estimate.metric
            );
        }
    }
}

#[test]
fn only_informative_tokens_differ_from_the_null() {
    let of = |informative| {
        let dir = tempfile::tempdir().unwrap();
        let counts = images(informative).write(dir.path());
        let all = estimate(&counts, 0.002, 0, dir.path(), &|| false).unwrap();
        let tcas = all.into_iter().find(|e| e.metric == "tcas").unwrap();
        (tcas.null_mean.unwrap() - tcas.value.unwrap()) / tcas.null_se.unwrap().max(1e-9)
    };
    assert!(of(true) > 100.0, "{}", of(true));
    assert!(of(false).abs() < 20.0, "{}", of(false));
}

#[test]
fn estimates_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let counts = random_images((3000, 40), 2000, 60).write(dir.path());
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| estimate(&counts, 0.002, 3, dir.path(), &|| false).unwrap())
    };
    assert_eq!(run(1), run(3));
    let stopped = estimate(&counts, 0.002, 3, dir.path(), &|| true).unwrap_err();
    assert_eq!(stopped.kind(), std::io::ErrorKind::Interrupted);
}

/// Reference values of TCAS and PNMI for random tokens on ten classes, by codes and patches.
#[test]
fn tcas_has_the_known_bias_on_random_tokens() {
    let cases = [
        (512, 980_000, 0.819, 0.001),
        // PNMI was measured with numpy: 0.0166.
        (8192, 980_000, 0.806, 0.017),
        (8192, 196_000, 0.751, 0.093),
    ];
    for (codes, patches, tcas, pnmi) in cases {
        let of = |draw| {
            let mut rng = keyed_rng(draw, "random tokens", codes as u64, patches);
            let ids: Vec<u32> = (0..patches)
                .map(|_| rng.random_range(0..codes as u32))
                .collect();
            // 196 patches per image, classes in rotation.
            let labels: Vec<u32> = (0..patches as u32 / 196).map(|image| image % 10).collect();
            let mut counter = Counter::new(codes, 10, &std::env::temp_dir());
            counter.add(&ids, &labels).unwrap();
            counter.finish().unwrap().values(0.002).unwrap()
        };
        let drawn: Vec<Values> = (0..8_000_000 / patches).map(of).collect();
        let of_metric = |metric: fn(&Values) -> f64| drawn.iter().map(metric).collect();
        let found: [Vec<f64>; 2] = [of_metric(|v| v.tcas), of_metric(|v| v.pnmi.unwrap())];
        for (printed, all) in [tcas, pnmi].into_iter().zip(found) {
            let n = all.len() as f64;
            let mean = all.iter().sum::<f64>() / n;
            let squares: f64 = all.iter().map(|v| (v - mean).powi(2)).sum();
            // Half a unit of the last given digit, plus three standard errors of the mean.
            let allowed = 5e-4 + 3.0 * (squares / (n - 1.0) / n).sqrt();
            let off = (mean - printed).abs();
            assert!(
                off <= allowed && allowed < 8e-4,
                "{codes} {patches}: {mean}, {printed}"
            );
        }
    }
}

#[test]
fn every_metric_is_a_column_of_results_csv() {
    let values = Values::default().list();
    let values = values.into_iter().map(|(name, _)| name);
    let found: Vec<_> = values.chain(arrangement::names()).collect();
    let columns: Vec<_> = Record::metrics().map(|c| c.name).collect();
    assert_eq!(found, columns);
}
