//! `R[token, class]`: dense in memory if small, otherwise row by row from a file.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::spill::Spill;
use super::sums::{Sums, Values};
use crate::npy::{self, Matrix, Number, Stream, bad};

/// Maximum number of cells of a dense `R`, in memory and on disk. A larger `R` is sparse.
pub const DENSE_CELLS: u64 = 1 << 24;
/// Cells per patch above which the patches of a range are sorted and not counted in a table.
const SPARSE: usize = 16;
/// Maximum number of patches, so that sums of counts are exact in f64.
const PATCHES: u64 = 1 << 53;
/// File of an `R` of at most [`DENSE_CELLS`] cells: u64 `[codes, classes]`.
pub const DENSE_FILE: &str = "counts.npy";
/// File of a larger `R`: u64 `[entries, 3]`, rows (token, class, patches) in ascending order without zeros. Only the last row, which
/// is always that of the last token and class, may have zero patches. It gives the size of `R`, also for
/// `scipy.sparse.coo_array`.
pub const SPARSE_FILE: &str = "counts-sparse.npy";

/// The counts `R[token, class]`, exact.
pub struct Table {
    /// Size of the codebook.
    pub codebook_size: usize,
    /// Number of classes.
    pub num_classes: usize,
    cells: Cells,
}

enum Cells {
    Dense(Vec<u64>),
    Spilled(Ranges, Spill),
    File(PathBuf),
}

/// Ranges of tokens, each of a power of two.
pub(super) struct Ranges {
    codes: usize,
    classes: usize,
    shift: u32,
}

impl Ranges {
    /// Creates ranges of about `at_once` cells and at least one token.
    pub(super) fn new(codes: usize, classes: usize, at_once: u64) -> Self {
        let tokens = (at_once / classes as u64).max(1);
        Self {
            codes,
            classes,
            shift: tokens.ilog2(),
        }
    }

    /// Returns the number of ranges.
    pub(super) fn len(&self) -> usize {
        self.codes.div_ceil(1 << self.shift)
    }

    /// Returns the number of cells of a range. The last range may have fewer.
    pub(super) fn cells(&self) -> usize {
        self.classes << self.shift
    }

    #[inline(always)]
    pub(super) fn of(&self, id: u32) -> usize {
        (id >> self.shift) as usize
    }

    /// Returns the cell of a patch within its range.
    #[inline(always)]
    pub(super) fn cell(&self, id: u32, label: u32) -> u32 {
        (id & ((1 << self.shift) - 1)) * self.classes as u32 + label
    }

    fn tokens(&self, range: usize) -> Range<usize> {
        let start = range << self.shift;
        start..self.codes.min(start + (1 << self.shift))
    }
}

/// Receives a row: its token, and (class, patches) in ascending order without zeros.
type TakeRow<'a> = &'a mut dyn FnMut(u32, &[(u32, u64)]) -> io::Result<()>;

