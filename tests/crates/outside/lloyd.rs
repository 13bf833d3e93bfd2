//! Lloyd's K-means for a few thousand short rows, in plain loops.

/// Returns `k` centres of `rows` `[n, dim]`, row-major, after `passes`. It starts from rows drawn with `seed`. A centre without
/// rows does not move.
pub fn centers(rows: &[f32], dim: usize, k: usize, passes: usize, seed: u64) -> Vec<f32> {
    let count = rows.len() / dim;
    let mut state = seed;
    let mut centers: Vec<f32> = (0..k)
        .flat_map(|_| {
            let at = (splitmix(&mut state) % count as u64) as usize;
            rows[at * dim..][..dim].iter().copied()
        })
        .collect();
    for _ in 0..passes {
        let (mut sums, mut counts) = (vec![0f64; k * dim], vec![0u32; k]);
        for row in rows.chunks_exact(dim) {
            let id = nearest(row, &centers);
            counts[id] += 1;
            for (sum, value) in sums[id * dim..][..dim].iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        for id in (0..k).filter(|id| counts[*id] > 0) {
            for at in id * dim..(id + 1) * dim {
                centers[at] = (sums[at] / f64::from(counts[id])) as f32;
            }
        }
    }
    centers
}

/// Returns the centre nearest to `row`, the first one in a tie.
pub fn nearest(row: &[f32], centers: &[f32]) -> usize {
    let distance = |center: &[f32]| {
        let squares = row.iter().zip(center).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>()
    };
    let all = centers.chunks_exact(row.len()).map(distance).enumerate();
    let best = all.fold((0, f32::INFINITY), |best, found| {
        if found.1 < best.1 { found } else { best }
    });
    best.0
}

/// SplitMix64 (Steele et al., 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_two_clusters_gets_a_centre() {
        let rows: Vec<f32> = (0..40)
            .flat_map(|at| [(at % 2) as f32 * 10.0, (at % 4) as f32 * 0.1])
            .collect();
        let found = (0..8).map(|seed| centers(&rows, 2, 2, 5, seed));
        // For some seeds, both initial rows are from the same cluster.
        let apart = found.filter(|c| (c[0] - c[2]).abs() > 9.9).count();
        assert!(apart >= 4, "{apart} of 8");
        assert_eq!(nearest(&[9.0, 0.0], &[0.0, 0.0, 10.0, 0.0]), 1);
        assert_eq!(nearest(&[5.0], &[4.0, 6.0]), 0, "the first one in a tie");
    }
}
