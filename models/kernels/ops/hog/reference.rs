//! The definition, pixel by pixel, with bins by angle.

/// Returns `[batch, patches, (channel, bin, cell row, cell column)]` for the bytes `images` `[batch, side, side, 3]`.
pub fn hog(images: &[f64], window: &[f64], side: usize, patch: usize) -> Vec<f64> {
    let (cell, grid) = (patch / 2, side / patch);
    let mut out = vec![0.0; images.len() / (side * side) * grid * grid * 36];
    let reflect = |at: usize, d: usize| match (at + d).checked_sub(1) {
        None => 1,
        Some(at) if at == side => side - 2,
        Some(at) => at,
    };
    for plane_at in 0..images.len() / (side * side) {
        let (image, channel) = (plane_at / 3, plane_at % 3);
        let plane = &images[image * side * side * 3..];
        let to = |row: usize, col: usize, bin: usize| {
            let place = (image * grid * grid + row / 2 * grid + col / 2) * 108;
            place + (channel * 9 + bin) * 4 + row % 2 * 2 + col % 2
        };
        for (y, x) in (0..side * side).map(|at| (at / side, at % side)) {
            let at = |dy, dx| plane[(reflect(y, dy) * side + reflect(x, dx)) * 3 + channel];
            let gx = at(0, 0) - at(0, 2) + 2.0 * (at(1, 0) - at(1, 2)) + at(2, 0) - at(2, 2);
            let gy = at(0, 0) - at(2, 0) + 2.0 * (at(0, 1) - at(2, 1)) + at(0, 2) - at(2, 2);
            let angle = gx.atan2(gy) / std::f64::consts::PI * 9.0;
            let bin = (angle.floor() as i32).rem_euclid(9) as usize;
            let weight = window[y % patch * patch + x % patch];
            out[to(y / cell, x / cell, bin)] += (gx * gx + gy * gy).sqrt() * weight;
        }
        for (row, col) in (0..4 * grid * grid).map(|at| (at / (2 * grid), at % (2 * grid))) {
            let squares = |bin| f64::powi(out[to(row, col, bin)], 2);
            let norm = (0..9).map(squares).sum::<f64>().sqrt().max(1e-12);
            (0..9).for_each(|bin| out[to(row, col, bin)] /= norm);
        }
    }
    out
}
