//! The definitions in f64.

/// Returns for each row the lowest centre with the largest `row . center + bias`, and that score.
pub fn assign(rows: &[f64], centers: &[f64], bias: &[f64], dim: usize) -> Vec<(u32, f64)> {
    let place = |row: &[f64]| {
        let mut best = (0, f64::NEG_INFINITY);
        for (at, (center, bias)) in (0..).zip(centers.chunks(dim).zip(bias)) {
            let score = row.iter().zip(center).map(|(a, b)| a * b).sum::<f64>() + bias;
            if score > best.1 {
                best = (at, score);
            }
        }
        best
    };
    rows.chunks(dim).map(place).collect()
}

/// Returns sum and number of each centre's rows.
pub fn accumulate(rows: &[f64], ids: &[u32], k: usize, dim: usize) -> (Vec<f64>, Vec<u64>) {
    let (mut sums, mut counts) = (vec![0.0; k * dim], vec![0; k]);
    for (row, id) in rows.chunks(dim).zip(ids) {
        let sum = &mut sums[*id as usize * dim..][..dim];
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
        counts[*id as usize] += 1;
    }
    (sums, counts)
}

/// Returns for one run: sum of squares, sum of distances, largest distance, its row, and the first row without a distance.
pub fn run(
    rows: &[f64],
    best: &[f64],
    dim: usize,
    first: usize,
) -> (f64, f64, f64, usize, Option<usize>) {
    let mut found = (0.0, 0.0, f64::NEG_INFINITY, first, None);
    for (row, (values, best)) in (first..).zip(rows.chunks(dim).zip(best)) {
        let square: f64 = values.iter().map(|v| v * v).sum();
        let distance = square - 2.0 * best;
        if !distance.is_finite() {
            found.4 = found.4.or(Some(row));
            continue;
        }
        found.0 += square;
        found.1 += distance.max(0.0);
        if distance.max(0.0) > found.2 {
            (found.2, found.3) = (distance.max(0.0), row);
        }
    }
    found
}
