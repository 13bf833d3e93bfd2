//! Counts of a split as files: `R` and the tokens of every image. They are written as the images arrive and read in pieces.
//!
//! `R` follows from the images' tokens, but most uses need only `R`. The images are needed for the uncertainty and for new
//! metrics, without recomputing tokens from pixels.

use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tessera_kernels::device::launcher::Device;

use super::counter::{CountError, Counter};
use super::table::Table;
use crate::npy::{self, Matrix, Number, Stream, bad};

/// u32 `[pairs, 3]`, rows (image, token, patches), with ascending images and an image's tokens in order of first occurrence.
pub const IMAGES_FILE: &str = "images.npy";
/// u32 `[images]`: the label of each image.
pub const LABELS_FILE: &str = "images.labels.npy";
/// Approximate number of ids that are counted together, enough for all threads.
const PENDING: usize = 1 << 17;
/// Images per task.
const TILE: usize = 32;

/// Counts images into the files of a folder. Apart from the labels, memory does not grow with the images.
pub struct CountsWriter {
    dir: PathBuf,
    counter: Counter,
    stream: Stream,
    labels: Vec<u32>,
    /// Number of images before the pending ones.
    written: usize,
    ids: Vec<u32>,
    patches: usize,
}

impl CountsWriter {
    /// Creates a writer without images. Files go to the folder `dir`, a temporary file to `scratch`. `R` is counted on `device` if
    /// there is one.
    ///
    /// # Errors
    /// If a file cannot be created, or device memory is exhausted.
    pub fn create(
        dir: &Path,
        scratch: &Path,
        (codebook_size, num_classes): (usize, usize),
        device: Option<&Device>,
    ) -> Result<Self, CountError> {
        let counter = match device {
            Some(device) => Counter::on(device, codebook_size, num_classes, scratch)?,
            None => Counter::new(codebook_size, num_classes, scratch),
        };
        Ok(Self {
            dir: dir.to_owned(),
            counter,
            stream: Stream::create(&dir.join(IMAGES_FILE), Number::U32, 3)?,
            labels: Vec::new(),
            written: 0,
            ids: Vec::new(),
            patches: 0,
        })
    }

    /// Adds images in scan order: `ids` `[images, patches]` and `labels` `[images]`.
    ///
    /// # Errors
    /// [`CountError`]. An id or a label out of range may be reported with a later batch.
    pub fn add(&mut self, ids: &[u32], labels: &[u32]) -> Result<(), CountError> {
        let patches = ids.len() / labels.len().max(1);
        if patches * labels.len() != ids.len() {
            let (ids, images) = (ids.len(), labels.len());
            return Err(CountError::Shape { ids, images });
        }
        if patches != self.patches {
            self.flush()?;
            self.patches = patches;
        }
        self.ids.extend_from_slice(ids);
        self.labels.extend_from_slice(labels);
        if self.ids.len() >= PENDING {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), CountError> {
        self.counter.add(&self.ids, &self.labels[self.written..])?;
        let tiles = self
            .ids
            .par_chunks((TILE * self.patches).max(1))
            .enumerate();
        let (first, patches) = (self.written, self.patches);
        let rows: Vec<Vec<u8>> = tiles
            .map(|(at, ids)| rows(first + at * TILE, ids, patches))
            .collect();
        rows.iter().try_for_each(|rows| self.stream.write(rows))?;
        self.written = self.labels.len();
        self.ids.clear();
        Ok(())
    }

    /// Writes the remaining data.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn finish(mut self) -> Result<Counts, CountError> {
        self.flush()?;
        self.stream.finish()?;
        let path = self.dir.join(LABELS_FILE);
        npy::write(&path, &[self.labels.len()], self.labels.iter().copied())?;
        let mut table = self.counter.finish()?;
        table.save(&self.dir)?;
        Ok(Counts {
            codebook_size: table.codebook_size,
            num_classes: table.num_classes,
            labels: self.labels,
            dir: self.dir,
        })
    }
}

