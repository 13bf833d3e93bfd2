//! Image files to 8-bit RGB, as Pillow's `convert("RGB")` does it: alpha dropped, CMYK and grey to RGB; the orientation tag is ignored.
//!
//! JPEGs have the pixels of libjpeg, which Pillow uses. Other decoders differ by one or two levels, enough to change 3 % of a
//! real VQ encoder's ids (BENCHMARKS.md). [`jpeg`](super::jpeg) decodes the common kind, libjpeg itself the others.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use image::{ImageFormat, ImageReader};
use mozjpeg::{ColorSpace, Decompress};
use tessera_models::files;
use tessera_tokenizers::Image;

use super::bounds::{BESIDE_PIXELS, within_bound};
use super::error::DataError;
use super::foreign::told;
use super::jpeg;
use super::png;

/// Decodes the bytes of one file.
///
/// # Errors
/// The reason why they do not decode.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    match image::guess_format(bytes).map_err(|e| said(bytes, &e))? {
        ImageFormat::Jpeg => jpeg::decode(bytes).map_or_else(|| libjpeg(bytes, 8), Ok),
        ImageFormat::Png => quietly(|| png::decode(bytes))?,
        ImageFormat::WebP if is_cut(bytes) => Err("is truncated".into()),
        format => quietly(|| webp(bytes, format))?,
    }
}

/// Returns why the bytes do not decode: what they are, or the decoder's error.
fn said(bytes: &[u8], error: &image::ImageError) -> String {
    told(bytes).map_or_else(|| error.to_string(), str::to_owned)
}

/// Decodes a WebP. Other formats are refused with their name.
fn webp(bytes: &[u8], format: ImageFormat) -> Result<Image, String> {
    let said = |error| said(bytes, &error);
    let read = |pixels: usize| {
        let mut reader = ImageReader::with_format(io::Cursor::new(bytes), format);
        let mut limits = image::Limits::default();
        limits.max_alloc = Some((BESIDE_PIXELS + bytes.len() + 8 * pixels) as u64);
        reader.limits(limits);
        reader
    };
    let (width, height) = read(0).into_dimensions().map_err(said)?;
    let (width, height) = (width as usize, height as usize);
    within_bound(width, height)?;
    let rgb = read(width * height)
        .decode()
        .map_err(said)?
        .to_rgb8()
        .into_raw();
    Ok(Image {
        width,
        height,
        rgb: rgb.into(),
    })
}

/// Returns whether a WebP is shorter than its header states, as libwebp does. The decoder would take zeros for the last bytes.
fn is_cut(webp: &[u8]) -> bool {
    // "RIFF", the number of bytes after these eight, then chunks.
    let stated = webp.get(4..8).and_then(|size| size.try_into().ok());
    stated.is_none_or(|size| u64::from(u32::from_le_bytes(size)) + 8 > webp.len() as u64)
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
    let bytes = files::read(path).map_err(|e| refuse(e.to_string()))?;
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
    image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg)
}

/// Decodes with libjpeg, at `eighths` eighths of the size.
///
/// # Errors
/// As for [`decode`].
pub(super) fn libjpeg(bytes: &[u8], eighths: u8) -> Result<Image, String> {
    caught(bytes, |source| read_jpeg(source, eighths))
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

thread_local! {
    /// Whether a panic of this thread is caught and reported as an error.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Calls a decoder that may panic on damaged files, and returns its panic as an error. The panic prints nothing.
fn quietly<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !QUIET.get() {
                others(about);
            }
        }));
    });
    QUIET.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(false);
    decoded.map_err(|_| "is damaged: its decoder fails on it".into())
}

/// Marker that begins a scan; within coded data a zero follows 0xFF.
const SCAN: [u8; 2] = [0xff, 0xda];
/// Maximum blocks that all scans decode for each byte of a file, so that many empty scans of a large image are refused. A white image of
/// ten scans has about 80.
const MOST_SCANNED: usize = 512;

/// Returns the number of blocks of all components.
fn blocks<R>(opened: &Decompress<R>) -> usize {
    let (width, height) = opened.size();
    let components = opened.components();
    let most = |side: fn(&mozjpeg::CompInfo) -> i32| {
        components.iter().map(side).max().unwrap_or(1).max(1) as usize
    };
    let (across, down) = (most(|c| c.h_samp_factor), most(|c| c.v_samp_factor));
    let of = |c: &mozjpeg::CompInfo| {
        let wide = (width * c.h_samp_factor.max(1) as usize).div_ceil(8 * across);
        wide * (height * c.v_samp_factor.max(1) as usize).div_ceil(8 * down)
    };
    components.iter().map(of).sum()
}

