//! The definition: number `(c, p, q)` of patch `(row, col)` is pixel `(row * P + p, col * P + q)` of channel c.

/// Returns `[batch, num_patches, (c, p, q)]`.
pub fn patchify(images: &[f32], batch: usize, side: usize, patch: usize) -> Vec<f32> {
    let grid = side / patch;
    let mut out = Vec::new();
    for b in 0..batch {
        for (row, col) in (0..grid * grid).map(|n| (n / grid, n % grid)) {
            for (c, p, q) in
                (0..3 * patch * patch).map(|i| (i / patch / patch, i / patch % patch, i % patch))
            {
                let (y, x) = (row * patch + p, col * patch + q);
                out.push(images[((b * 3 + c) * side + y) * side + x]);
            }
        }
    }
    out
}
