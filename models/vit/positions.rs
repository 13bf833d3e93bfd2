//! Position embeddings: MAE's fixed ones, and resampling to another grid.

/// MAE's `util/pos_embed.py::get_2d_sincos_pos_embed` with a zero vector for the class token: the first half of a vector contains sine and
/// cosine of the column, the second half those of the row.
pub fn sincos(grid: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let line = |position: usize| {
        let omega = |i: usize| 1.0 / 10000_f64.powf(i as f64 / quarter as f64);
        let angles: Vec<f64> = (0..quarter).map(|i| position as f64 * omega(i)).collect();
        let sines = angles.iter().map(|a| a.sin() as f32);
        sines
            .chain(angles.iter().map(|a| a.cos() as f32))
            .collect::<Vec<f32>>()
    };
    let mut out = vec![0.0; width];
    for row in 0..grid {
        for col in 0..grid {
            out.extend(line(col));
            out.extend(line(row));
        }
    }
    out
}

/// timm's `resample_abs_pos_embed`: copies the class token's vector and interpolates the others (bicubic, antialiased).
///
/// # Shapes
/// `[1 + from * from, width]` to `[1 + to * to, width]`, row-major.
pub fn resample(table: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    let (class, patches) = table.split_at(width);
    let weights = weights(from, to);
    let mut out = class.to_vec();
    for row in &weights {
        for col in &weights {
            let mut mixed = vec![0.0_f64; width];
            for (y, wy) in row.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                for (x, wx) in col.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    let at = (y * from + x) * width;
                    let vector = &patches[at..at + width];
                    let add = |(m, v): (&mut f64, &f32)| *m += wy * wx * f64::from(*v);
                    mixed.iter_mut().zip(vector).for_each(add);
                }
            }
            out.extend(mixed.into_iter().map(|v| v as f32));
        }
    }
    out
}

/// Returns the weights of the `from` positions for each of the `to` positions; downsampling widens the kernel.
fn weights(from: usize, to: usize) -> Vec<Vec<f64>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let line = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        let weight = |x: usize| bicubic((x as f64 + 0.5 - center) / stretch);
        let line: Vec<f64> = (0..from).map(weight).collect();
        let total: f64 = line.iter().sum();
        line.into_iter().map(|w| w / total).collect()
    };
    (0..to).map(line).collect()
}

/// Keys' cubic kernel with a = -0.5, which PyTorch uses with antialiasing.
fn bicubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}
