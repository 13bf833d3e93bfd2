//! PNG files to 8-bit RGB, as Pillow's `convert("RGB")` does it: alpha dropped, the high byte of 16 bits (grey without alpha is cut off at 255).

use std::io::Cursor;

use ::png::{BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, Limits, Transformations};
use tessera_tokenizers::Image;

use super::bounds::{BESIDE_PIXELS, within_bound};

/// Decodes the bytes of a file. The checksums of the compressed pixels (Adler-32) and of all chunks up to their end (CRC-32) are compared.
///
/// # Errors
/// The reason why they do not decode.
pub(super) fn decode(bytes: &[u8]) -> Result<Image, String> {
    let said = |error: DecodingError| error.to_string();
    let mut options = DecodeOptions::default();
    options.set_ignore_adler32(false);
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    let header = decoder.read_header_info().map_err(said)?;
    let (width, height) = (header.width as usize, header.height as usize);
    within_bound(width, height)?;
    // Pillow's mode I;16, which it cuts off.
    let cut_off =
        (header.color_type, header.bit_depth) == (ColorType::Grayscale, BitDepth::Sixteen);
    decoder.set_limits(Limits {
        bytes: BESIDE_PIXELS + bytes.len() + 8 * width * height,
    });
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(said)?;
    let (color, depth) = reader.output_color_type();
    let size = reader.output_buffer_size().ok_or("is too large")?;
    let mut samples = vec![0; size];
    reader.next_frame(&mut samples).map_err(said)?;
    let rgb = match (color, depth) {
        (ColorType::Rgb, BitDepth::Eight) => samples,
        (color, BitDepth::Sixteen) => {
            to_rgb::<2>(&samples, color.samples(), |[high, low]| match cut_off {
                true if *high > 0 => u8::MAX,
                true => *low,
                false => *high,
            })
        }
        (color, _) => to_rgb::<1>(&samples, color.samples(), |[sample]| *sample),
    };
    Ok(Image {
        width,
        height,
        rgb: rgb.into(),
    })
}

/// Returns the first three of the `channels` of every pixel, or grey three times. A sample has `BYTES` bytes.
fn to_rgb<const BYTES: usize>(
    samples: &[u8],
    channels: usize,
    level: impl Fn(&[u8; BYTES]) -> u8,
) -> Vec<u8> {
    let (samples, _) = samples.as_chunks::<BYTES>();
    let of_rgb = if channels < 3 { [0, 0, 0] } else { [0, 1, 2] };
    let pixels = samples.chunks_exact(channels);
    pixels
        .flat_map(|pixel| of_rgb.map(|channel| level(&pixel[channel])))
        .collect()
}
