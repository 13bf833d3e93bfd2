//! Pillow's colour operations (`ImageOps`, `ImageEnhance`): 8-bit input and output.

/// One lookup table per channel.
type Tables = [[u8; 256]; 3];

/// `ImageOps.autocontrast`: maps the darkest value of each channel to 0 and the brightest to 255.
pub fn auto_contrast(rgb: &mut [u8]) {
    let counts = histogram(rgb);
    let tables = counts.map(|counts| {
        let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|n| *n > 0).unwrap_or(0);
        if high <= low {
            return identity();
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|i| (i as f64 * scale + offset).clamp(0.0, 255.0) as u8)
    });
    apply(rgb, &tables);
}

/// `ImageOps.equalize`: flattens the histogram of each channel.
pub fn equalize(rgb: &mut [u8]) {
    let tables = histogram(rgb).map(|counts| {
        let last = counts.iter().rev().find(|n| **n > 0).copied().unwrap_or(0);
        let used = counts.iter().filter(|n| **n > 0).count();
        let step = (counts.iter().sum::<usize>() - last) / 255;
        if used <= 1 || step == 0 {
            return identity();
        }
        let mut n = step / 2;
        counts.map(|count| {
            let value = (n / step).min(255) as u8;
            n += count;
            value
        })
    });
    apply(rgb, &tables);
}

/// `ImageOps.invert`.
pub fn invert(rgb: &mut [u8]) {
    rgb.iter_mut().for_each(|v| *v = 255 - *v);
}

/// `ImageOps.posterize`: preserves the `bits` highest bits.
pub fn posterize(rgb: &mut [u8], bits: u32) {
    let mask = if bits >= 8 { 255 } else { !(255 >> bits) };
    rgb.iter_mut().for_each(|v| *v &= mask);
}

/// `ImageOps.solarize`: inverts values of at least `threshold`.
pub fn solarize(rgb: &mut [u8], threshold: u32) {
    let change = |v: u8| if u32::from(v) < threshold { v } else { 255 - v };
    rgb.iter_mut().for_each(|v| *v = change(*v));
}

/// timm's `solarize_add`: adds `add` to values below 128.
pub fn solarize_add(rgb: &mut [u8], add: u32) {
    let change = |v: u8| match v {
        0..128 => (u32::from(v) + add).min(255) as u8,
        _ => v,
    };
    rgb.iter_mut().for_each(|v| *v = change(*v));
}

/// `ImageEnhance.Color`: factor 0 is grey, 1 the image.
pub fn color(rgb: &mut [u8], factor: f64) {
    for pixel in rgb.as_chunks_mut::<3>().0 {
        let grey = luma(pixel);
        *pixel = pixel.map(|v| blend(grey, v, factor));
    }
}

/// `ImageEnhance.Contrast`: factor 0 is the mean grey, 1 the image.
pub fn contrast(rgb: &mut [u8], factor: f64) {
    let pixels = rgb.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
    rgb.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
}

/// `ImageEnhance.Brightness`: factor 0 is black, 1 the image.
pub fn brightness(rgb: &mut [u8], factor: f64) {
    rgb.iter_mut().for_each(|v| *v = blend(0, *v, factor));
}

/// `ImageEnhance.Sharpness`: factor 0 is smoothed (`ImageFilter.SMOOTH`), 1 the image.
pub fn sharpness(rgb: &mut [u8], side: usize, factor: f64) {
    let smooth = smoothed(rgb, side);
    for (v, smooth) in rgb.iter_mut().zip(smooth) {
        *v = blend(smooth, *v, factor);
    }
}

/// Applies a 3x3 mean with weight 5 in the middle. The border is unchanged.
fn smoothed(rgb: &[u8], side: usize) -> Vec<u8> {
    let mut out = rgb.to_vec();
    let at = |row: usize, col: usize, c: usize| u32::from(rgb[(row * side + col) * 3 + c]);
    for row in 1..side.saturating_sub(1) {
        for col in 1..side - 1 {
            for c in 0..3 {
                let rows = row - 1..=row + 1;
                let all: u32 = rows
                    .flat_map(|r| (col - 1..=col + 1).map(move |x| at(r, x, c)))
                    .sum();
                let sum = all + 4 * at(row, col, c);
                out[(row * side + col) * 3 + c] = ((2 * sum + 13) / 26) as u8;
            }
        }
    }
    out
}

/// Returns the ITU-R 601-2 luma in 16-bit fixed point (`convert("L")`).
fn luma(&[r, g, b]: &[u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// `Image.blend`: `from + factor * (to - from)` in f32, truncated.
fn blend(from: u8, to: u8, factor: f64) -> u8 {
    let difference = f32::from(to) - f32::from(from);
    (f32::from(from) + factor as f32 * difference).clamp(0.0, 255.0) as u8
}

fn histogram(rgb: &[u8]) -> [[usize; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in rgb.as_chunks::<3>().0 {
        for c in 0..3 {
            counts[c][usize::from(pixel[c])] += 1;
        }
    }
    counts
}

fn identity() -> [u8; 256] {
    std::array::from_fn(|i| i as u8)
}

fn apply(rgb: &mut [u8], tables: &Tables) {
    for pixel in rgb.as_chunks_mut::<3>().0 {
        *pixel = std::array::from_fn(|c| tables[c][usize::from(pixel[c])]);
    }
}
