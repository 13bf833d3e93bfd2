//! Image files to 8-bit RGB, as Pillow's `convert("RGB")` does it: alpha dropped, the high byte of 16 bits (grey without alpha is cut off
//! at 255), CMYK and grey to RGB; the orientation tag is ignored.
//!
//! JPEGs have the pixels of libjpeg, which Pillow uses. Other decoders differ by one or two levels, enough to change 3 % of a
//! real VQ encoder's ids (BENCHMARKS.md). [`jpeg`](super::jpeg) decodes the common kind, libjpeg itself the others.

use std::cell::Cell;
use std::io::{self, BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageReader};
use mozjpeg::{ColorSpace, Decompress};
use tessera_tokenizers::Image;

use super::error::DataError;
use super::jpeg::{self, MOST_PIXELS};

/// Maximum pixels that a byte of a JPEG may encode. A block of 8 x 8 samples has at least one bit, and the components of an odd sampling
/// have no less than a block for 128 pixels.
const PIXELS_PER_BYTE: usize = 1024;
/// Maximum pixels in all scans of a JPEG, because a scan of a few bytes can visit every block. A progressive photograph has ten scans.
const SCANNED_PIXELS: usize = 32 * MOST_PIXELS;

/// Decodes the bytes of one file.
///
/// # Errors
/// The reason why they do not decode.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let format = image::guess_format(bytes).map_err(|e| e.to_string())?;
    if format == image::ImageFormat::Jpeg {
        return jpeg::decode(bytes).map_or_else(|| libjpeg(bytes, 8), Ok);
    }
    let reader = || ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = reader().into_dimensions().map_err(|e| e.to_string())?;
    check_size(width as usize, height as usize)?;
    let image = reader().decode().map_err(|e| e.to_string())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high = |samples: &[u16]| samples.iter().map(|v| (v >> 8) as u8).collect();
    let rgb: Vec<u8> = match image {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        // Pillow's mode I;16, which it cuts off.
        DynamicImage::ImageLuma16(grey) => {
            grey.iter().flat_map(|v| [(*v).min(255) as u8; 3]).collect()
        }
        DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => high(&image.into_rgb16()),
        other => other.to_rgb8().into_raw(),
    };
    Ok(Image {
        width,
        height,
        rgb: rgb.into(),
    })
}

/// Refuses images of more than [`MOST_PIXELS`].
fn check_size(width: usize, height: usize) -> Result<(), String> {
    match width.saturating_mul(height) {
        ..=MOST_PIXELS => Ok(()),
        _ => Err(format!(
            "claims {width} x {height} pixels, expected at most {MOST_PIXELS}"
        )),
    }
}

/// Refuses a JPEG whose header promises more work than its file can contain.
fn check_jpeg(bytes: &[u8], (width, height): (usize, usize)) -> Result<(), String> {
    check_size(width, height)?;
    let pixels = width * height;
    if pixels > PIXELS_PER_BYTE * bytes.len() {
        return Err(format!(
            "{} bytes cannot hold the {width} x {height} pixels that it claims",
            bytes.len()
        ));
    }
    let scans = bytes
        .windows(2)
        .filter(|pair| *pair == [0xFF, 0xDA])
        .count();
    if pixels.saturating_mul(scans) > SCANNED_PIXELS {
        return Err(format!(
            "has {scans} scans of {width} x {height} pixels, expected at most {SCANNED_PIXELS} pixels in all scans"
        ));
    }
    Ok(())
}

/// Decodes one file: JPEG, PNG or WebP.
///
/// # Errors
/// [`DataError::Path`] if it cannot be read or is not a complete image.
pub fn decode_file(path: &Path) -> Result<Image, DataError> {
    let refuse = |message| DataError::Path {
        path: path.to_owned(),
        message,
    };
    let bytes = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    decode(&bytes).map_err(refuse)
}

/// Decodes a JPEG at `eighths` (1, 2, 4 or 8) eighths of its size by transforming fewer coefficients, and other files in full.
///
/// # Errors
/// As for [`decode`].
pub fn decode_reduced(bytes: &[u8], eighths: u8) -> Result<Image, String> {
    if eighths == 8 || !is_jpeg(bytes) {
        return decode(bytes);
    }
    jpeg::decode_at(bytes, eighths.into()).map_or_else(|| libjpeg(bytes, eighths), Ok)
}

/// Returns whether the bytes are a JPEG, which [`decode_reduced`] can reduce.
pub fn is_jpeg(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok_and(|format| format == image::ImageFormat::Jpeg)
}

/// Decodes with libjpeg, at `eighths` eighths of the size.
///
/// # Errors
/// As for [`decode`].
pub(super) fn libjpeg(bytes: &[u8], eighths: u8) -> Result<Image, String> {
    caught(bytes, |source| read_jpeg(bytes, source, eighths))
}

/// Runs `read` on the bytes. Reading beyond their end is an error.
fn caught<T>(bytes: &[u8], read: impl FnOnce(Source<'_>) -> io::Result<T>) -> Result<T, String> {
    let starved = Cell::new(false);
    let source = Source {
        rest: bytes,
        starved: &starved,
    };
    // The binding reports libjpeg's errors by unwinding.
    let decoded = catch_unwind(AssertUnwindSafe(|| read(source)));
    let decoded = match decoded {
        Ok(decoded) => decoded.map_err(|e| format!("is not a complete JPEG: {e}"))?,
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map_or("is not a JPEG", String::as_str);
            return Err(message.to_owned());
        }
    };
    if starved.get() {
        return Err("is truncated".into());
    }
    Ok(decoded)
}

