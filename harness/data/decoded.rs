//! `decoded_cache: u8`: the pixels of all images, decoded once into one file that is mapped into memory.
//!
//! The file has no header. It holds the images at their own size, train then val, in scan order, three bytes per pixel. Offsets follow
//! from the scanned sizes. The pixels equal those of decoding, so no result depends on the cache. Reading an image copies nothing.
//! Pages that were read are released from time to time, so the program's memory does not grow with the number of images.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Mmap, UncheckedAdvice};
use tessera_models::files;
use tessera_models::ordered::in_order;
use tessera_tokenizers::{Bytes, Image, Split};

use super::digest::Shape;
use super::error::DataError;

/// Images that a thread decodes at a time, at most.
const BATCH: u64 = 16;
/// Bytes of the images that a thread decodes at a time, unless one is larger.
const PIECE: u64 = 4 << 20;
/// Maximum batches per thread that wait for an earlier one.
const AHEAD: usize = 2;

/// Bytes that are read before their pages are released.
pub const RESIDENT: u64 = 128 << 20;

/// All images of a dataset, mapped.
pub(super) struct Decoded {
    map: Arc<Mmap>,
    pixels: Bytes,
    /// Bytes read since the last release.
    read: AtomicU64,
    /// Offset of each image.
    train: Vec<u64>,
    val: Vec<u64>,
}

impl Decoded {
    /// Maps the file at `path`, which [`write`] wrote.
    ///
    /// # Errors
    /// [`DataError::Path`] if it cannot be mapped, or its size differs from that of the images of train and val.
    pub fn open(path: &Path, [train, val]: [&[Shape]; 2]) -> Result<Self, DataError> {
        let map = Arc::new(mapping(path)?);
        let pixels = Bytes::from_owner(Pages(Arc::clone(&map)));
        let bytes = |shapes: &[Shape]| shapes.iter().map(|s| s.bytes()).sum::<u64>();
        let expected = bytes(train) + bytes(val);
        if pixels.len() as u64 != expected {
            let found = pixels.len();
            return Err(DataError::at(
                path,
                format!("found {found} bytes, expected {expected}"),
            ));
        }
        Ok(Self {
            map,
            pixels,
            read: AtomicU64::new(0),
            train: starts(0, train),
            val: starts(bytes(train), val),
        })
    }

    /// Returns image `index` of a split, which has the size `shape`.
    pub fn image(&self, split: Split, index: usize, shape: Shape) -> Image {
        let starts = match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        };
        let start = starts[index] as usize;
        let (width, height) = shape.size();
        if self.read.fetch_add(shape.bytes(), Ordering::Relaxed) > RESIDENT {
            self.read.store(0, Ordering::Relaxed);
            self.release();
        }
        Image {
            width,
            height,
            rgb: self.pixels.slice(start..start + shape.bytes() as usize),
        }
    }

    /// Releases the file's pages from the program's memory; they stay in the system's cache. Best effort.
    fn release(&self) {
        #[expect(
            unsafe_code,
            reason = "memmap2 marks it unsafe, because private pages would lose what was written"
        )]
        // SAFETY: the mapping is a shared, read-only mapping of a file: nothing was written, and a page that is read again has the
        // same bytes.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

/// Returns the number of images that a thread decodes at a time, of `total` images of `bytes` bytes.
fn batch(total: usize, bytes: u64) -> usize {
    let each = bytes / (total as u64).max(1);
    (PIECE / each.max(1)).clamp(1, BATCH) as usize
}

/// Returns the bytes of the images that are in memory while `total` images of `bytes` bytes are written by `threads` threads.
pub fn written_at_once(total: usize, bytes: u64, threads: usize) -> f64 {
    let images = (batch(total, bytes) * threads * (1 + AHEAD)).min(total);
    bytes as f64 / total.max(1) as f64 * images as f64
}

/// Writes the pixels of `total` images of `bytes` bytes, which `image` returns by number, into the file at `path`, on all threads, with a
/// few images in memory at a time.
///
/// # Errors
/// Errors of `image`, and if the file cannot be written.
pub(super) fn write(
    path: &Path,
    (total, bytes): (usize, u64),
    image: &(dyn Fn(usize) -> Result<Image, DataError> + Sync),
    progress: &(dyn Fn(usize, usize, &str) + Sync),
) -> Result<(), DataError> {
    let refuse = |e: std::io::Error| {
        DataError::at(
            path,
            format!(
                "{e}; free some disk space, choose another --store, or leave out `decoded_cache`"
            ),
        )
    };
    let mut file = BufWriter::new(File::create(path).map_err(refuse)?);
    let batch = batch(total, bytes);
    let make = |at: usize| -> Result<Vec<Image>, DataError> {
        let images = at * batch..((at + 1) * batch).min(total);
        images.map(image).collect()
    };
    let ahead = AHEAD * rayon::current_num_threads();
    in_order(total.div_ceil(batch), ahead, make, |at, images| {
        for image in &images {
            file.write_all(&image.rgb).map_err(refuse)?;
        }
        progress((at * batch + images.len()).min(total), total, "images");
        Ok(())
    })?;
    file.flush().map_err(refuse)
}

fn starts(first: u64, shapes: &[Shape]) -> Vec<u64> {
    let starts = shapes.iter().scan(first, |next, shape| {
        let start = *next;
        *next += shape.bytes();
        Some(start)
    });
    starts.collect()
}

/// A shared mapping.
struct Pages(Arc<Mmap>);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a finished file of the store.
///
/// # Errors
/// [`DataError::Path`] if it cannot be read.
pub fn map(path: &Path) -> Result<Bytes, DataError> {
    Ok(Bytes::from_owner(mapping(path)?))
}

fn mapping(path: &Path) -> Result<Mmap, DataError> {
    let refuse = |e: std::io::Error| DataError::at(path, e.to_string());
    let file = files::open(path).map_err(refuse)?;
    #[expect(unsafe_code, reason = "a mapping has no safe form")]
    // SAFETY: a file of the store is written under another name, synced and renamed once. This program never changes or shortens it
    // afterwards, and removing it (`bench store gc`) keeps the mapping intact. If a user truncates it, reads raise SIGBUS, as for
    // any mapping.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(refuse)
}
