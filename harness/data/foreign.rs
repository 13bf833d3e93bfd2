//! What the first bytes of a file among images say about it.

use tessera_models::foreign;

/// First bytes of formats of images that are not read, with what they are and the remedy.
const OTHERS: &[(&[u8], &str)] = &[
    (b"GIF8", "is a GIF; convert it to PNG"),
    (b"BM", "is a BMP; convert it to PNG"),
    (b"II*\0", "is a TIFF; convert it to PNG"),
    (b"MM\0*", "is a TIFF; convert it to PNG"),
    (b"<?xml", "is XML; convert it to PNG"),
    (b"<svg", "is an SVG; convert it to PNG"),
];

/// Extensions of images that torchvision or cameras use and this program does not read.
const UNREAD: &[&str] = &[
    "jpe", "jfif", "jp2", "j2k", "jxl", "bmp", "dib", "gif", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "avif", "heic", "heif", "svg", "tga", "ico", "exr", "hdr", "dng", "cr2", "nef", "arw",
];

/// Returns what a file is that is not a JPEG, PNG or WebP, with the remedy; `None` if its first bytes do not tell.
pub fn told(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..12).is_some_and(|kind| {
        kind.starts_with(b"ftyp") && [&b"avif"[..], b"avis", b"heic", b"mif1"].contains(&&kind[4..])
    }) {
        return Some("is an AVIF or HEIC; convert it to PNG");
    }
    let known = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic));
    let known = known.map(|(_, what)| *what);
    known.or_else(|| foreign::told(bytes))
}

/// Returns why a file with this extension (without a dot) and these first bytes is an image that is left out; `None` if it is no image.
pub fn foreign(extension: &str, first: &[u8]) -> Option<String> {
    let lower = extension.to_lowercase();
    let readable = image::guess_format(first)
        .ok()
        .and_then(|format| match format {
            image::ImageFormat::Jpeg => Some("JPEG"),
            image::ImageFormat::Png => Some("PNG"),
            image::ImageFormat::WebP => Some("WebP"),
            _ => None,
        });
    match readable {
        Some(kind) => Some(format!(
            "is a {kind} with another extension; name it .jpg, .jpeg, .png or .webp"
        )),
        None if UNREAD.contains(&lower.as_str()) => Some(format!(
            "`.{lower}` is not read; convert it to JPEG, PNG or WebP"
        )),
        None => None,
    }
}

/// Names of files and folders that systems write beside images.
const SYSTEM: &[&str] = &[
    "@eaDir",
    "__MACOSX",
    "__pycache__",
    "lost+found",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
];

/// The reason for leaving out what [`is_hidden`].
pub const HIDDEN: &str = "hidden, or written by a system";

/// Whether a file or folder is hidden or written by a system: `.DS_Store`, `._image.jpg`, `.ipynb_checkpoints`, `@eaDir`.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || SYSTEM.iter().any(|system| system.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_readable_images_are_described() {
        for (bytes, part) in [
            (&b"GIF89a"[..], "GIF"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"<!DOCTYPE html>", "web page"),
        ] {
            assert!(told(bytes).unwrap().contains(part), "{part}");
        }
        assert_eq!(told(b"\xff\xd8\xff\xe0"), None);
        assert!(foreign("", b"\x89PNG\r\n\x1a\n").unwrap().contains("PNG"));
        assert!(foreign("TIFF", b"II*\0").unwrap().contains("`.tiff`"));
        assert_eq!(foreign("txt", b"a cat"), None);
        for hidden in [
            ".DS_Store",
            "._a.jpg",
            ".ipynb_checkpoints",
            "@eaDir",
            "Thumbs.db",
        ] {
            assert!(is_hidden(hidden.as_bytes()));
        }
        assert!(!is_hidden(b"ant.jpg"));
    }
}
