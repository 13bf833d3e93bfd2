//! `.npy` files that are written row by row and read in pieces, so that no file is completely in memory.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use tessera_models::files;
use tessera_tokenizers::numpy;

/// Size of a header in bytes. It is fixed, so that the number of rows can be written at the end.
const HEADER: usize = 128;
/// Approximate number of bytes read at once.
const PIECE: usize = 1 << 18;

/// Writes a `.npy` file of `shape`.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[usize],
    values: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(file)
        .begin_nd()?;
    writer.extend(values)?;
    writer.finish()
}

/// As [`write`], in place of a file that exists, which stays whole if this fails.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn replace<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[usize],
    values: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let beside = files::beside(path);
    let written = write(&beside, shape, values).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Element type of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// Little-endian u32.
    U32,
    /// Little-endian u64.
    U64,
}

impl Number {
    fn name(self) -> &'static str {
        match self {
            Self::U32 => "<u4",
            Self::U64 => "<u8",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

/// A `[rows, columns]` file being written. Its header says zero rows until [`finish`](Self::finish).
pub(crate) struct Stream {
    file: BufWriter<File>,
    number: Number,
    columns: usize,
    bytes: u64,
}

impl Stream {
    /// Creates the file, with a header of zero rows.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn create(path: &Path, number: Number, columns: usize) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(PIECE, File::create(path)?);
        file.write_all(&header(number, 0, columns))?;
        Ok(Self {
            file,
            number,
            columns,
            bytes: 0,
        })
    }

    /// Appends whole rows, little-endian.
    pub(crate) fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        self.bytes += rows.len() as u64;
        self.file.write_all(rows)
    }

    /// Writes the number of rows into the header and returns it.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let rows = self.bytes / (self.number.bytes() * self.columns) as u64;
        self.file.seek(SeekFrom::Start(0))?;
        self.file
            .write_all(&header(self.number, rows, self.columns))?;
        self.file.flush()?;
        Ok(rows)
    }
}

/// Returns a header of format version 1.0: magic, length, and a Python dictionary padded with spaces to [`HEADER`] bytes.
fn header(number: Number, rows: u64, columns: usize) -> Vec<u8> {
    let name = number.name();
    let about =
        format!("{{'descr': '{name}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(((HEADER - 10) as u16).to_le_bytes());
    out.extend(format!("{about:<width$}\n", width = HEADER - 11).bytes());
    out
}

/// A `[rows, columns]` file opened for reading.
pub(crate) struct Matrix {
    path: PathBuf,
    reader: BufReader<File>,
    row: usize,
    rows: u64,
    start: u64,
}

impl Matrix {
    /// Opens `path` and checks that it has `columns` columns of `number`.
    pub(crate) fn open(path: &Path, number: Number, columns: usize) -> io::Result<Self> {
        let mut reader = BufReader::new(files::open(path)?);
        let header = numpy::header(&mut reader)?;
        let (found, kind) = (header.shape().to_vec(), header.dtype().descr());
        let &[rows, width] = found.as_slice() else {
            return Err(bad(path, &format!("shape {found:?}, expected two sizes")));
        };
        let length = reader.get_ref().metadata()?.len();
        if rows > length {
            return Err(bad(
                path,
                &format!("{rows} rows, the file has {length} bytes"),
            ));
        }
        if width != columns as u64 || kind != format!("'{}'", number.name()) {
            let expected = format!("{columns} columns of {}", number.name());
            let found = format!("{width} columns of {kind}, expected {expected}");
            return Err(bad(path, &found));
        }
        Ok(Self {
            path: path.to_owned(),
            start: reader.stream_position()?,
            reader,
            row: number.bytes() * columns,
            rows,
        })
    }

    /// Calls `take` with all rows, in pieces of whole rows.
    pub(crate) fn each(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(self.start))?;
        let at_once = (PIECE / self.row).max(1) as u64;
        let mut piece = vec![0; self.row * at_once.min(self.rows) as usize];
        let mut left = self.rows;
        while left > 0 {
            let rows = left.min(at_once);
            let piece = &mut piece[..rows as usize * self.row];
            self.reader.read_exact(piece).map_err(|e| {
                bad(
                    &self.path,
                    &format!("{left} rows are missing at its end ({e})"),
                )
            })?;
            take(piece)?;
            left -= rows;
        }
        Ok(())
    }

    /// Returns the last row, or `None` if there are no rows.
    pub(crate) fn last(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(before) = self.rows.checked_sub(1) else {
            return Ok(None);
        };
        let at = self.start + before * self.row as u64;
        self.reader.seek(SeekFrom::Start(at))?;
        let mut row = vec![0; self.row];
        self.reader.read_exact(&mut row)?;
        Ok(Some(row))
    }
}

/// Opens the `.npy` file at `path`.
///
/// # Errors
/// If it cannot be opened or has no valid header.
pub(crate) fn open(path: &Path) -> io::Result<npyz::NpyFile<BufReader<File>>> {
    numpy::open(BufReader::new(files::open(path)?))
}

/// Returns the error for an invalid file.
pub(crate) fn bad(path: &Path, what: &str) -> io::Error {
    let message = format!("{}: {what}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_valid_npy_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let rows = 3 * PIECE / 12;
        let values: Vec<u32> = (0..3 * rows as u32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut stream = Stream::create(&path, Number::U32, 3).unwrap();
        bytes
            .chunks(12 * 1000)
            .for_each(|part| stream.write(part).unwrap());
        assert_eq!(stream.finish().unwrap(), rows as u64);
        let file = npyz::NpyFile::new(BufReader::new(File::open(&path).unwrap())).unwrap();
        assert_eq!(file.shape(), [rows as u64, 3]);
        assert_eq!(file.into_vec::<u32>().unwrap(), values);
        let mut matrix = Matrix::open(&path, Number::U32, 3).unwrap();
        for _ in 0..2 {
            let mut read = Vec::new();
            matrix
                .each(|piece| {
                    read.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            assert_eq!(read, bytes);
        }
        assert_eq!(matrix.last().unwrap().unwrap(), bytes[bytes.len() - 12..]);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        write(&path, &[2, 3], [0_i64; 6]).unwrap();
        let error = Matrix::open(&path, Number::U32, 3)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("a.npy: 3 columns of '<i8', expected 3 columns of <u4"),
            "{error}"
        );
        let mut stream = Stream::create(&path, Number::U32, 3).unwrap();
        stream.write(&[0; 24]).unwrap();
        stream.finish().unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(140)
            .unwrap();
        let mut matrix = Matrix::open(&path, Number::U32, 3).unwrap();
        assert!(
            matrix
                .each(|_| Ok(()))
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }
}