/// Returns the rows of `images.npy` for the images starting at `first`.
fn rows(first: usize, ids: &[u32], patches: usize) -> Vec<u8> {
    let mut index = Index::new(patches);
    let mut bytes = Vec::with_capacity(12 * ids.len());
    let mut pairs = Vec::with_capacity(patches);
    for (image, ids) in (first as u32..).zip(ids.chunks_exact(patches)) {
        index.pairs_of(ids, &mut pairs);
        for (token, patches) in &pairs {
            bytes.extend_from_slice(
                [image, *token, *patches]
                    .map(u32::to_le_bytes)
                    .as_flattened(),
            );
        }
    }
    bytes
}

/// A hash table that finds the pair of a token among those of the current image. Incrementing `image` clears the table, and it fits
/// the L1 cache for any codebook. Sorting an image's ids would be several times as expensive.
struct Index {
    /// (image, token, position of its pair)
    slots: Vec<(u32, u32, u32)>,
    shift: u32,
    image: u32,
}

impl Index {
    fn new(patches: usize) -> Self {
        let slots = (2 * patches).next_power_of_two().max(2);
        Self {
            slots: vec![(0, 0, 0); slots],
            shift: 32 - slots.ilog2(),
            image: 0,
        }
    }

    /// Computes (token, patches) of an image. The number of patches must be at most half the number of slots.
    fn pairs_of(&mut self, ids: &[u32], pairs: &mut Vec<(u32, u32)>) {
        pairs.clear();
        self.image += 1;
        let mask = self.slots.len() - 1;
        for id in ids {
            // Knuth's multiplicative hash: the upper bits of a product.
            let mut at = (id.wrapping_mul(0x9e37_79b1) >> self.shift) as usize;
            loop {
                let (image, token, pair) = self.slots[at];
                if image != self.image {
                    self.slots[at] = (self.image, *id, pairs.len() as u32);
                    pairs.push((*id, 1));
                    break;
                }
                if token == *id {
                    pairs[pair as usize].1 += 1;
                    break;
                }
                at = (at + 1) & mask;
            }
        }
    }
}

/// The counts in a folder. Only the labels are in memory.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Size of the codebook.
    pub codebook_size: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Label of each image.
    pub labels: Vec<u32>,
    dir: PathBuf,
}

impl Counts {
    /// Opens the files that a [`CountsWriter`] wrote into the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or invalid.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (codebook_size, num_classes) = Table::size(dir)?;
        let path = dir.join(LABELS_FILE);
        let labels: Vec<u32> = npy::open(&path)?.into_vec()?;
        if let Some(label) = labels.iter().find(|l| **l as usize >= num_classes) {
            let expected = format!("label {label}, expected 0..{num_classes}");
            return Err(bad(&path, &expected));
        }
        Ok(Self {
            codebook_size,
            num_classes,
            labels,
            dir: dir.to_owned(),
        })
    }

    /// Returns the number of images.
    pub fn num_images(&self) -> usize {
        self.labels.len()
    }

    /// Returns `R`.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn table(&self) -> io::Result<Table> {
        Table::load(&self.dir)
    }

    /// Calls `take` with every (image, token, patches), image by image.
    ///
    /// # Errors
    /// If the file cannot be read or contains an image or a token out of range; errors of `take`.
    pub fn each_pair(
        &self,
        mut take: impl FnMut(u32, u32, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = self.dir.join(IMAGES_FILE);
        Matrix::open(&path, Number::U32, 3)?.each(|piece| {
            for row in piece.as_chunks::<12>().0 {
                let [image, token, patches] =
                    [0, 4, 8].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| row[at + i])));
                if image as usize >= self.labels.len() || token as usize >= self.codebook_size {
                    let (images, codes) = (self.labels.len(), self.codebook_size);
                    let expected = format!("expected 0..{images} and 0..{codes}");
                    return Err(bad(
                        &path,
                        &format!("image {image}, token {token}; {expected}"),
                    ));
                }
                take(image, token, patches)?;
            }
            Ok(())
        })
    }
}
