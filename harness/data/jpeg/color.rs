//! Upsampling and colour conversion: rows of components to rows of RGB.

use super::header::Header;
use super::plane::Plane;

/// Pixels per step.
const LANES: usize = 16;
/// Bytes that one step writes: the pixels, and two that the next step overwrites.
const STEP: usize = 3 * LANES + 2;

/// Converts the planes to the RGB image, row by row.
#[inline(always)]
pub fn convert(header: &Header, planes: &[Plane]) -> Vec<u8> {
    let length = header.width * 3;
    let mut rgb = vec![0; header.height * length + STEP];
    let [luma, blue, red] = planes else {
        for (row, out) in rgb.chunks_exact_mut(length).take(header.height).enumerate() {
            let pixels = out.as_chunks_mut::<3>().0.iter_mut();
            pixels
                .zip(planes[0].row(row))
                .for_each(|(o, y)| *o = [*y; 3]);
        }
        rgb.truncate(header.height * length);
        return rgb;
    };
    let (most, least) = (header.components[0].unit(), header.components[1].unit());
    let sampling = (most.0 / least.0, most.1 / least.1);
    let mut chroma = [Row::new(blue.width), Row::new(red.width)];
    for row in 0..header.height {
        let lines = if sampling == (1, 1) {
            [luma.row(row), blue.row(row), red.row(row)]
        } else {
            for (chroma, plane) in chroma.iter_mut().zip([blue, red]) {
                chroma.fill(plane, row, sampling.1 == 2);
            }
            [luma.row(row), &chroma[0].wide, &chroma[1].wide]
        };
        colors(lines, header.width, &mut rgb[row * length..]);
    }
    rgb.truncate(header.height * length);
    rgb
}

/// A row of a component at twice its width, by libjpeg's triangle filter: each sample is 3/4 of the nearer and 1/4 of the
/// farther neighbour, rounded up and down alternately.
struct Row {
    width: usize,
    /// Sums over rows, with the first and last one repeated.
    sums: Vec<u16>,
    wide: Vec<u8>,
}

impl Row {
    fn new(width: usize) -> Self {
        Self {
            width,
            sums: vec![0; width + 2],
            wide: vec![0; 2 * width],
        }
    }

    /// Computes row `row` of the image from a plane with half the columns and, if `tall`, half the rows.
    #[inline(always)]
    fn fill(&mut self, plane: &Plane, row: usize, tall: bool) {
        let sums = &mut self.sums[1..=self.width];
        if tall {
            let (near, last) = (row / 2, plane.height - 1);
            let far = if row.is_multiple_of(2) {
                near.saturating_sub(1)
            } else {
                (near + 1).min(last)
            };
            let both = plane.row(near).iter().zip(plane.row(far));
            for (sum, (near, far)) in sums.iter_mut().zip(both) {
                *sum = 3 * u16::from(*near) + u16::from(*far);
            }
        } else {
            sums.iter_mut()
                .zip(plane.row(row))
                .for_each(|(s, v)| *s = u16::from(*v));
        }
        self.sums[0] = self.sums[1];
        self.sums[self.width + 1] = self.sums[self.width];
        if tall {
            self.widen::<4>(8, 7);
        } else {
            self.widen::<2>(1, 2);
        }
    }

    #[inline(always)]
    fn widen<const SHIFT: u32>(&mut self, even: u16, odd: u16) {
        let (before, at, after) = (&self.sums, &self.sums[1..], &self.sums[2..]);
        let neighbours = before.iter().zip(at).zip(after);
        for (out, ((b, v), a)) in self.wide.as_chunks_mut::<2>().0.iter_mut().zip(neighbours) {
            *out = [
                ((3 * v + b + even) >> SHIFT) as u8,
                ((3 * v + a + odd) >> SHIFT) as u8,
            ];
        }
    }
}

/// Converts JFIF's YCbCr to interleaved RGB. Bytes written beyond the row are overwritten by the next row.
#[inline(always)]
fn colors(lines: [&[u8]; 3], width: usize, rgb: &mut [u8]) {
    let mut parts = [[0; LANES]; 3];
    for at in (0..width).step_by(LANES) {
        for (part, line) in parts.iter_mut().zip(lines) {
            match line[at..].first_chunk() {
                Some(whole) => *part = *whole,
                None => part[..line.len() - at].copy_from_slice(&line[at..]),
            }
        }
        if let Some(out) = rgb[3 * at..].first_chunk_mut() {
            interleaved(&parts, out);
        }
    }
}

#[inline(always)]
fn interleaved([luma, blue, red]: &[[u8; LANES]; 3], out: &mut [u8; STEP]) {
    const HALF: i32 = 1 << 15;
    let mut words = [0_i32; LANES];
    for (word, ((y, b), r)) in words.iter_mut().zip(luma.iter().zip(blue).zip(red)) {
        let (y, b, r) = (i32::from(*y), i32::from(*b) - 128, i32::from(*r) - 128);
        // 1.402, 0.34414 and 0.71414, 1.772, times 65536.
        let red = y + ((91_881 * r + HALF) >> 16);
        let green = y + ((HALF - 22_554 * b - 46_802 * r) >> 16);
        let blue = y + ((116_130 * b + HALF) >> 16);
        *word = red.clamp(0, 255) | green.clamp(0, 255) << 8 | blue.clamp(0, 255) << 16;
    }
    // Two pixels are six bytes. The next two pixels overwrite the surplus.
    for (at, pair) in words.as_chunks::<2>().0.iter().enumerate() {
        let bytes = (pair[0] as u64 | (pair[1] as u64) << 24).to_le_bytes();
        out[6 * at..6 * at + 8].copy_from_slice(&bytes);
    }
}
