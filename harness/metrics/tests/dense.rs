//! Every metric by definition, over a dense table and dense softmax rows, as a reference for the sums over sparse rows.

use crate::metrics::Values;

/// Returns the metrics of `table` (`[rows, classes]`), with the temperature `sharp_t` of `tcas_sharp`.
pub fn values(table: &[f64], classes: usize, sharp_t: f64) -> Values {
    let rows: Vec<&[f64]> = table
        .chunks_exact(classes)
        .filter(|row| row.iter().any(|v| *v > 0.0))
        .collect();
    let n: f64 = rows.iter().copied().flatten().sum();
    if n <= 0.0 {
        return Values::default();
    }
    let sums: Vec<f64> = rows.iter().map(|row| row.iter().sum()).collect();
    let p: Vec<f64> = rows
        .iter()
        .zip(&sums)
        .flat_map(|(row, sum)| row.iter().map(move |v| v / sum))
        .collect();
    let weights: Vec<f64> = sums.iter().map(|s| s / n).collect();
    let class_sums: Vec<f64> = (0..classes)
        .map(|j| rows.iter().map(|row| row[j]).sum())
        .collect();
    let token_entropy = entropy(&sums, n);
    let class_entropy = entropy(&class_sums, n);
    let mi = mutual_information(&rows, &sums, &class_sums, n);
    let has_classes = class_entropy > 0.0;
    let pairs =
        |rows: &[f64], temperature| tcas(&softmax_rows(rows, classes, temperature), classes).0;
    let (tcas, tcas_norm) = tcas(&p, classes);
    let same_class = p.chunks_exact(classes).zip(&weights);
    let alpha = 1.0 - same_class.map(|(row, w)| w * dot(row, row)).sum::<f64>();
    let eig_sq_sum = eig_sq_sum(&p, &weights, classes);
    Values {
        tcas,
        tcas_norm,
        tcas_softmax: pairs(&p, 1.0),
        tcas_sharp: pairs(&p, sharp_t),
        codebook_used: rows.len() as f64,
        perplexity: token_entropy.exp(),
        mi,
        pnmi: has_classes.then(|| mi / class_entropy),
        nmi: has_classes.then(|| 2.0 * mi / (token_entropy + class_entropy)),
        token_purity: rows.iter().map(|row| max(row.iter().copied())).sum::<f64>() / n,
        class_purity: (0..classes)
            .map(|j| max(rows.iter().map(|row| row[j])))
            .sum::<f64>()
            / n,
        alpha,
        eig_sq_sum,
        bound: eig_sq_sum + 2.5 * alpha,
    }
}

fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn entropy(counts: &[f64], n: f64) -> f64 {
    -counts
        .iter()
        .filter(|c| **c > 0.0)
        .map(|c| c / n * (c / n).ln())
        .sum::<f64>()
}

fn mutual_information(rows: &[&[f64]], sums: &[f64], class_sums: &[f64], n: f64) -> f64 {
    let terms = rows.iter().zip(sums).flat_map(|(row, sum)| {
        let cells = row.iter().zip(class_sums).filter(|(v, _)| **v > 0.0);
        cells.map(move |(v, class)| v / n * (v * n / (sum * class)).ln())
    });
    terms.sum::<f64>().max(0.0)
}

/// Computes equation 8 for the rows `p`, with both forms of the diagonal: `(1 - C_ii)^2` and `(1 - |P_i|)^2`.
///
/// The sum over pairs needs no matrix over tokens: `sum C_ii'^2 = |P^T P|_F^2`, classes by classes.
fn tcas(p: &[f64], classes: usize) -> (f64, f64) {
    let l1 = (p.len() / classes) as f64;
    let mut gram = vec![0.0; classes * classes];
    let (mut diagonal, mut by_norm, mut own_pairs) = (0.0, 0.0, 0.0);
    for row in p.chunks_exact(classes) {
        let c = dot(row, row);
        diagonal += (1.0 - c).powi(2);
        by_norm += (1.0 - c.sqrt()).powi(2);
        own_pairs += c * c;
        for (a, line) in row
            .iter()
            .zip(gram.chunks_exact_mut(classes))
            .filter(|(a, _)| **a != 0.0)
        {
            line.iter_mut().zip(row).for_each(|(g, b)| *g += a * b);
        }
    }
    let pairs = (dot(&gram, &gram) - own_pairs).max(0.0) / (l1 * l1);
    (diagonal / l1 + pairs, by_norm / l1 + pairs)
}

fn softmax_rows(p: &[f64], classes: usize, temperature: f64) -> Vec<f64> {
    let mut out = p.to_vec();
    for row in out.chunks_exact_mut(classes) {
        let top = max(row.iter().copied());
        row.iter_mut()
            .for_each(|v| *v = ((*v - top) / temperature).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= sum);
    }
    out
}

/// Returns the squared Frobenius norm of `D^-1/2 W D^-1/2` with `W = sum_i p(i) P_i P_i^T`.
fn eig_sq_sum(p: &[f64], weights: &[f64], classes: usize) -> f64 {
    let mut w = vec![0.0; classes * classes];
    for (row, weight) in p.chunks_exact(classes).zip(weights) {
        for (a, line) in row
            .iter()
            .zip(w.chunks_exact_mut(classes))
            .filter(|(a, _)| **a != 0.0)
        {
            line.iter_mut()
                .zip(row)
                .for_each(|(w, b)| *w += weight * a * b);
        }
    }
    let degrees: Vec<f64> = w
        .chunks_exact(classes)
        .map(|line| line.iter().sum())
        .collect();
    let mut sum = 0.0;
    for (line, di) in w.chunks_exact(classes).zip(&degrees) {
        for (w, dj) in line.iter().zip(&degrees).filter(|(w, _)| **w > 0.0) {
            sum += w * w / (di * dj);
        }
    }
    sum
}
