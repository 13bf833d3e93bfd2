//! `fast_decode`: decodes JPEGs at 1/2, 1/4 or 1/8 of their size if the crop is rendered no larger than that.
//!
//! The pixels differ from those of the resampled original, so targets change. The option is therefore part of the dataset's
//! fingerprint and of its name in tables. Sizes are known from the scan, so no image is read twice.

use std::sync::Arc;

use tessera_tokenizers::{CropBox, Image, Split};

use super::contract::PixelSource;
use super::dataset::Dataset;
use super::error::DataError;

/// An image decoded for one box.
pub(super) struct Reduced {
    /// The decoded pixels.
    pub image: Arc<Image>,
    /// The box, in pixels of `image`.
    pub crop: CropBox,
    /// Largest side at which the box may be rendered; `None` for an image at its own size.
    pub finest: Option<usize>,
}

impl Dataset {
    /// Decodes JPEGs only as large as necessary for boxes that are rendered at `side` pixels square or less. Has no effect on
    /// datasets without files.
    pub fn decode_for(&mut self, side: usize) {
        self.fast = Some(side);
    }

    /// Decodes image `index` for the box that `place` computes from the width and height of the original.
    pub(super) fn reduced(
        &self,
        split: Split,
        index: usize,
        place: impl FnOnce(usize, usize) -> CropBox,
    ) -> Result<Reduced, DataError> {
        let shape = self.split_info(split).shapes.get(index).copied();
        let (Some(side), PixelSource::Encoded(images), Some(shape)) =
            (self.fast, &self.source, shape)
        else {
            return self.whole(split, index, place);
        };
        let crop = place(shape.width as usize, shape.height as usize);
        let eighths = match shape.jpeg {
            true => eighths(crop, shape.size(), side),
            false => 8,
        };
        if eighths == 8 {
            return self.whole(split, index, |_, _| crop);
        }
        let key = (split, index, eighths);
        let known = self.cache().get(key);
        let image = match known {
            Some(image) => image,
            None => {
                let image = Arc::new(self.decoded(images.as_ref(), split, index, eighths)?);
                self.cache().put(key, &image);
                image
            }
        };
        let crop = scaled(crop, shape.size(), (image.width, image.height));
        Ok(Reduced {
            image,
            crop,
            finest: Some(side),
        })
    }

    /// Decodes the image at its own size.
    fn whole(
        &self,
        split: Split,
        index: usize,
        place: impl FnOnce(usize, usize) -> CropBox,
    ) -> Result<Reduced, DataError> {
        let image = self.image(split, index)?;
        let crop = place(image.width, image.height);
        Ok(Reduced {
            image,
            crop,
            finest: None,
        })
    }
}

/// Returns the eighths of the size (1, 2, 4 or 8) at which the box still has `side` pixels in both directions.
fn eighths(crop: CropBox, (width, height): (usize, usize), side: usize) -> u8 {
    let enough = |n: &u8| {
        let n = usize::from(*n);
        // libjpeg's rounding.
        let reduced = ((width * n).div_ceil(8), (height * n).div_ceil(8));
        let crop = scaled(crop, (width, height), reduced);
        crop.width >= side as f64 && crop.height >= side as f64
    };
    [1, 2, 4].into_iter().find(enough).unwrap_or(8)
}

/// Scales a box on an image of size `from` to size `to`.
fn scaled(crop: CropBox, from: (usize, usize), to: (usize, usize)) -> CropBox {
    let across = to.0 as f64 / from.0 as f64;
    let down = to.1 as f64 / from.1 as f64;
    CropBox {
        left: crop.left * across,
        top: crop.top * down,
        width: crop.width * across,
        height: crop.height * down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(side: f64) -> CropBox {
        CropBox {
            left: 0.0,
            top: 0.0,
            width: side,
            height: side,
        }
    }

    #[test]
    fn the_size_is_the_smallest_that_has_all_pixels() {
        let whole = (1000, 1000);
        for (side, expected) in [
            (100, 1),
            (125, 1),
            (126, 2),
            (250, 2),
            (251, 4),
            (500, 4),
            (501, 8),
        ] {
            assert_eq!(eighths(square(1000.0), whole, side), expected, "{side}");
        }
        assert_eq!(
            eighths(square(300.0), whole, 112),
            4,
            "a box of 300 has 150 at 1/2, 75 at 1/4"
        );
        assert_eq!(
            eighths(square(200.0), whole, 224),
            8,
            "never upsampled more than the original"
        );
        let flat = CropBox {
            height: 100.0,
            ..square(1000.0)
        };
        assert_eq!(eighths(flat, whole, 60), 8, "the shorter side decides");
    }

    #[test]
    fn a_box_moves_with_its_image() {
        let crop = CropBox {
            left: 10.0,
            top: 20.0,
            width: 30.0,
            height: 40.0,
        };
        let half = CropBox {
            left: 5.0,
            top: 5.0,
            width: 15.0,
            height: 10.0,
        };
        assert_eq!(scaled(crop, (100, 80), (50, 20)), half);
    }
}
