//! Decodes baseline JPEGs to the same bytes as libjpeg, in vector code.
//!
//! This module decodes the common format of photographs: 8-bit sequential Huffman coding, one scan, grey or YCbCr as 4:4:4,
//! 4:2:2 or 4:2:0. It uses the integer arithmetic of libjpeg's "islow" inverse transform, "fancy" upsampling and colour
//! conversion (the published fixed-point formulas), so the pixels are the same. [`decode`] returns `None` for all other files,
//! including broken ones, and libjpeg handles those.

mod color;
mod header;
mod huffman;
mod idct;
mod plane;

use tessera_kernels::simd::vectorized;
use tessera_tokenizers::Image;

use header::Header;
pub(super) use header::MOST_PIXELS;
use huffman::{Bits, Component};
use idct::Batch;
use plane::Plane;

/// Decodes an image; `None` if the file is of another kind or incomplete.
pub fn decode(bytes: &[u8]) -> Option<Image> {
    decode_at(bytes, 8)
}

/// Decodes like [`decode`] at `eighths` (1, 2, 4 or 8) eighths of the size, rounded up. Each block yields `eighths` samples per side,
/// from its lowest frequencies.
pub fn decode_at(bytes: &[u8], eighths: usize) -> Option<Image> {
    let header = Header::read(bytes)?.at(eighths);
    let planes = planes(&header)?;
    let rgb = vectorized(
        #[inline(always)]
        || color::convert(&header, &planes),
    );
    Some(Image {
        width: header.width,
        height: header.height,
        rgb: rgb.into(),
    })
}

/// Returns an empty plane for a component.
fn plane(header: &Header, component: &Component) -> Plane {
    let (across, down) = header.units();
    let (most, unit) = (header.components[0].unit(), component.unit());
    let stride = across * unit.0;
    Plane {
        stride,
        width: (header.width * unit.0).div_ceil(most.0),
        height: (header.height * unit.1).div_ceil(most.1),
        samples: vec![0; stride * down * unit.1],
    }
}

/// Decodes the samples of all components: entropy decoding and inverse transform.
fn planes(header: &Header) -> Option<Vec<Plane>> {
    let (across, down) = header.units();
    let units = across * down;
    // Every block takes at least two bits, so a false header cannot cause a large allocation.
    let bytes: usize = header.segments.iter().map(Vec::len).sum();
    if units > 4 * bytes {
        return None;
    }
    let mut planes: Vec<Plane> = header.components.iter().map(|c| plane(header, c)).collect();
    let mut batches: Vec<Batch> = header
        .components
        .iter()
        .map(|c| Batch::new(c.block))
        .collect();
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
                    let block = batches[c].next(place, &mut planes[c]);
                    component.read(&mut bits, &mut last_dc[c], block)?;
                }
            }
        }
        bits.whole()?;
    }
    for (batch, plane) in batches.iter_mut().zip(&mut planes) {
        batch.flush(plane);
    }
    Some(planes)
}

/// Iterates over the positions in the plane of a component's blocks in the unit at (column, row).
fn blocks(
    component: &Component,
    (col, row): (usize, usize),
    stride: usize,
) -> impl Iterator<Item = usize> {
    let (across, down, size) = (component.across, component.down, component.block);
    (0..down).flat_map(move |y| {
        let top = (row * down + y) * size * stride;
        (0..across).map(move |x| top + (col * across + x) * size)
    })
}

#[cfg(test)]
mod tests;