impl Table {
    /// Creates a table from the row-major `R` `[codebook_size, num_classes]`.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn dense(codebook_size: usize, num_classes: usize, cells: Vec<u64>) -> Self {
        assert_eq!(cells.len(), codebook_size * num_classes, "cells of R");
        Self {
            codebook_size,
            num_classes,
            cells: Cells::Dense(cells),
        }
    }

    pub(super) fn spilled(codes: usize, classes: usize, ranges: Ranges, spill: Spill) -> Self {
        Self {
            codebook_size: codes,
            num_classes: classes,
            cells: Cells::Spilled(ranges, spill),
        }
    }

    /// Returns all cells if `R` is dense.
    pub fn as_dense(&self) -> Option<&[u64]> {
        match &self.cells {
            Cells::Dense(cells) => Some(cells),
            _ => None,
        }
    }

    /// Calls `take` with every token that occurs, in ascending order, and its (class, patches), in ascending order
    /// without zeros.
    ///
    /// # Errors
    /// If a file cannot be read; errors of `take`.
    pub fn each_row(
        &mut self,
        mut take: impl FnMut(u32, &[(u32, u64)]) -> io::Result<()>,
    ) -> io::Result<()> {
        match &mut self.cells {
            Cells::Dense(cells) => dense_rows(cells, self.num_classes, 0, &mut take),
            Cells::Spilled(ranges, spill) => {
                (0..spill.len()).try_for_each(|range| range_rows(ranges, spill, range, &mut take))
            }
            Cells::File(path) => {
                let sizes = [self.codebook_size, self.num_classes];
                sparse_rows(path, sizes.map(|n| n as u64), &mut take)
            }
        }
    }

    /// Returns the number of patches.
    ///
    /// # Errors
    /// As for [`each_row`](Self::each_row).
    pub fn total(&mut self) -> io::Result<u64> {
        let mut total = 0;
        self.each_row(|_, row| {
            total += row.iter().map(|(_, n)| n).sum::<u64>();
            Ok(())
        })?;
        Ok(total)
    }

    /// Computes every metric with the temperature `sharp_t` of `tcas_sharp`. A sparse `R` stays sparse.
    ///
    /// # Errors
    /// As for [`each_row`](Self::each_row).
    pub fn values(&mut self, sharp_t: f64) -> io::Result<Values> {
        let mut class_sums = vec![0_u64; self.num_classes];
        self.each_row(|_, row| {
            row.iter()
                .for_each(|(class, n)| class_sums[*class as usize] += n);
            Ok(())
        })?;
        let class_sums = class_sums.into_iter().map(|n| n as f64).collect();
        let mut sums = Sums::new(class_sums, sharp_t);
        let mut cells = Vec::new();
        self.each_row(|_, row| {
            cells.clear();
            cells.extend(row.iter().map(|(class, n)| (*class, *n as f64)));
            sums.add_row(&cells);
            Ok(())
        })?;
        Ok(sums.values())
    }

    /// Writes [`DENSE_FILE`] or, above [`DENSE_CELLS`] cells, [`SPARSE_FILE`] into the folder `dir`.
    ///
    /// # Errors
    /// If a file cannot be written or read.
    pub fn save(&mut self, dir: &Path) -> io::Result<()> {
        let (codes, classes) = (self.codebook_size, self.num_classes);
        if let Cells::Dense(cells) = &self.cells
            && cells.len() as u64 <= DENSE_CELLS
        {
            let path = dir.join(DENSE_FILE);
            return npy::write(&path, &[codes, classes], cells.iter().copied());
        }
        let mut stream = Stream::create(&dir.join(SPARSE_FILE), Number::U64, 3)?;
        let corner = [codes as u64 - 1, classes as u64 - 1];
        let (mut last, mut bytes) = ([u64::MAX; 2], Vec::new());
        self.each_row(|token, row| {
            bytes.clear();
            for (class, n) in row {
                last = [u64::from(token), u64::from(*class)];
                let cell = [last[0], last[1], *n].map(u64::to_le_bytes);
                bytes.extend_from_slice(cell.as_flattened());
            }
            stream.write(&bytes)
        })?;
        if last != corner {
            let row = [corner[0], corner[1], 0].map(u64::to_le_bytes);
            stream.write(row.as_flattened())?;
        }
        stream.finish()?;
        Ok(())
    }

    /// Opens a table written by [`save`](Self::save). A sparse `R` stays in its file.
    ///
    /// # Errors
    /// If the file is missing or invalid.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let sparse = dir.join(SPARSE_FILE);
        if sparse.exists() {
            let last = Matrix::open(&sparse, Number::U64, 3)?.last()?;
            let last = last.ok_or_else(|| bad(&sparse, "no rows, expected at least one"))?;
            let [token, class, _] = triple(&last);
            if token >= u64::from(u32::MAX) || class >= DENSE_CELLS {
                return Err(bad(
                    &sparse,
                    &format!("code {token} of class {class} in its last row"),
                ));
            }
            return Ok(Self {
                codebook_size: token as usize + 1,
                num_classes: class as usize + 1,
                cells: Cells::File(sparse),
            });
        }
        let path = dir.join(DENSE_FILE);
        let (file, codes, classes) = open_dense(&path)?;
        let cells: Vec<u64> = file.into_vec()?;
        cells.iter().try_fold(0, |total, n| add(&path, total, *n))?;
        Ok(Self::dense(codes, classes, cells))
    }

    /// Returns codes and classes of a table written by [`save`](Self::save).
    pub(super) fn size(dir: &Path) -> io::Result<(usize, usize)> {
        if dir.join(SPARSE_FILE).exists() {
            let table = Self::load(dir)?;
            return Ok((table.codebook_size, table.num_classes));
        }
        let (_, codes, classes) = open_dense(&dir.join(DENSE_FILE))?;
        Ok((codes, classes))
    }
}

