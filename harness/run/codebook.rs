//! A picture of a codebook whose codes are patches of pixels.

use std::path::Path;

use image::{ImageFormat, RgbImage};
use safetensors::SafeTensors;
use serde_json::Value;
use tessera_tokenizers::view::{IMAGENET_MEAN, IMAGENET_STD};

/// Codes in a row of the picture.
pub const COLUMNS: usize = 16;
/// Codes shown.
const MOST: usize = 256;

/// PNG of the codes of the row that `entry` describes (of the resolved suite), from `codebook.safetensors`; `None` where codes
/// are no pixels.
pub fn picture(entry: &Value, patch: usize, path: &Path) -> Option<Vec<u8>> {
    let features = &entry["with"]["features"];
    let plain = features["normalize"].is_null() || features["normalize"] == "none";
    if entry["kind"] != "kmeans" || features["kind"] != "pixels" || !plain {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    let file = SafeTensors::deserialize(&bytes).ok()?;
    let centers = file.tensor("centers").ok()?;
    let &[codes, dim] = centers.shape() else {
        return None;
    };
    if dim != 3 * patch * patch {
        return None;
    }
    let values: Vec<f32> = centers
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let mut out = Vec::new();
    draw(&values, codes.min(MOST), patch)
        .write_to(&mut std::io::Cursor::new(&mut out), ImageFormat::Png)
        .ok()?;
    Some(out)
}

/// Codes row by row, in the order of their ids; a code is `(p, q, c)` on ImageNet's scale.
fn draw(values: &[f32], codes: usize, patch: usize) -> RgbImage {
    let rows = codes.div_ceil(COLUMNS).max(1);
    let mut picture = RgbImage::new((COLUMNS * patch) as u32, (rows * patch) as u32);
    for (code, center) in values
        .chunks_exact(3 * patch * patch)
        .take(codes)
        .enumerate()
    {
        for (at, pixel) in center.chunks_exact(3).enumerate() {
            let byte =
                |c: usize| ((pixel[c] * IMAGENET_STD[c] + IMAGENET_MEAN[c]) * 255.0).round() as u8;
            let x = code % COLUMNS * patch + at % patch;
            let y = code / COLUMNS * patch + at / patch;
            picture.put_pixel(x as u32, y as u32, image::Rgb([byte(0), byte(1), byte(2)]));
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_in_rows_at_their_own_colours() {
        // Seventeen codes of one pixel: the last one is red, in the second row.
        let grey: Vec<f32> = (0..3)
            .map(|c| (0.5 - IMAGENET_MEAN[c]) / IMAGENET_STD[c])
            .collect();
        let red: Vec<f32> = (0..3)
            .map(|c| (if c == 0 { 1.0 } else { 0.0 } - IMAGENET_MEAN[c]) / IMAGENET_STD[c])
            .collect();
        let values: Vec<f32> = grey.iter().copied().cycle().take(48).chain(red).collect();
        let picture = draw(&values, 17, 1);
        assert_eq!(picture.dimensions(), (16, 2));
        assert_eq!(picture.get_pixel(3, 0).0, [128; 3]);
        assert_eq!(picture.get_pixel(0, 1).0, [255, 0, 0]);
    }
}
