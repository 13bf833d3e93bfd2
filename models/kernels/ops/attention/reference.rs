//! The definition in f64, one number at a time.

/// Returns the output and the gradient of `qkv`. `sizes` is `[batch, tokens, heads, size]`.
pub fn attention(qkv: &[f64], grad: &[f64], sizes: [usize; 4]) -> [Vec<f64>; 2] {
    let [batch, tokens, heads, size] = sizes;
    let width = heads * size;
    let (mut out, mut dqkv) = (vec![0.0; batch * tokens * width], vec![0.0; qkv.len()]);
    let scale = 1.0 / (size as f64).sqrt();
    for (image, head, i) in (0..batch * heads * tokens)
        .map(|at| (at / heads / tokens, at / tokens % heads, at % tokens))
    {
        let at = |token: usize, part: usize, d: usize| {
            (image * tokens + token) * 3 * width + part * width + head * size + d
        };
        let to = |d: usize| (image * tokens + i) * width + head * size + d;
        let score = |j| {
            scale
                * (0..size)
                    .map(|d| qkv[at(i, 0, d)] * qkv[at(j, 1, d)])
                    .sum::<f64>()
        };
        let exps: Vec<f64> = (0..tokens).map(|j| score(j).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let slope = |j| {
            (0..size)
                .map(|d| grad[to(d)] * qkv[at(j, 2, d)])
                .sum::<f64>()
        };
        let mean: f64 = (0..tokens).map(|j| exps[j] / sum * slope(j)).sum();
        for (j, exp) in exps.iter().enumerate() {
            let weight = exp / sum;
            let ds = weight * (slope(j) - mean) * scale;
            for d in 0..size {
                out[to(d)] += weight * qkv[at(j, 2, d)];
                dqkv[at(j, 2, d)] += weight * grad[to(d)];
                dqkv[at(i, 0, d)] += ds * qkv[at(j, 1, d)];
                dqkv[at(j, 1, d)] += ds * qkv[at(i, 0, d)];
            }
        }
    }
    [out, dqkv]
}