fn open_dense(path: &Path) -> io::Result<(npyz::NpyFile<impl io::Read + use<>>, usize, usize)> {
    let file = npy::open(path)?;
    match *file.shape() {
        [codes, classes] if codes > 0 && classes > 0 => {
            Ok((file, codes as usize, classes as usize))
        }
        _ => Err(bad(path, "not a matrix with rows and columns")),
    }
}

/// Adds to the number of patches in a file.
///
/// # Errors
/// If it exceeds [`PATCHES`].
fn add(path: &Path, total: u64, n: u64) -> io::Result<u64> {
    let sum = total.checked_add(n).filter(|sum| *sum <= PATCHES);
    sum.ok_or_else(|| bad(path, &format!("counts of more than {PATCHES} patches")))
}

/// Visits the rows of a range of tokens.
fn range_rows(
    ranges: &Ranges,
    spill: &mut Spill,
    range: usize,
    take: TakeRow<'_>,
) -> io::Result<()> {
    let (tokens, classes) = (ranges.tokens(range), ranges.classes);
    let first = tokens.start as u32;
    let patches = spill.words(range);
    // Time would grow with the square of the codebook if the classes are codes, too.
    if patches < tokens.len() * classes / SPARSE {
        let mut cells = Vec::with_capacity(patches);
        spill.each(range, |words| cells.extend_from_slice(words))?;
        cells.sort_unstable();
        return sorted_rows(&cells, classes as u32, first, take);
    }
    let mut cells = vec![0_u64; tokens.len() * classes];
    spill.each(range, |words| {
        words.iter().for_each(|cell| cells[*cell as usize] += 1);
    })?;
    dense_rows(&cells, classes, first, take)
}

/// Visits the rows of patches, of which each is its cell, in ascending order.
fn sorted_rows(patches: &[u32], classes: u32, first: u32, take: TakeRow<'_>) -> io::Result<()> {
    let mut row = Vec::new();
    for of_token in patches.chunk_by(|a, b| a / classes == b / classes) {
        row.clear();
        let of_cells = of_token.chunk_by(|a, b| a == b);
        row.extend(of_cells.map(|cell| (cell[0] % classes, cell.len() as u64)));
        take(first + of_token[0] / classes, &row)?;
    }
    Ok(())
}

fn dense_rows(cells: &[u64], classes: usize, first: u32, take: TakeRow<'_>) -> io::Result<()> {
    let mut row = Vec::new();
    for (cells, token) in cells.chunks_exact(classes).zip(first..) {
        row.clear();
        row.extend(
            (0..)
                .zip(cells)
                .filter(|(_, n)| **n > 0)
                .map(|(c, n)| (c, *n)),
        );
        if !row.is_empty() {
            take(token, &row)?;
        }
    }
    Ok(())
}

fn sparse_rows(path: &Path, sizes: [u64; 2], take: TakeRow<'_>) -> io::Result<()> {
    let (mut token, mut row, mut total) = (0, Vec::new(), 0);
    Matrix::open(path, Number::U64, 3)?.each(|bytes| {
        for [of, class, n] in bytes.chunks_exact(24).map(triple) {
            if of >= sizes[0] || class >= sizes[1] {
                let row = format!("code {of} of class {class}, expected less than {sizes:?}");
                return Err(bad(path, &row));
            }
            total = add(path, total, n)?;
            if of != token && !row.is_empty() {
                take(token as u32, &row)?;
                row.clear();
            }
            token = of;
            if n > 0 {
                row.push((class as u32, n));
            }
        }
        Ok(())
    })?;
    if row.is_empty() {
        Ok(())
    } else {
        take(token as u32, &row)
    }
}

fn triple(bytes: &[u8]) -> [u64; 3] {
    let mut numbers = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| u64::from_le_bytes(*b));
    std::array::from_fn(|_| numbers.next().unwrap_or_default())
}
