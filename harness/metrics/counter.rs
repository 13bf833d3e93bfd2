//! Counting patches by token and class, exactly, at the speed of memory.
//!
//! Where `R` is small every thread has a table of its own and they are added at the end. Where it is larger a batch is
//! first sorted into ranges of tokens, so that one thread counts one range, in its cache: no copies and no atomics. Where
//! `R` is too large for memory ([`DENSE_CELLS`]) the ranges go to a temporary file. Integers are added, so the
//! result does not depend on threads, batches or order.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use tessera_kernels::device::launcher::{Device, DeviceError, Memory};
use tessera_kernels::ops::count::launch;

use super::spill::Spill;
use super::table::{Ranges, Table};

/// Cells up to which `R` is dense, in memory and on disk; larger ones are sparse.
pub const DENSE_CELLS: u64 = 1 << 24;
/// Cells up to which every thread has its own table (4 MiB).
const COPIED_CELLS: u64 = 1 << 20;
/// Bytes of all threads' tables together, at most.
const COPIES: usize = 64 << 20;
/// Cells of a range that one thread counts in its cache.
const CACHED_CELLS: u64 = 1 << 16;
/// Cells of a range that is counted when it comes back from the file, and how many ranges there are at most.
const SPILLED_CELLS: u64 = 1 << 20;
const SPILLED_RANGES: u64 = 1 << 10;
/// Pairs that are sorted at once, and pairs of one task: constants, as scratch memory grows with them.
const STEP: usize = 1 << 20;
const PIECE: usize = 1 << 16;

/// What cannot be counted.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CountError {
    #[error(
        "image {image}: id {id} is not in 0..{codebook_size}, the tokenizer's own codebook size"
    )]
    Id {
        image: u64,
        id: u32,
        codebook_size: usize,
    },
    #[error("image {image}: label {label} is not in 0..{num_classes}, the dataset's classes")]
    Label {
        image: u64,
        label: u32,
        num_classes: usize,
    },
    #[error("{ids} ids for {images} images, expected the same number of patches for each")]
    Shape { ids: usize, images: usize },
    /// A temporary file or a file of counts.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The device that counts.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Counts `R[token, class]` of a stream of images, batch by batch, on the current rayon pool.
///
/// ```
/// # fn main() -> Result<(), tessera::metrics::CountError> {
/// let mut counter = tessera::metrics::Counter::new(8192, 100, &std::env::temp_dir());
/// counter.add(&[5, 5, 17, 5], &[0, 99])?; // two images of two patches
/// assert_eq!(counter.finish()?.total()?, 4);
/// # Ok(())
/// # }
/// ```
pub struct Counter {
    codebook_size: usize,
    num_classes: usize,
    images: u64,
    cells: Cells,
}

enum Cells {
    /// A table per thread, made when it is first used, and their sum once one may overflow.
    Copied { parts: Vec<Part>, sum: Vec<u64> },
    /// One table, counted range by range.
    Ranged { ranges: Ranges, table: Vec<u64> },
    /// Cells of each range, as they came.
    Spilled { ranges: Ranges, spill: Spill },
    /// One table on a device.
    There(There),
}

/// `counts` `[codes, classes]` on a device, and how many pairs it found out of range.
struct There {
    device: Device,
    counts: Memory,
    outside: Memory,
}

#[derive(Clone, Default)]
struct Part {
    table: Vec<u32>,
    pairs: usize,
}

impl Counter {
    /// No images yet. `scratch` is a folder for the nameless temporary file of a `R` above [`DENSE_CELLS`]; memory stays
    /// below some 200 MiB for any codebook and any number of images.
    ///
    /// # Panics
    /// When the codebook or the number of classes is zero.
    pub fn new(codebook_size: usize, num_classes: usize, scratch: &Path) -> Self {
        assert!(codebook_size > 0 && num_classes > 0, "R has no cells");
        let cells = codebook_size as u64 * num_classes as u64;
        let ranges = |at_once| Ranges::new(codebook_size, num_classes, at_once);
        let cells = if cells <= COPIED_CELLS {
            let most = (COPIES / (4 * cells as usize)).max(1);
            Cells::Copied {
                parts: vec![Part::default(); rayon::current_num_threads().min(most)],
                sum: Vec::new(),
            }
        } else if cells <= DENSE_CELLS {
            Cells::Ranged {
                ranges: ranges(CACHED_CELLS),
                table: vec![0; cells as usize],
            }
        } else {
            let ranges = ranges(SPILLED_CELLS.max(cells.div_ceil(SPILLED_RANGES)));
            Cells::Spilled {
                spill: Spill::new(scratch, ranges.len()),
                ranges,
            }
        };
        Self {
            codebook_size,
            num_classes,
            images: 0,
            cells,
        }
    }