fn read_jpeg(bytes: &[u8], source: Source<'_>, eighths: u8) -> io::Result<Image> {
    let mut opened = Decompress::new_reader(source)?;
    check_jpeg(bytes, opened.size()).map_err(io::Error::other)?;
    opened.scale(eighths);
    let cmyk = matches!(
        opened.color_space(),
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK
    );
    let mut started = if cmyk {
        opened.to_colorspace(ColorSpace::JCS_CMYK)?
    } else {
        opened.rgb()?
    };
    let (width, height) = (started.width(), started.height());
    let pixels: Vec<u8> = started.read_scanlines()?;
    started.finish()?;
    let rgb = if cmyk { from_cmyk(&pixels) } else { pixels };
    Ok(Image {
        width,
        height,
        rgb: rgb.into(),
    })
}

/// Pillow's `cmyk2rgb` on Adobe's inverted CMYK. Pillow treats every CMYK JPEG as inverted.
fn from_cmyk(inverted: &[u8]) -> Vec<u8> {
    let pixels = inverted.chunks_exact(4);
    let rgb = pixels.flat_map(|pixel| {
        let black = u32::from(pixel[3]);
        [0, 1, 2].map(|c| {
            let product = (255 - u32::from(pixel[c])) * black + 128;
            black.saturating_sub(((product >> 8) + product) >> 8) as u8
        })
    });
    rgb.collect()
}

/// A file's bytes. Records reads beyond the end, because libjpeg fills the rest with grey.
struct Source<'a> {
    rest: &'a [u8],
    starved: &'a Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.rest.read(into)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.starved.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count.min(self.rest.len())..];
    }
}

/// Returns whether the file has an extension of an image that [`decode`] can read.
pub fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    ["jpg", "jpeg", "png", "webp"]
        .iter()
        .any(|e| extension.eq_ignore_ascii_case(e))
}

#[cfg(test)]
mod tests {
    use super::decode;

    /// `tests/fixtures/jpeg/make.py` wrote Pillow's pixels of each file.
    #[test]
    fn jpegs_have_pillows_pixels() {
        macro_rules! file {
            ($name:literal) => {
                (
                    $name,
                    &include_bytes!(concat!("../../tests/fixtures/jpeg/", $name, ".jpg"))[..],
                    &include_bytes!(concat!("../../tests/fixtures/jpeg/", $name, ".rgb"))[..],
                )
            };
        }
        for (name, bytes, rgb) in [
            file!("420"),
            file!("444"),
            file!("grey"),
            file!("cmyk"),
            file!("progressive"),
        ] {
            let image = decode(bytes).unwrap();
            assert_eq!((image.width, image.height), (29, 22), "{name}");
            let off = image.rgb.iter().zip(rgb).filter(|(a, b)| a != b).count();
            assert_eq!((image.rgb.len(), off), (rgb.len(), 0), "{name}");
        }
    }

    /// Pillow's pixels of each file, by `tests/fixtures/png/make.py`.
    #[test]
    fn pngs_of_16_bits_have_pillows_pixels() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/png");
        for name in ["grey16", "grey-alpha16", "rgb16", "rgba16"] {
            let read = |end| std::fs::read(format!("{folder}/{name}.{end}")).unwrap();
            assert_eq!(decode(&read("png")).unwrap().rgb[..], read("rgb"), "{name}");
        }
    }

    /// A header that claims more than the bound, before a whole image of another size.
    #[test]
    fn a_jpeg_that_claims_too_many_pixels_is_refused() {
        for name in ["420", "progressive"] {
            let path = format!(
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/{}.jpg"),
                name
            );
            let mut bytes = std::fs::read(path).unwrap();
            let frame = bytes
                .windows(2)
                .position(|w| w == [0xff, 0xc0] || w == [0xff, 0xc2])
                .unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&[0x4e, 0x20, 0x4e, 0x20]);
            let error = decode(&bytes).unwrap_err();
            assert!(
                error.contains("claims 20000 x 20000 pixels"),
                "{name}: {error}"
            );
        }
    }

    /// A header that promises pixels that the bytes cannot hold, and scans that visit every block too often.
    #[test]
    fn a_jpeg_that_promises_more_work_than_its_bytes_hold_is_refused() {
        let whole = include_bytes!("../../tests/fixtures/jpeg/progressive.jpg");
        let frame = whole.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
        let last = whole.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap();
        let (body, scan) = (&whole[..whole.len() - 2], &whole[last..whole.len() - 2]);
        for (side, scans, part) in [(2000_u16, 0, "cannot hold"), (6000, 3000, "scans")] {
            let mut bytes = [body, &scan.repeat(scans), &[0xff, 0xd9]].concat();
            let side = side.to_be_bytes();
            bytes[frame + 5..frame + 9].copy_from_slice(&[side, side].concat());
            let error = decode(&bytes).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_truncated_or_broken_jpeg_is_refused() {
        let whole = include_bytes!("../../tests/fixtures/jpeg/420.jpg");
        assert!(
            decode(&whole[..whole.len() - 20])
                .unwrap_err()
                .contains("truncated")
        );
        assert!(decode(b"\xff\xd8\xff\xe0 not a picture").is_err());
        assert!(decode(b"nothing at all").is_err());
    }
}
