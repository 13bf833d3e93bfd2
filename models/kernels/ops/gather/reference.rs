//! The definitions, row by row.

/// Returns rows `index` of `x`.
pub fn gather(x: &[f32], index: &[u32], dim: usize) -> Vec<f32> {
    let number = |at: usize| x[index[at / dim] as usize * dim + at % dim];
    (0..index.len() * dim).map(number).collect()
}

/// Returns the decoder's tokens: each image's class token, then for each patch row `1 + place` or the mask token.
pub fn restore(x: &[f32], mask: &[f32], places: &[u32], batch: usize, tokens: usize) -> Vec<f32> {
    let (dim, patches) = (mask.len(), places.len() / batch);
    let mut out = Vec::new();
    for image in 0..batch {
        for token in 0..=patches {
            let row = match token {
                0 => Some(0),
                token => {
                    let place = places[image * patches + token - 1] as usize;
                    (place + 1 < tokens).then_some(place + 1)
                }
            };
            for d in 0..dim {
                out.push(row.map_or(mask[d], |row| x[(image * tokens + row) * dim + d]));
            }
        }
    }
    out
}
