//! The definition in f64.

/// Returns the mean loss and the gradient of the scores.
pub fn cross_entropy(scores: &[f64], ids: &[u32], smoothing: f64) -> (f64, Vec<f64>) {
    let (rows, classes) = (ids.len(), scores.len() / ids.len());
    let (mut loss, mut grad) = (0.0, Vec::with_capacity(scores.len()));
    for (row, id) in scores.chunks(classes).zip(ids) {
        let total: f64 = row.iter().map(|s| s.exp()).sum();
        for (class, score) in row.iter().enumerate() {
            let hit = f64::from(u8::from(class == *id as usize));
            let q = hit * (1.0 - smoothing) + smoothing / classes as f64;
            loss -= q * (score - total.ln()) / rows as f64;
            grad.push((score.exp() / total - q) / rows as f64);
        }
    }
    (loss, grad)
}