    /// The same, counted on `device` where `R` is dense.
    ///
    /// # Errors
    /// When the device has no room.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn on(
        device: &Device,
        codebook_size: usize,
        num_classes: usize,
        scratch: &Path,
    ) -> Result<Self, CountError> {
        let cells = codebook_size as u64 * num_classes as u64;
        if cells == 0 || cells > DENSE_CELLS {
            return Ok(Self::new(codebook_size, num_classes, scratch));
        }
        Ok(Self {
            codebook_size,
            num_classes,
            images: 0,
            cells: Cells::There(There {
                device: device.clone(),
                counts: device.put(&vec![0_u64; cells as usize])?,
                outside: device.put(&[0_u64])?,
            }),
        })
    }

    /// Adds images: `ids` `[images, patches]`, image after image, and `labels` `[images]`.
    ///
    /// # Errors
    /// [`CountError`]; part of the batch may then be counted.
    pub fn add(&mut self, ids: &[u32], labels: &[u32]) -> Result<(), CountError> {
        let batch = Batch::new(ids, labels, self.images)?;
        self.images += labels.len() as u64;
        let size = (self.codebook_size, self.num_classes);
        for step in batch.split(STEP) {
            match &mut self.cells {
                Cells::Copied { parts, sum } => count_copied(parts, sum, step, size)?,
                Cells::Ranged { ranges, table } => {
                    let sorted = sorted(ranges, step, size)?;
                    count_ranged(table, ranges.cells(), &sorted);
                }
                Cells::There(there) => there.add(step, size)?,
                Cells::Spilled { ranges, spill } => {
                    let sorted = sorted(ranges, step, size)?;
                    for range in 0..ranges.len() {
                        for piece in &sorted {
                            spill.push(range, piece.of(range))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Number of images so far.
    pub fn num_images(&self) -> u64 {
        self.images
    }

    /// `R`.
    ///
    /// # Errors
    /// When the temporary file or the device cannot be read.
    pub fn finish(self) -> Result<Table, CountError> {
        let (codes, classes) = (self.codebook_size, self.num_classes);
        Ok(match self.cells {
            Cells::Copied { mut parts, mut sum } => {
                sum.resize(codes * classes, 0);
                drain(&mut parts, &mut sum);
                Table::dense(codes, classes, sum)
            }
            Cells::There(there) => Table::dense(codes, classes, there.finish()?),
            Cells::Ranged { table, .. } => Table::dense(codes, classes, table),
            Cells::Spilled { ranges, spill } => Table::spilled(codes, classes, ranges, spill),
        })
    }
}

impl There {
    /// What is out of range is said as on the CPU, before it goes to the device.
    fn add(&self, step: Batch<'_>, size: (usize, usize)) -> Result<(), CountError> {
        step.check(size)?;
        let (ids, labels) = (self.device.put(step.ids)?, self.device.put(step.labels)?);
        let launch = launch::pairs(step.labels.len(), step.patches, size.0, size.1);
        let given = [
            ("ids", &ids),
            ("labels", &labels),
            ("counts", &self.counts),
            ("outside", &self.outside),
        ];
        Ok(self
            .device
            .run(&launch.map_err(DeviceError::from)?, &given)?)
    }

    fn finish(self) -> Result<Vec<u64>, CountError> {
        let outside = self.device.read::<u64>(&self.outside)?[0];
        if outside > 0 {
            let message = format!("{outside} pairs were out of range there, and not here before");
            return Err(CountError::Device(DeviceError::Refused {
                device: self.device.name(),
                message,
            }));
        }
        Ok(self.device.read(&self.counts)?)
    }
}

/// Images of one number of patches.
#[derive(Clone, Copy)]
struct Batch<'a> {
    ids: &'a [u32],
    labels: &'a [u32],
    patches: usize,
    /// Index of the first image in the stream.
    first: u64,
}

impl<'a> Batch<'a> {
    fn new(ids: &'a [u32], labels: &'a [u32], first: u64) -> Result<Self, CountError> {
        let patches = ids.len() / labels.len().max(1);
        if patches * labels.len() != ids.len() {
            return Err(CountError::Shape {
                ids: ids.len(),
                images: labels.len(),
            });
        }
        Ok(Self {
            ids,
            labels,
            patches,
            first,
        })
    }

    /// Parts of about `pairs` pairs, at least one image each.
    fn split(self, pairs: usize) -> impl ExactSizeIterator<Item = Self> {
        let images = (pairs / self.patches.max(1)).max(1);
        let labels = self.labels.chunks(images).enumerate();
        labels.map(move |(at, labels)| {
            let start = at * images;
            Self {
                ids: &self.ids[start * self.patches..(start + labels.len()) * self.patches],
                labels,
                first: self.first + start as u64,
                ..self
            }
        })
    }

    fn check(self, (codes, classes): (usize, usize)) -> Result<(), CountError> {
        // The largest first: that is vector code, and almost always all there is to do.
        let beyond = |values: &[u32], below: usize| {
            let largest = values.iter().max().is_some_and(|v| *v as usize >= below);
            largest.then(|| values.iter().position(|v| *v as usize >= below))?
        };
        if let Some(at) = beyond(self.labels, classes) {
            return Err(CountError::Label {
                image: self.first + at as u64,
                label: self.labels[at],
                num_classes: classes,
            });
        }
        if let Some(at) = beyond(self.ids, codes) {
            return Err(CountError::Id {
                image: self.first + (at / self.patches) as u64,
                id: self.ids[at],
                codebook_size: codes,
            });
        }
        Ok(())
    }

    /// Calls `take` with every (id, label).
    #[inline(always)]
    fn each(self, mut take: impl FnMut(u32, u32)) {
        if self.patches == 1 {
            let pairs = self.ids.iter().zip(self.labels);
            return pairs.for_each(|(id, label)| take(*id, *label));
        }
        let images = self.ids.chunks_exact(self.patches.max(1)).zip(self.labels);
        images.for_each(|(ids, label)| ids.iter().for_each(|id| take(*id, *label)));
    }
}

/// Each thread takes the next piece that nobody has, into a table of its own.
fn count_copied(
    parts: &mut [Part],
    sum: &mut Vec<u64>,
    step: Batch<'_>,
    size: (usize, usize),
) -> Result<(), CountError> {
    let cells = size.0 * size.1;
    let most = parts.iter().map(|part| part.pairs).max().unwrap_or(0);
    if most + step.ids.len() > u32::MAX as usize {
        sum.resize(cells, 0);
        drain(parts, sum);
    }
    let pieces: Vec<Batch<'_>> = step.split(PIECE).collect();
    let next = AtomicUsize::new(0);
    let busy = pieces.len().min(parts.len());
    parts[..busy].par_iter_mut().try_for_each(|part| {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            piece.check(size)?;
            part.table.resize(cells, 0);
            part.pairs += piece.ids.len();
            let (table, classes) = (part.table.as_mut_slice(), size.1);
            piece.each(|id, label| table[id as usize * classes + label as usize] += 1);
        }
        Ok(())
    })
}

/// Adds the threads' tables to `sum` and empties them.
fn drain(parts: &mut [Part], sum: &mut [u64]) {
    let used: Vec<&Part> = parts.iter().filter(|part| part.pairs > 0).collect();
    let chunks = sum.par_chunks_mut(PIECE).enumerate();
    chunks.for_each(|(at, sum)| {
        for part in &used {
            let part = &part.table[at * PIECE..][..sum.len()];
            sum.iter_mut()
                .zip(part)
                .for_each(|(s, n)| *s += u64::from(*n));
        }
    });
    for part in parts.iter_mut().filter(|part| part.pairs > 0) {
        part.table.fill(0);
        part.pairs = 0;
    }
}

/// A piece's cells within their range, range after range.
struct Sorted {
    starts: Vec<u32>,
    cells: Vec<u32>,
}

impl Sorted {
    fn of(&self, range: usize) -> &[u32] {
        &self.cells[self.starts[range] as usize..self.starts[range + 1] as usize]
    }
}

fn sorted(
    ranges: &Ranges,
    step: Batch<'_>,
    size: (usize, usize),
) -> Result<Vec<Sorted>, CountError> {
    let pieces: Vec<Batch<'_>> = step.split(PIECE).collect();
    let sort = |piece: Batch<'_>| {
        piece.check(size)?;
        // Ends up as the starts: a range's place moves on by one with every cell.
        let mut places = vec![0_u32; ranges.len() + 2];
        piece
            .ids
            .iter()
            .for_each(|id| places[ranges.of(*id) + 2] += 1);
        for range in 2..places.len() {
            places[range] += places[range - 1];
        }
        let mut cells = vec![0; piece.ids.len()];
        piece.each(|id, label| {
            let place = &mut places[ranges.of(id) + 1];
            cells[*place as usize] = ranges.cell(id, label);
            *place += 1;
        });
        Ok(Sorted {
            starts: places,
            cells,
        })
    };
    pieces.into_par_iter().map(sort).collect()
}

fn count_ranged(table: &mut [u64], cells: usize, sorted: &[Sorted]) {
    let ranges = table.par_chunks_mut(cells).enumerate();
    ranges.for_each(|(range, table)| {
        for cell in sorted.iter().flat_map(|piece| piece.of(range)) {
            table[*cell as usize] += 1;
        }
    });
}
