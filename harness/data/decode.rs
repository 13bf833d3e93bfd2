//! Image files to 8-bit RGB, as Pillow's `convert("RGB")` does it: alpha dropped, 16 bits cut to 8, CMYK and grey to RGB; the
//! orientation tag is ignored.

use std::path::Path;

use tessera_tokenizers::Image;

/// Decodes the bytes of one file.
///
/// # Errors
/// What is wrong with them.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let format = image::guess_format(bytes).map_err(|e| e.to_string())?;
    let image = image::load_from_memory_with_format(bytes, format).map_err(|e| e.to_string())?;
    let rgb = match image {
        image::DynamicImage::ImageRgb8(rgb) => rgb,
        other => other.to_rgb8(),
    };
    Ok(Image {
        width: rgb.width() as usize,
        height: rgb.height() as usize,
        rgb: rgb.into_raw(),
    })
}

/// Whether the file's name says it is an image that [`decode`] can read.
pub fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    ["jpg", "jpeg", "png", "webp"]
        .iter()
        .any(|e| extension.eq_ignore_ascii_case(e))
}
