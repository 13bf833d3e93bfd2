//! The counts of a split as files: `R`, and the tokens of every image, written as the images come and read back in pieces.
//!
//! `R` is a function of the images' tokens, but is what everybody wants; the images are there for the uncertainty, and so that
//! any metric can be added later without touching the pixels.

use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tessera_kernels::device::launcher::Device;

use super::counter::{CountError, Counter};
use super::npy::{self, Matrix, Number, Stream, bad};
use super::table::Table;

/// u32 `[pairs, 3]`, rows (image, token, patches): images ascending, an image's tokens in the order in which they first occur.
pub const IMAGES_FILE: &str = "images.npy";
/// u32 `[images]`: the label of each image.
pub const LABELS_FILE: &str = "images.labels.npy";
/// Ids that are counted together, about: enough for all threads.
const PENDING: usize = 1 << 17;
/// Images of one task.
const TILE: usize = 32;

/// Counts images into the files of a folder, in a memory that does not grow with them but for their labels.
pub struct CountsWriter {
    dir: PathBuf,
    counter: Counter,
    stream: Stream,
    labels: Vec<u32>,
    /// Images before the pending ones.
    written: usize,
    ids: Vec<u32>,
    patches: usize,
}

impl CountsWriter {
    /// No images yet; files are written into the folder `dir`, a temporary one into `scratch`. `R` is counted on `device`, if there is
    /// one.
    ///
    /// # Errors
    /// When a file cannot be made, or the device has no room.
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

    /// Adds images in scan order: `ids` `[images, patches]`, image after image, and `labels` `[images]`.
    ///
    /// # Errors
    /// [`CountError`]; an id or a label out of range may be said with a later batch.
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

    /// Writes what is left.
    ///
    /// # Errors
    /// As [`add`](Self::add).
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

/// Rows of `images.npy` of the images from `first` on.
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

/// Finds the pair of a token among those of the present image: a hash table that is emptied by counting images, and stays in
/// the first cache whatever the codebook. Sorting an image's ids costs several times as much.
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

    /// (token, patches) of an image of at most half as many patches as there are slots.
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
    /// What a [`CountsWriter`] wrote into the folder `dir`.
    ///
    /// # Errors
    /// When a file is absent or is not what it writes.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (codebook_size, num_classes) = Table::size(dir)?;
        let path = dir.join(LABELS_FILE);
        let file = io::BufReader::new(std::fs::File::open(&path)?);
        let labels: Vec<u32> = npyz::NpyFile::new(file)?.into_vec()?;
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

    /// Number of images.
    pub fn num_images(&self) -> usize {
        self.labels.len()
    }

    /// `R`.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn table(&self) -> io::Result<Table> {
        Table::load(&self.dir)
    }

    /// Calls `take` with every (image, token, patches), image by image.
    ///
    /// # Errors
    /// When the file cannot be read, names an image or a token that is not there, and what `take` says.
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
