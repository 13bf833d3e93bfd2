//! Baseline JPEGs as libjpeg decodes them, byte for byte, in vector code.
//!
//! What photographs are saved as (8-bit sequential Huffman, one scan, grey or YCbCr as 4:4:4, 4:2:2 or 4:2:0) is decoded
//! here: the integer arithmetic is libjpeg's "islow" inverse transform, its "fancy" upsampling and its colour conversion
//! (the published fixed-point formulas), so the pixels are the same. [`decode`] gives `None` for everything else, broken
//! files among it, and libjpeg decides about those.

mod color;
mod header;
mod huffman;
mod idct;

use tessera_models::kernels::simd::vectorized;
use tessera_tokenizers::Image;

use header::{Component, Header};
use huffman::Bits;
use idct::Batch;

/// The image, or `None` when the file is not of the common kind or not whole.
pub fn decode(bytes: &[u8]) -> Option<Image> {
    let header = Header::read(bytes)?;
    let planes = planes(&header)?;
    let rgb = vectorized(
        #[inline(always)]
        || color::convert(&header, &planes),
    );
    Some(Image {
        width: header.width,
        height: header.height,
        rgb,
    })
}

/// One component's samples, whole blocks.
pub struct Plane {
    /// Columns in memory, a multiple of 8.
    stride: usize,
    /// Columns and rows that belong to the image.
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Plane {
    fn new(header: &Header, component: &Component) -> Self {
        let (across, down) = header.units();
        let stride = across * component.across * 8;
        Self {
            stride,
            width: (header.width * component.across).div_ceil(header.components[0].across),
            height: (header.height * component.down).div_ceil(header.components[0].down),
            samples: vec![0; stride * down * component.down * 8],
        }
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride..][..self.stride]
    }
}

/// Entropy decoding and the inverse transform: all components' samples.
fn planes(header: &Header) -> Option<Vec<Plane>> {
    let (across, down) = header.units();
    let units = across * down;
    // Every block takes two bits or more: no memory for what a header only claims.
    let bytes: usize = header.segments.iter().map(Vec::len).sum();
    if units > 4 * bytes {
        return None;
    }
    let mut planes: Vec<Plane> = header
        .components
        .iter()
        .map(|c| Plane::new(header, c))
        .collect();
    let mut batch = Batch::new();
    let interval = if header.restart == 0 {
        units
    } else {
        header.restart
    };
    if header.segments.len() != units.div_ceil(interval) {
        return None;
    }
    for (segment, first) in header.segments.iter().zip((0..units).step_by(interval)) {
        let mut bits = Bits::new(segment);
        let mut last_dc = [0; 3];
        for unit in first..(first + interval).min(units) {
            let at = (unit % across, unit / across);
            for (c, component) in header.components.iter().enumerate() {
                for place in blocks(component, at, planes[c].stride) {
                    let block = batch.next((c, place), &mut planes);
                    component.block(&mut bits, &mut last_dc[c], block)?;
                }
            }
        }
        bits.whole()?;
    }
    batch.flush(&mut planes);
    Some(planes)
}

/// Where the blocks of a component in the unit at (column, row) begin in its plane.
fn blocks(
    component: &Component,
    (col, row): (usize, usize),
    stride: usize,
) -> impl Iterator<Item = usize> {
    let (across, down) = (component.across, component.down);
    (0..down).flat_map(move |y| {
        let top = (row * down + y) * 8 * stride;
        (0..across).map(move |x| top + (col * across + x) * 8)
    })
}

#[cfg(test)]
mod tests;
