//! L2-regularised logistic regression in f64, as scikit-learn defines it: `1/2 |W|^2 + C sum(cross-entropy)` on standardised features, the
//! bias free. Nesterov's method with a bound of the Hessian, restarted when it overshoots.

/// Features of all images, standardised by the train images, and their labels.
pub struct Problem {
    /// `[images, width]`; the last column is 1.
    x: Vec<f64>,
    labels: Vec<usize>,
    train: Vec<usize>,
    width: usize,
    classes: usize,
}

impl Problem {
    pub fn new(
        features: &[f32],
        labels: &[u32],
        dim: usize,
        classes: usize,
        train: &[usize],
    ) -> Self {
        let width = dim + 1;
        let count = train.len() as f64;
        let value = |image: usize, d: usize| f64::from(features[image * dim + d]);
        let mut x = vec![1.0; labels.len() * width];
        for d in 0..dim {
            let mean = train.iter().map(|i| value(*i, d)).sum::<f64>() / count;
            let variance = train
                .iter()
                .map(|i| (value(*i, d) - mean).powi(2))
                .sum::<f64>()
                / count;
            for image in 0..labels.len() {
                x[image * width + d] = (value(image, d) - mean) / variance.sqrt();
            }
        }
        Self {
            x,
            labels: labels.iter().map(|label| *label as usize).collect(),
            train: train.to_vec(),
            width,
            classes,
        }
    }

    /// Weights and biases, `[classes, width]`.
    pub fn zeros(&self) -> Vec<f64> {
        vec![0.0; self.classes * self.width]
    }

    fn image(&self, image: usize) -> &[f64] {
        &self.x[image * self.width..(image + 1) * self.width]
    }

    fn scores(&self, w: &[f64], image: usize) -> Vec<f64> {
        let x = self.image(image);
        w.chunks_exact(self.width)
            .map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    }

    /// Returns the probabilities of the classes and the cross-entropy.
    fn softmax(&self, w: &[f64], image: usize) -> (Vec<f64>, f64) {
        let scores = self.scores(w, image);
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let loss = total.ln() + top - scores[self.labels[image]];
        (
            scores.iter().map(|s| (s - top).exp() / total).collect(),
            loss,
        )
    }

    /// Mean cross-entropy of the train images.
    pub fn loss(&self, w: &[f64]) -> f64 {
        let losses = self.train.iter().map(|image| self.softmax(w, *image).1);
        losses.sum::<f64>() / self.train.len() as f64
    }

    /// Percentage of `images` whose class has the highest score.
    pub fn accuracy(&self, w: &[f64], images: &[usize]) -> f64 {
        let is_right = |image: &&usize| {
            let scores = self.scores(w, **image);
            (0..self.classes).max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
                == Some(self.labels[**image])
        };
        100.0 * images.iter().filter(is_right).count() as f64 / images.len() as f64
    }

    /// Returns the gradient of the mean cross-entropy plus `decay / 2 |W|^2`.
    fn gradient(&self, w: &[f64], decay: f64) -> Vec<f64> {
        let mut gradient = self.zeros();
        for image in &self.train {
            let (mut p, _) = self.softmax(w, *image);
            p[self.labels[*image]] -= 1.0;
            for (p, row) in p.iter().zip(gradient.chunks_exact_mut(self.width)) {
                let scale = p / self.train.len() as f64;
                row.iter_mut()
                    .zip(self.image(*image))
                    .for_each(|(g, x)| *g += scale * x);
            }
        }
        let penalised = |at: &usize| at % self.width != self.width - 1;
        (0..w.len())
            .filter(penalised)
            .for_each(|at| gradient[at] += decay * w[at]);
        gradient
    }

    /// Minimises from `w`.
    pub fn minimise(&self, w: &mut Vec<f64>, c: f64) {
        let decay = 1.0 / (c * self.train.len() as f64);
        let inverse = inverse(self.bound(decay), self.width);
        let (mut ahead, mut momentum) = (w.clone(), 1.0_f64);
        for _ in 0..3000 {
            let gradient = self.gradient(&ahead, decay);
            let mut next = ahead.clone();
            let mut fall = 0.0;
            for (next, g) in next
                .chunks_exact_mut(self.width)
                .zip(gradient.chunks_exact(self.width))
            {
                for (value, line) in next.iter_mut().zip(inverse.chunks_exact(self.width)) {
                    *value -= line.iter().zip(g).map(|(a, b)| a * b).sum::<f64>();
                }
                for (line, g_row) in inverse.chunks_exact(self.width).zip(g) {
                    fall += g_row * line.iter().zip(g).map(|(a, b)| a * b).sum::<f64>();
                }
            }
            let uphill: f64 = (0..w.len())
                .map(|at| gradient[at] * (next[at] - w[at]))
                .sum();
            let grown = if uphill > 0.0 {
                1.0
            } else {
                (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt()) / 2.0
            };
            let part = if uphill > 0.0 {
                0.0
            } else {
                (momentum - 1.0) / grown
            };
            ahead = (0..w.len())
                .map(|at| next[at] + part * (next[at] - w[at]))
                .collect();
            (*w, momentum) = (next, grown);
            if fall < 1e-9 {
                return;
            }
        }
        panic!("no convergence at C = {c}");
    }

    /// Returns an upper bound of the Hessian, the same for every class (Böhning 1992).
    fn bound(&self, decay: f64) -> Vec<f64> {
        let width = self.width;
        let mut bound = vec![0.0; width * width];
        for image in &self.train {
            let x = self.image(*image);
            for (row, a) in bound.chunks_exact_mut(width).zip(x) {
                let scale = 0.5 * a / self.train.len() as f64;
                row.iter_mut().zip(x).for_each(|(sum, b)| *sum += scale * b);
            }
        }
        (0..width - 1).for_each(|d| bound[d * width + d] += decay);
        bound
    }
}

/// Inverts a positive definite matrix by Gauss and Jordan.
fn inverse(mut a: Vec<f64>, width: usize) -> Vec<f64> {
    let mut out = vec![0.0; width * width];
    (0..width).for_each(|d| out[d * width + d] = 1.0);
    for pivot in 0..width {
        let scale = 1.0 / a[pivot * width + pivot];
        for at in 0..width {
            a[pivot * width + at] *= scale;
            out[pivot * width + at] *= scale;
        }
        for row in (0..width).filter(|row| *row != pivot) {
            let factor = a[row * width + pivot];
            for at in 0..width {
                a[row * width + at] -= factor * a[pivot * width + at];
                out[row * width + at] -= factor * out[pivot * width + at];
            }
        }
    }
    out
}
