//! What a scan remembers of an image, so that the next one need not read and decode it.

use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tessera_models::files;

use super::decode::{decode, is_jpeg};

/// Width and height of an image, and what its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Whether it is a JPEG, which can be decoded at a part of its size.
    pub jpeg: bool,
}

impl Shape {
    /// Columns and rows.
    pub fn size(self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    /// Bytes of its pixels.
    pub fn bytes(self) -> u64 {
        3 * u64::from(self.width) * u64::from(self.height)
    }
}

/// An image's encoded bytes: how many, which, and what decoding them gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    /// Number of encoded bytes.
    pub bytes: u64,
    /// BLAKE3 of the encoded bytes, hex.
    pub blake3: String,
    /// What it shows, or why it does not decode.
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

/// Size and time of a file: while they stay, what is remembered of it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    modified_ns: u128,
}

impl Stamp {
    /// Of the file or folder that is `about`.
    pub fn of(about: &Metadata) -> Self {
        let modified = about.modified().ok();
        let modified = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok());
        Self {
            bytes: about.len(),
            modified_ns: modified.map_or(0, |d| d.as_nanos()),
        }
    }
}

/// What an earlier scan wrote with [`remember`]; nothing where it cannot be read or is damaged.
pub(super) fn recall<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    let bytes = files::read_sealed(path).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Best effort: a cache that cannot be written only costs the next scan time.
pub(super) fn remember<T: Serialize>(path: &Path, what: &T) {
    if let Ok(bytes) = serde_json::to_vec(what) {
        let _ = files::write_sealed(path, bytes);
    }
}
