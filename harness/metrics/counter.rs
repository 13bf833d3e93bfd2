//! Counts patches by token and class, exactly and at memory speed.
//!
//! If `R` is small, every thread has its own table, and the tables are added at the end. If it is larger, each batch is first
//! sorted into ranges of tokens, and one thread counts one range in its cache, without copies or atomics. If `R` does not fit
//! in memory ([`DENSE_CELLS`]), the ranges go to a temporary file. Integer sums do not depend on threads, batches or order.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use tessera_kernels::device::launcher::{Device, DeviceError, Memory};
use tessera_kernels::ops::count::launch;

use super::spill::Spill;
use super::table::{DENSE_CELLS, Ranges, Table};

/// Maximum number of cells for which every thread has its own table (4 MiB).
const COPIED_CELLS: u64 = 1 << 20;
/// Maximum size of all threads' tables together, bytes.
const COPIES: usize = 64 << 20;
/// Cells of a range that one thread counts in its cache.
const CACHED_CELLS: u64 = 1 << 16;
/// Cells of a range that is counted after reading it from the file, and the maximum number of ranges.
const SPILLED_CELLS: u64 = 1 << 20;
const SPILLED_RANGES: u64 = 1 << 10;
/// Pairs sorted at once, and pairs of one task. They are constants because scratch memory grows with them.
const STEP: usize = 1 << 20;
const PIECE: usize = 1 << 16;

/// Reason why counting failed.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// An id is out of range.
    #[error(
        "image {image}: id {id} is not in 0..{codebook_size}, the tokenizer's own codebook size"
    )]
    Id {
        /// Index of the image.
        image: u64,
        /// The id.
        id: u32,
        /// Size of the codebook.
        codebook_size: usize,
    },
    /// A label is out of range.
    #[error("image {image}: label {label} is not in 0..{num_classes}, the dataset's classes")]
    Label {
        /// Index of the image.
        image: u64,
        /// The label.
        label: u32,
        /// Number of classes.
        num_classes: usize,
    },
    /// The ids cannot be divided evenly among the images.
    #[error("{ids} ids for {images} images, expected the same number of patches for each")]
    Shape {
        /// Number of ids.
        ids: usize,
        /// Number of images.
        images: usize,
    },
    /// A temporary file or a file of counts cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The counting device failed.
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
    /// A table per thread, created at first use, and their sum, which is updated before a table may overflow.
    Copied { parts: Vec<Part>, sum: Vec<u64> },
    /// One table, counted range by range.
    Ranged { ranges: Ranges, table: Vec<u64> },
    /// Cells of each range, in order of arrival.
    Spilled { ranges: Ranges, spill: Spill },
    /// One table on a device.
    Device(DeviceCells),
}

/// `counts` `[codes, classes]` on a device, and the number of pairs out of range.
struct DeviceCells {
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
    /// Creates a counter without images. If `R` exceeds [`DENSE_CELLS`], an unnamed temporary file is created in the folder `scratch`.
    /// Memory stays below about 200 MiB for any codebook and any number of images.
    ///
    /// # Panics
    /// If the codebook size or the number of classes is zero.
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

    /// Creates a counter that counts on `device` if `R` is dense.
    ///
    /// # Errors
    /// If device memory is exhausted.
    ///
    /// # Panics
    /// As for [`new`](Self::new).
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
            cells: Cells::Device(DeviceCells {
                device: device.clone(),
                counts: device.put(&vec![0_u64; cells as usize])?,
                outside: device.put(&[0_u64])?,
            }),
        })
    }

    /// Adds images: `ids` `[images, patches]` and `labels` `[images]`.
    ///
    /// # Errors
    /// [`CountError`]. Part of the batch may then be counted.
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
                Cells::Device(device) => device.add(step, size)?,
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

    /// Returns the number of images so far.
    pub fn num_images(&self) -> u64 {
        self.images
    }

    /// Returns `R`.
    ///
    /// # Errors
    /// If the temporary file or the device cannot be read.
    pub fn finish(self) -> Result<Table, CountError> {
        let (codes, classes) = (self.codebook_size, self.num_classes);
        Ok(match self.cells {
            Cells::Copied { mut parts, mut sum } => {
                sum.resize(codes * classes, 0);
                drain(&mut parts, &mut sum);
                Table::dense(codes, classes, sum)
            }
            Cells::Device(device) => Table::dense(codes, classes, device.finish()?),
            Cells::Ranged { table, .. } => Table::dense(codes, classes, table),
            Cells::Spilled { ranges, spill } => Table::spilled(codes, classes, ranges, spill),
        })
    }
}

impl DeviceCells {
    /// Adds a batch. Values out of range are reported on the CPU, before the upload, with the same messages.
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
            let message =
                format!("{outside} pairs were out of range on the device but not on the CPU");
            return Err(CountError::Device(DeviceError::Refused {
                device: self.device.name(),
                message,
            }));
        }
        Ok(self.device.read(&self.counts)?)
    }
}

/// Images with the same number of patches.
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

    /// Splits the batch into parts of about `pairs` pairs and at least one image.
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
        // The maximum is computed first, because it is vectorised and usually sufficient.
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

/// Each thread takes the next free piece and counts it into its own table.
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

/// Adds the threads' tables to `sum` and clears them.
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

/// The cells of a piece within their ranges, range by range.
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
        // Every cell advances its range's position by one, so the positions end as the starts.
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
