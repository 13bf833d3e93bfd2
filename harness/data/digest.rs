//! Cached results of a scan, so that the next scan need not read and decode unchanged images.

use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tessera_models::files;

use super::decode::{decode, is_jpeg};

/// Size of an image, and whether it is a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Whether it is a JPEG, which can be decoded at a fraction of its size.
    pub jpeg: bool,
}

impl Shape {
    /// Returns width and height.
    pub fn size(self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    /// Returns the bytes of its pixels.
    pub fn bytes(self) -> u64 {
        3 * u64::from(self.width) * u64::from(self.height)
    }
}

/// Length and digest of an image's encoded bytes, and the result of decoding them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    /// Number of encoded bytes.
    pub bytes: u64,
    /// BLAKE3 of the encoded bytes, hex.
    pub blake3: String,
    /// Its shape, or why it does not decode.
    pub found: Result<Shape, String>,
}

impl Digest {
    /// Decodes the bytes once.
    pub fn of(bytes: &[u8]) -> Self {
        let found = decode(bytes).map(|image| Shape {
            width: image.width as u32,
            height: image.height as u32,
            jpeg: is_jpeg(bytes),
        });
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
            found,
        }
    }
}

/// Size and modification time of a file. Cached results are valid while they are unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    modified_ns: u128,
}

impl Stamp {
    /// Returns the stamp of a file or folder.
    pub fn of(about: &Metadata) -> Self {
        let modified = about.modified().ok();
        let modified = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok());
        Self {
            bytes: about.len(),
            modified_ns: modified.map_or(0, |d| d.as_nanos()),
        }
    }
}

/// Reads what an earlier scan wrote with [`remember`]; `None` if it is damaged or cannot be read.
pub(super) fn recall<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    let bytes = files::read_sealed(path).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Writes a cache for the next scan. Errors are ignored, because they only cost the next scan time.
pub(super) fn remember<T: Serialize>(path: &Path, what: &T) {
    if let Ok(bytes) = serde_json::to_vec(what) {
        let _ = files::write_sealed(path, bytes);
    }
}
