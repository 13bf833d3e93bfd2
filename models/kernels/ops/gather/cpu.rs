//! Copies whole rows.

/// Returns rows `index` of `x`.
pub fn gather(x: &[f32], index: &[u32], dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(index.len() * dim);
    for row in index {
        out.extend_from_slice(&x[*row as usize * dim..][..dim]);
    }
    out
}

/// Returns `rows` rows of zeros in which row `index[i]` is row `i` of `grad`.
pub fn scatter(grad: &[f32], index: &[u32], rows: usize, dim: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * dim];
    for (row, grad) in index.iter().zip(grad.chunks_exact(dim)) {
        out[*row as usize * dim..][..dim].copy_from_slice(grad);
    }
    out
}

/// Returns each image's class token and, for each patch, row `1 + place` of its tokens or the mask token.
pub fn restore(x: &[f32], mask: &[f32], restore: &[u32], batch: usize, tokens: usize) -> Vec<f32> {
    let dim = mask.len();
    let patches = restore.len() / batch;
    let mut out = Vec::with_capacity(batch * (1 + patches) * dim);
    for (image, places) in x
        .chunks_exact(tokens * dim)
        .zip(restore.chunks_exact(patches))
    {
        out.extend_from_slice(&image[..dim]);
        for place in places {
            let row = image
                .get((1 + *place as usize) * dim..)
                .filter(|rest| !rest.is_empty());
            out.extend_from_slice(row.map_or(mask, |rest| &rest[..dim]));
        }
    }
    out
}

/// Returns the gradients of the tokens and the mask token.
pub fn restore_backward(
    grad: &[f32],
    restore: &[u32],
    batch: usize,
    tokens: usize,
    dim: usize,
) -> (Vec<f32>, Vec<f32>) {
    let patches = restore.len() / batch;
    let mut dx = vec![0.0; batch * tokens * dim];
    let mut dmask = vec![0.0; dim];
    let images = grad
        .chunks_exact((1 + patches) * dim)
        .zip(restore.chunks_exact(patches));
    for ((grad, places), dx) in images.zip(dx.chunks_exact_mut(tokens * dim)) {
        dx[..dim].copy_from_slice(&grad[..dim]);
        for (place, grad) in places.iter().zip(grad[dim..].chunks_exact(dim)) {
            match dx
                .get_mut((1 + *place as usize) * dim..)
                .filter(|rest| !rest.is_empty())
            {
                Some(rest) => rest[..dim].copy_from_slice(grad),
                None => dmask.iter_mut().zip(grad).for_each(|(m, g)| *m += g),
            }
        }
    }
    (dx, dmask)
}
