//! The augmentation graph, summed over regions.

use super::space::{Partition, Region, Space};

/// `c_2 / c_1` of equation 3, `c_3` in appendix B.
pub const C3: f64 = 2.5;

/// Edge weights, eigenvalues, labelling error and bound of a tokenization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Mean over classes of the edge weight of two points that belong to this class only.
    pub intra: f64,
    /// Mean over ordered pairs of classes of the edge weight of two points that belong to one of them each and to no other.
    pub inter: f64,
    /// Sum of squared eigenvalues of the normalised adjacency matrix, its squared Frobenius norm.
    pub eig_sq_sum: f64,
    /// Probability that a positive pair has no class in common (equation 18).
    pub alpha: f64,
}

impl Found {
    /// Returns the bound of equation 3 for `c_1 = 1` and `c_2 = C3`.
    pub fn bound(&self) -> f64 {
        self.eig_sq_sum + C3 * self.alpha
    }
}

/// Computes a tokenization exactly. The edge weight of two points is `sum_i M(x, S_i) M(x+, S_i) / M(S_i)` over the tokens `S_i` (section
/// 2.1), with `M(x, x') = |classes of both| / (s n^2)`.
pub fn exact(space: &Space, partition: &Partition) -> Found {
    let regions = space.regions();
    let mut edges = vec![0.0; regions.len() * regions.len()];
    let (classes, points) = (space.classes as f64, space.points as f64);
    for token in &partition.tokens {
        let mut to_token = vec![0.0; regions.len()];
        let mut weight = 0.0;
        for (member, count) in regions.iter().zip(&token.members) {
            if *count == 0 {
                continue;
            }
            let count = *count as f64;
            weight += count * member.degree() / (classes * points);
            for (sum, region) in to_token.iter_mut().zip(&regions) {
                *sum += count * region.common(member) / (classes * points * points);
            }
        }
        let scale = token.copies as f64 / weight;
        for (line, a) in edges.chunks_exact_mut(regions.len()).zip(&to_token) {
            if *a != 0.0 {
                let cells = line.iter_mut().zip(&to_token);
                cells.for_each(|(edge, b)| *edge += scale * a * b);
            }
        }
    }
    summed(space, &regions, &edges)
}

/// Sums the edges `[regions, regions]` over all pairs of points.
fn summed(space: &Space, regions: &[Region], edges: &[f64]) -> Found {
    let classes = space.classes;
    let marginal = |region: &Region| region.degree() / (classes as f64 * space.points as f64);
    let (mut eig_sq_sum, mut alpha) = (0.0, 0.0);
    for (a, line) in regions.iter().zip(edges.chunks_exact(regions.len())) {
        for (b, edge) in regions.iter().zip(line) {
            let pairs = a.size as f64 * b.size as f64;
            eig_sq_sum += pairs * edge * edge / (marginal(a) * marginal(b));
            if a.common(b) == 0.0 {
                alpha += pairs * edge;
            }
        }
    }
    let own = |a: usize, b: usize| edges[a * regions.len() + b];
    let all: f64 = (0..classes)
        .flat_map(|a| (0..classes).map(move |b| own(a, b)))
        .sum();
    let intra: f64 = (0..classes).map(|a| own(a, a)).sum();
    let classes = classes as f64;
    Found {
        intra: intra / classes,
        inter: (all - intra) / (classes * (classes - 1.0)),
        eig_sq_sum,
        alpha,
    }
}