fn read_jpeg(source: Source<'_>, eighths: u8) -> io::Result<Image> {
    let bytes = source.rest;
    let mut opened = Decompress::new_reader(source)?;
    let (width, height) = opened.size();
    within_bound(width, height).map_err(io::Error::other)?;
    let blocks = blocks(&opened);
    // The first scan of a block has at least one bit, and a scan of all blocks takes as long as the first.
    let scans = bytes.windows(2).filter(|pair| *pair == SCAN).count();
    if blocks > 8 * bytes.len() || blocks.saturating_mul(scans) > MOST_SCANNED * bytes.len() {
        return Err(io::Error::other(format!(
            "claims {width} x {height} pixels in {scans} scans, more than its {} bytes can hold",
            bytes.len()
        )));
    }
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
    use super::{QUIET, decode, quietly};

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
        // Pillow ignores a transparent shade.
        let read = |end| std::fs::read(format!("{folder}/grey16.{end}")).unwrap();
        let mut bytes = read("png");
        let shade = *b"tRNS\x12\x34";
        let chunk = [&[0, 0, 0, 2][..], &shade, &crc(&shade).to_be_bytes()].concat();
        bytes.splice(33..33, chunk);
        assert_eq!(decode(&bytes).unwrap().rgb[..], read("rgb"));
    }

    /// A checksum that is wrong: of the compressed pixels (Adler-32; their chunk's own is right), and of a chunk before them. Pillow refuses both.
    #[test]
    fn a_png_with_a_wrong_checksum_is_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/png");
        let whole = std::fs::read(format!("{folder}/rgb16.png")).unwrap();
        let at = whole.windows(4).position(|w| w == b"IDAT").unwrap();
        let length = u32::from_be_bytes(whole[at - 4..at].try_into().unwrap());
        let end = at + 4 + length as usize;
        let mut wrong = whole.clone();
        wrong[end - 1] ^= 1;
        let sum = crc(&wrong[at..end]);
        wrong[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(decode(&wrong).is_err());
        let gamma = *b"gAMA\0\0\xb1\x8f";
        for (change, right) in [(0, true), (1, false)] {
            let sum = crc(&gamma) ^ change;
            let chunk = [&[0, 0, 0, 4][..], &gamma, &sum.to_be_bytes()].concat();
            let mut changed = whole.clone();
            changed.splice(33..33, chunk);
            assert_eq!(decode(&changed).is_ok(), right);
        }
    }

    /// Pillow's pixels, by `tests/fixtures/webp/make.py`. A file without its last bytes had other ones.
    #[test]
    fn a_webp_has_pillows_pixels_and_is_refused_without_its_last_bytes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/webp");
        let read = |end| std::fs::read(format!("{folder}/lossy.{end}")).unwrap();
        let whole = read("webp");
        assert_eq!(decode(&whole).unwrap().rgb[..], read("rgb"));
        for bytes in 0..whole.len() {
            assert!(decode(&whole[..bytes]).is_err(), "{bytes} bytes");
        }
        // What follows the image is ignored, as libwebp ignores it.
        assert!(decode(&[&whole[..], &[0; 3]].concat()).is_ok());
    }

    /// The decoder panics on a palette that ends within a colour.
    #[test]
    fn a_panic_of_a_decoder_is_an_error_without_a_line() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/png");
        let mut bytes = std::fs::read(format!("{folder}/grey16.png")).unwrap();
        // 8 bits, palette.
        bytes[24..26].copy_from_slice(&[8, 3]);
        let sum = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        let palette = *b"PLTE\x01\x02\x03\x04";
        let chunk = [&[0, 0, 0, 4][..], &palette, &crc(&palette).to_be_bytes()].concat();
        bytes.splice(33..33, chunk);
        let error = decode(&bytes).unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
        assert_eq!(quietly(|| 1), Ok(1));
        assert!(!QUIET.get());
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
            for (side, part) in [
                (20_000_u16, "claims 20000 x 20000 pixels, expected at most"),
                (10_000, "more than its"),
            ] {
                bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
                bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
                let error = decode(&bytes).unwrap_err();
                assert!(error.contains(part), "{name}: {error}");
            }
        }
    }

    /// A progressive file whose first scan is repeated: each repetition costs a few bytes and the time of all blocks.
    #[test]
    fn a_jpeg_of_many_empty_scans_is_refused() {
        let whole = include_bytes!("../../tests/fixtures/jpeg/progressive.jpg");
        let mut bytes = whole[..whole.len() - 2].to_vec();
        (0..600).for_each(|_| bytes.extend([0xff, 0xda]));
        let blocks = 512 * bytes.len() / 600;
        let side = (8.0 * (blocks as f64).sqrt()) as u16;
        let frame = bytes.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
        bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
        bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
        let error = decode(&bytes).unwrap_err();
        assert!(error.contains("scans, more than its"), "{error}");
    }

    #[test]
    fn a_png_that_claims_too_many_pixels_is_refused() {
        let mut bytes = std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/png/rgb16.png"
        ))
        .unwrap();
        bytes[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
        // The checksum of the header is of the changed size.
        let sum = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        let error = decode(&bytes).unwrap_err();
        assert!(error.contains("claims 50000 x 50000 pixels"), "{error}");
    }

    fn crc(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            let start = crc ^ u32::from(*byte);
            (0..8).fold(start, |c, _| (c >> 1) ^ (0xedb8_8320 * (c & 1)))
        };
        !bytes.iter().fold(u32::MAX, step)
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
