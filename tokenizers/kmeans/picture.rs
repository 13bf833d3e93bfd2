//! Draws a codebook whose centres are patches of pixels.

use super::codebook::Codebook;
use crate::contract::Features;
use crate::view::Image;

/// Codes per row of the picture.
const COLUMNS: usize = 16;
/// Maximum number of codes in the picture.
const MOST: usize = 256;

/// Draws the first codes row by row in the order of their ids. Returns `None` if `features` cannot be drawn.
pub fn draw(codebook: &Codebook, features: &dyn Features) -> Option<Image> {
    let centers = codebook.centers.chunks_exact(codebook.dim).take(MOST);
    let patches: Vec<Image> = centers
        .map(|center| features.picture(center))
        .collect::<Option<_>>()?;
    let (patch_width, patch_height) = patches.first().map(|p| (p.width, p.height))?;
    let (width, height) = (
        COLUMNS * patch_width,
        patches.len().div_ceil(COLUMNS) * patch_height,
    );
    let mut rgb = vec![0; 3 * width * height];
    for (code, patch) in patches.iter().enumerate() {
        let left = code % COLUMNS * patch_width;
        let top = code / COLUMNS * patch_height;
        for (at, row) in patch.rgb.chunks_exact(3 * patch_width).enumerate() {
            let start = 3 * ((top + at) * width + left);
            rgb[start..start + row.len()].copy_from_slice(row);
        }
    }
    Some(Image {
        width,
        height,
        rgb: rgb.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::{IMAGENET_MEAN, IMAGENET_STD};
    use crate::{BuildContext, Config, Grid, Registry};

    fn features(normalize: &str) -> Box<dyn Features> {
        let registry = Registry::builtin();
        let cx = BuildContext::alone(&registry, 2, Grid { rows: 2, cols: 2 });
        let with = json!({"kind": "pixels", "normalize": normalize});
        registry
            .build_features(&Config::from_value(with), &cx)
            .unwrap()
    }

    #[test]
    fn codes_are_drawn_in_rows_with_their_colours() {
        // Seventeen codes of one pixel: the last one is red, in the second row.
        let scaled = |value: f32, c: usize| (value - IMAGENET_MEAN[c]) / IMAGENET_STD[c];
        let grey = (0..48).map(|at| scaled(0.5, at % 3));
        let red = [1.0, 0.0, 0.0].into_iter().enumerate();
        let red = red.map(|(c, value)| scaled(value, c));
        let codebook = Codebook::new(grey.chain(red).collect(), 3);
        let picture = draw(&codebook, features("none").as_ref()).unwrap();
        assert_eq!((picture.width, picture.height), (16, 2));
        assert_eq!(picture.rgb[3 * 3..][..3], [128; 3]);
        assert_eq!(picture.rgb[3 * 16..][..3], [255, 0, 0]);
        assert_eq!(draw(&codebook, features("per-patch").as_ref()), None);
    }
}
