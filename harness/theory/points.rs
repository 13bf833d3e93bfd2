//! The augmentation graph from its definition, over every pair of points.

use super::graph::Found;
use super::space::{Partition, Space};

/// Maximum number of points.
pub const MOST_POINTS: u64 = 400;

/// A point: the classes that it belongs to, and its token.
struct Point {
    classes: Vec<usize>,
    token: usize,
}

/// Computes a tokenization over all pairs of points; `None` for more than [`MOST_POINTS`].
pub fn by_points(space: &Space, partition: &Partition) -> Option<Found> {
    if space.size() > MOST_POINTS {
        return None;
    }
    let (points, tokens) = points(space, partition);
    // M(x, S), the joint probability of an unmasked point and a token.
    let mut joint = vec![0.0; points.len() * tokens];
    let datum = 1.0 / (space.classes as f64 * (space.points as f64).powi(2));
    for (x, line) in points.iter().zip(joint.chunks_exact_mut(tokens)) {
        for masked in &points {
            let both = x
                .classes
                .iter()
                .filter(|class| masked.classes.contains(class));
            line[masked.token] += datum * both.count() as f64;
        }
    }
    let lines: Vec<&[f64]> = joint.chunks_exact(tokens).collect();
    let marginal: Vec<f64> = lines.iter().map(|line| line.iter().sum()).collect();
    let token: Vec<f64> = (0..tokens)
        .map(|at| lines.iter().map(|line| line[at]).sum())
        .collect();
    let mut sums = Sums::default();
    for (a, x) in points.iter().enumerate() {
        for (b, y) in points.iter().enumerate() {
            let terms = lines[a].iter().zip(lines[b]).zip(&token);
            let edge: f64 = terms.map(|((p, q), all)| p * q / all).sum();
            sums.add(x, y, edge, edge / (marginal[a] * marginal[b]).sqrt());
        }
    }
    Some(sums.found())
}

/// Returns all points, and the number of tokens.
fn points(space: &Space, partition: &Partition) -> (Vec<Point>, usize) {
    let (regions, mut points, mut count) = (space.regions(), Vec::new(), 0);
    for token in &partition.tokens {
        for _ in 0..token.copies {
            for (region, members) in regions.iter().zip(&token.members) {
                let classes = (0..space.classes).filter(|class| region.is_in(*class));
                let classes: Vec<usize> = classes.collect();
                points.extend((0..*members).map(|_| Point {
                    classes: classes.clone(),
                    token: count,
                }));
            }
            count += 1;
        }
    }
    (points, count)
}

/// Sums over pairs of points.
#[derive(Default)]
struct Sums {
    /// Sum and number of the edges within a class, and between two.
    intra: [f64; 2],
    inter: [f64; 2],
    eig_sq_sum: f64,
    alpha: f64,
}

impl Sums {
    fn add(&mut self, x: &Point, y: &Point, edge: f64, normalised: f64) {
        self.eig_sq_sum += normalised * normalised;
        if !x.classes.iter().any(|class| y.classes.contains(class)) {
            self.alpha += edge;
        }
        if let ([a], [b]) = (&x.classes[..], &y.classes[..]) {
            let [sum, count] = if a == b {
                &mut self.intra
            } else {
                &mut self.inter
            };
            *sum += edge;
            *count += 1.0;
        }
    }

    fn found(self) -> Found {
        let mean = |[sum, count]: [f64; 2]| sum / count;
        Found {
            intra: mean(self.intra),
            inter: mean(self.inter),
            eig_sq_sum: self.eig_sq_sum,
            alpha: self.alpha,
        }
    }
}
