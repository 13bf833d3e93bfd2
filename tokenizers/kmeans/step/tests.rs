use super::*;

fn numbers(count: usize, salt: usize) -> Vec<f32> {
    let at = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 256.0 - 2.0;
    (0..count).map(at).collect()
}

/// Assigns and sums row by row in f64.
fn reference(rows: &[f32], dim: usize, centers: &[f32]) -> (Vec<f64>, Vec<u64>, f64) {
    let k = centers.len() / dim;
    let (mut sums, mut counts, mut inertia) = (vec![0.0; k * dim], vec![0; k], 0.0);
    for row in rows.chunks(dim) {
        let distance = |c: &[f32]| -> f64 {
            let each = row.iter().zip(c);
            each.map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2))
                .sum()
        };
        let distances: Vec<f64> = centers.chunks(dim).map(distance).collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let id = distances.iter().position(|d| *d == least).unwrap();
        counts[id] += 1;
        inertia += least;
        let sum = sums[id * dim..].iter_mut().zip(row);
        sum.for_each(|(s, x)| *s += f64::from(*x));
    }
    (sums, counts, inertia)
}

#[test]
fn a_step_equals_the_reference() {
    // Centres as whole vectors, as dot products, as both; an incomplete last tile and last task.
    for (n, dim, k) in [
        (1, 1, 1),
        (5, 3, 2),
        (47, 16, 16),
        (49, 17, 18),
        (100, 5, 23),
        (5000, 48, 50),
        (300, 33, 100),
    ] {
        let (rows, centers) = (numbers(n * dim, 1), numbers(k * dim, 2));
        let found = Stepper::new().step(&rows, dim, &centers).unwrap();
        let (sums, counts, inertia) = reference(&rows, dim, &centers);
        assert_eq!(found.counts, counts, "{n}x{dim}, k {k}");
        let error = |(f, e): (&f64, &f64)| (f - e).abs() / (1.0 + e.abs());
        let worst = found.sums.iter().zip(&sums).map(error).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{n}x{dim}, k {k}: sums differ by {worst}");
        let error = (found.inertia - inertia).abs();
        assert!(
            error <= 1e-4 * inertia + 1e-4,
            "{} {inertia}",
            found.inertia
        );
    }
}

#[test]
fn reused_buffers_do_not_change_results() {
    let (large, small) = (numbers(9000 * 8, 1), numbers(70 * 8, 3));
    let centers = numbers(20 * 8, 2);
    let mut used = Stepper::new();
    used.step(&large, 8, &centers).unwrap();
    let again = used.step(&small, 8, &centers[..5 * 8]).unwrap();
    let fresh = Stepper::new().step(&small, 8, &centers[..5 * 8]).unwrap();
    assert_eq!(again, fresh);
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let (rows, centers) = (numbers(10_000 * 24, 1), numbers(37 * 24, 2));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().unwrap();
        pool.install(|| Stepper::new().step(&rows, 24, &centers).unwrap())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn the_lower_index_wins_a_tie() {
    let centers: Vec<f32> = [[1.0, 0.0]; 40].concat();
    let found = Stepper::new()
        .step(&[0.5, 0.5, -3.0, 2.0], 2, &centers)
        .unwrap();
    assert_eq!(found.counts[0], 2);
}

#[test]
fn the_error_names_the_row_that_is_not_finite() {
    for (bad, at) in [
        (f32::NAN, 0),
        (f32::INFINITY, 4999),
        (f32::NEG_INFINITY, 2100),
        (1e30, 60),
    ] {
        let mut rows = numbers(5000 * 7, 1);
        rows[at * 7 + 3] = bad;
        rows[4999 * 7] = f32::NAN;
        let mut stepper = Stepper::new();
        let found = stepper.step(&rows, 7, &numbers(19 * 7, 2)).unwrap_err();
        assert_eq!(found, NotFinite { row: at }, "{bad}");
    }
}
