//! Pillow's affine transforms (`Image.transform(size, AFFINE, matrix, BICUBIC, fillcolor=...)`; `libImaging/Geometry.c`).

/// Colour outside the image: ImageNet's mean, as in timm.
const FILL: [u8; 3] = [124, 116, 104];

/// `Image.rotate`: rotates counter-clockwise about the centre.
pub fn rotate(rgb: &[u8], side: usize, degrees: f64) -> Vec<u8> {
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return rgb.to_vec();
    }
    let round = |v: f64| (v * 1e15).round() / 1e15;
    let angle = -degrees.to_radians();
    let (sin, cos) = (round(angle.sin()), round(angle.cos()));
    let centre = side as f64 / 2.0;
    let x = cos * -centre + sin * -centre + centre;
    let y = -sin * -centre + cos * -centre + centre;
    affine(rgb, side, [cos, sin, x, -sin, cos, y])
}

/// timm's `shear_x`: shifts row y by `factor * y`.
pub fn shear_x(rgb: &[u8], side: usize, factor: f64) -> Vec<u8> {
    affine(rgb, side, [1.0, factor, 0.0, 0.0, 1.0, 0.0])
}

/// timm's `shear_y`: shifts column x by `factor * x`.
pub fn shear_y(rgb: &[u8], side: usize, factor: f64) -> Vec<u8> {
    affine(rgb, side, [1.0, 0.0, 0.0, factor, 1.0, 0.0])
}

/// timm's `translate_x_rel`: shifts by a fraction of the width.
pub fn translate_x(rgb: &[u8], side: usize, part: f64) -> Vec<u8> {
    affine(rgb, side, [1.0, 0.0, part * side as f64, 0.0, 1.0, 0.0])
}

/// timm's `translate_y_rel`: shifts by a fraction of the height.
pub fn translate_y(rgb: &[u8], side: usize, part: f64) -> Vec<u8> {
    affine(rgb, side, [1.0, 0.0, 0.0, 0.0, 1.0, part * side as f64])
}

/// Transforms the image: output pixel (x, y) is the input at `[a b c; d e f] (x + 1/2, y + 1/2, 1)`.
fn affine(rgb: &[u8], side: usize, [a, b, c, d, e, f]: [f64; 6]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len());
    for row in 0..side {
        for col in 0..side {
            let (x, y) = (col as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            out.extend(bicubic(rgb, side, x, y).unwrap_or(FILL));
        }
    }
    out
}

/// Interpolates the image at a point; `None` outside.
fn bicubic(rgb: &[u8], side: usize, x: f64, y: f64) -> Option<[u8; 3]> {
    let end = side as f64;
    if !(0.0..end).contains(&x) || !(0.0..end).contains(&y) {
        return None;
    }
    let (x, y) = (x - 0.5, y - 0.5);
    let (dx, dy) = (x - x.floor(), y - y.floor());
    let (left, top) = (x.floor() as isize - 1, y.floor() as isize - 1);
    let inside = |at: isize| at.clamp(0, side as isize - 1) as usize;
    let pixel = |c: usize| {
        let along = |row: usize| {
            let at = |i: isize| f64::from(rgb[(row * side + inside(left + i)) * 3 + c]);
            cubic([at(0), at(1), at(2), at(3)], dx)
        };
        let value = cubic([0, 1, 2, 3].map(|i| along(inside(top + i))), dy);
        value.clamp(0.0, 255.0) as u8
    };
    Some([pixel(0), pixel(1), pixel(2)])
}

/// Interpolates with the cubic of slope `v[2] - v[0]` (a = -1), which Pillow uses in transforms but not in resizing.
fn cubic(v: [f64; 4], d: f64) -> f64 {
    let p2 = -v[0] + v[2];
    let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
    let p4 = -v[0] + v[1] - v[2] + v[3];
    v[1] + d * (p2 + d * (p3 + d * p4))
}
