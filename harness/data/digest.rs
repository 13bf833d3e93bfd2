//! Cached results of a scan, so that the next scan need not read and decode unchanged images.

use std::path::Path;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use tessera_models::files;

use super::decode::{decode, is_jpeg};

/// Version of the cached results; others are ignored. It must be raised when [`decode`] accepts or refuses other bytes than before.
const VERSION: u8 = 4;

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

/// Digest of an image's encoded bytes, and the result of decoding them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    /// Number of encoded bytes.
    pub bytes: u64,
    /// BLAKE3 of the encoded bytes.
    pub blake3: [u8; 32],
    /// Its shape, or why it does not decode.
    pub found: Result<Shape, Box<str>>,
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
            blake3: *blake3::hash(bytes).as_bytes(),
            found: found.map_err(String::into_boxed_str),
        }
    }

    /// Returns the result for an image whose file cannot be opened.
    pub fn unreadable(reason: String) -> Self {
        Self {
            bytes: 0,
            blake3: [0; 32],
            found: Err(reason.into_boxed_str()),
        }
    }
}

/// What the file system says about a file. Cached results are valid while it is unchanged. A program can set size and modification
/// time, but not the time of the last change (ctime).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970, as `changed`.
    modified: i64,
    changed: i64,
    // Without the device, whose number is another after a network folder is mounted again.
    inode: u64,
}

impl Stamp {
    /// Returns the stamp of a file or folder.
    pub fn of(about: &Stat) -> Self {
        let time =
            |seconds: i64, more: i64| seconds.saturating_mul(1_000_000_000).saturating_add(more);
        Self {
            bytes: about.st_size as u64,
            modified: time(about.st_mtime, about.st_mtime_nsec as i64),
            changed: time(about.st_ctime, about.st_ctime_nsec as i64),
            inode: about.st_ino,
        }
    }
}

/// Returns the bytes of a file of [`remember`] without its version; `None` if it is damaged, of another format or cannot be read.
pub(super) fn recall(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = files::read_sealed(path).ok()?;
    (bytes.pop() == Some(VERSION)).then_some(bytes)
}

/// Writes a cache for the next scan. Errors are ignored, because they only cost the next scan time.
pub(super) fn remember<T: Serialize>(path: &Path, what: &T) {
    if let Ok(mut bytes) = postcard::to_allocvec(what) {
        bytes.push(VERSION);
        let _ = files::write_sealed(path, bytes);
    }
}
