use super::*;

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() <= 1.5e-6,
        "{what}: {found}, expected {expected}"
    );
}

/// The golden values: tcas, tcas_norm, tcas_softmax, mi, pnmi, nmi, token and class purity, perplexity, alpha, eig_sq_sum.
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

/// Equation 8 with its sum over all pairs of tokens, written out.
#[test]
fn tcas_is_the_sum_over_all_pairs() {
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
    // A sharp temperature goes to one-hot rows.
    let sharp = Values::of(&[9.0, 1.0, 1.0, 9.0], 2, 1e-4);
    assert!(sharp.tcas_sharp < 1e-12, "{}", sharp.tcas_sharp);
}

#[test]
fn one_class_has_no_normalised_information() {
    let values = Values::of(&[3.0, 4.0], 1, 0.002);
    assert_eq!((values.pnmi, values.nmi), (None, None));
}

fn images(informative: bool) -> Counts {
    let mut counts = Counts::new(64, 4);
    for image in 0..200_u32 {
        let label = image % 4;
        let ids: Vec<u32> = (0..32)
            .map(|patch| {
                let noise = (image / 4 * 7919 + patch * 104_729) % 16;
                if informative {
                    label * 16 + noise
                } else {
                    noise * 4 + patch % 4
                }
            })
            .collect();
        counts.add_image(label, &ids);
    }
    counts
}

#[test]
fn a_table_is_the_histogram_of_its_images_and_survives_a_save() {
    let counts = images(true);
    assert_eq!(counts.table().iter().sum::<u64>(), 200 * 32);
    let dir = tempfile::tempdir().unwrap();
    counts.save(dir.path()).unwrap();
    assert_eq!(Counts::load(dir.path()).unwrap(), counts);
}

#[test]
fn tokens_with_information_lie_beyond_their_null_and_others_do_not() {
    let of = |informative| {
        let all = estimate(&images(informative), 0.002, 0);
        let tcas = all.into_iter().find(|e| e.metric == "tcas").unwrap();
        (tcas.null_mean.unwrap() - tcas.value.unwrap()) / tcas.null_se.unwrap().max(1e-9)
    };
    assert!(of(true) > 100.0, "{}", of(true));
    assert!(of(false).abs() < 20.0, "{}", of(false));
}

#[test]
fn estimates_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| estimate(&images(true), 0.002, 3))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_list_names_every_metric() {
    let names: Vec<_> = Values::default()
        .list()
        .iter()
        .map(|(name, _)| *name)
        .collect();
    let listed: Vec<_> = METRICS.iter().map(|m| m.name).collect();
    assert_eq!(names, listed);
}
