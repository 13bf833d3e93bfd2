//! A shard as a tar archive: whether it is one, and whether it is complete.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tar::Archive;
use tessera_models::foreign::lost;
use tessera_models::{ReadOn, files};

use crate::data::error::DataError;
use crate::data::foreign::told;

/// Bytes of a block of a tar archive.
const BLOCK: u64 = 512;
/// Maximum bytes of zeros at the end of an archive. `tar` fills the last record up, which has 10 KiB, or more with `--blocking-factor`.
const RECORD: u64 = 16 << 20;
/// Bytes of a record of `tar` and Python, to which they fill an archive up. Others are powers of two, at most [`RECORD`].
const FILLED: u64 = 20 * BLOCK;
/// Bytes of zeros with which an archive ends.
const MARK: u64 = 2 * BLOCK;
/// Bytes that tell the format of a file.
const FIRST: u64 = 64;
/// First bytes of compressed files, their format, and the tool that unpacks them.
const COMPRESSED: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
];

/// What the beginning of a shard tells.
pub struct Begin {
    /// Bytes of the shard.
    pub length: u64,
    first: Vec<u8>,
}

impl Begin {
    /// Returns the error of a shard at `path` that is not an archive because of `error`.
    pub fn refuse(&self, path: &Path, error: &io::Error) -> DataError {
        // A name in the first header may look like another format.
        let what = told(&self.first).map_or_else(|| error.to_string(), |what| format!("it {what}"));
        DataError::at(
            path,
            format!(
                "is not a complete tar archive ({what}); expected a .tar of images and labels; write or copy it again"
            ),
        )
    }
}

/// The archive in a shard.
type Tar = Archive<BufReader<ReadOn<File>>>;

/// Opens a shard. Its archive is read also behind an end-of-archive mark, where `cat` appends another archive.
///
/// # Errors
/// If it cannot be read, or is empty or compressed.
pub fn open(path: &Path) -> Result<(Tar, Begin), DataError> {
    let refuse = |e: io::Error| DataError::at(path, e.to_string());
    let mut file = files::open(path).map_err(refuse)?;
    let length = file.metadata().map_err(refuse)?.len();
    let mut first = Vec::new();
    let mut begin = (&mut file).take(FIRST);
    begin.read_to_end(&mut first).map_err(refuse)?;
    // An empty archive begins with zeros, and another may follow it.
    if let Some(what) = lost(&first).filter(|_| first.first() != Some(&0)) {
        return Err(DataError::at(
            path,
            format!("{what}; expected a .tar of images and labels"),
        ));
    }
    let mut compressed = COMPRESSED.iter();
    if let Some((_, kind, tool)) = compressed.find(|(magic, ..)| first.starts_with(magic)) {
        return Err(DataError::at(
            path,
            format!(
                "is compressed ({kind}), expected a plain .tar, because images are read from any position; unpack it with `{tool}`"
            ),
        ));
    }
    file.rewind().map_err(refuse)?;
    let mut archive = Archive::new(BufReader::new(ReadOn(file)));
    archive.set_ignore_zeros(true);
    Ok((archive, Begin { length, first }))
}

/// Checks that the first file of a shard, if it has one, is that of an archive. The rest is for the scan.
///
/// # Errors
/// As for [`open`], and if it is not an archive.
pub fn check(path: &Path) -> Result<(), DataError> {
    let (mut archive, begin) = open(path)?;
    let entry = archive.entries_with_seek();
    let entry = entry.and_then(|mut entries| entries.next().transpose());
    entry.map_err(|e| begin.refuse(path, &e))?;
    Ok(())
}

/// Finds where an archive ends in a file of several, which `cat` writes.
#[derive(Default)]
pub struct Ends {
    /// Start of the present archive.
    start: u64,
    /// The file, once it is read.
    file: Option<File>,
}

impl Ends {
    /// Checks the bytes from the end of a file in the shard at `path` to the header of the next one. They are zeros if an archive ends there
    /// and another begins; more zeros than an archive ends with are files that were lost.
    ///
    /// # Errors
    /// If the shard cannot be read, or has such zeros.
    pub fn check(&mut self, path: &Path, end: u64, header: u64) -> Result<(), DataError> {
        let end = end.next_multiple_of(BLOCK);
        if header < end + MARK {
            return Ok(());
        }
        let refuse = |e: io::Error| DataError::at(path, e.to_string());
        let file = match self.file.take() {
            Some(file) => file,
            None => files::open(path).map_err(refuse)?,
        };
        let next = end + zeros(&file, end, header).map_err(refuse)?;
        self.file = Some(file);
        // Without zeros, these are headers of a long name.
        if next == end {
            return Ok(());
        }
        let (zeros, length) = (next - end, next - self.start);
        let of_record = |record: u64| length.is_multiple_of(record) && zeros < MARK + record;
        let mut larger = (14..=24).map(|bits| 1_u64 << bits);
        // An archive without files may lie between.
        let of_usual = length.is_multiple_of(FILLED) && zeros <= RECORD;
        let is_filled = of_usual || larger.any(of_record);
        if zeros > MARK && !is_filled {
            return Err(truncated(
                path,
                &format!(
                    "bytes {end} to {next} are zeros, expected files or the end of an archive"
                ),
            ));
        }
        self.start = next;
        Ok(())
    }
}

/// Returns the bytes of the blocks of zeros that a file has from byte `from`, and that end at byte `to` at most.
fn zeros(mut file: &File, from: u64, to: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut blocks = BufReader::new(file.take(to - from));
    let (mut block, mut count) = ([0; BLOCK as usize], 0);
    while count < to - from {
        blocks.read_exact(&mut block)?;
        if block.iter().any(|byte| *byte != 0) {
            break;
        }
        count += BLOCK;
    }
    Ok(count)
}

/// Returns whether the archive ends with a block of zeros. Without one, and with bytes missing from its last block, it is truncated.
///
/// # Errors
/// If it is truncated.
pub fn ends(path: &Path, end: u64, length: u64) -> Result<bool, DataError> {
    let at = end.next_multiple_of(BLOCK);
    match length.checked_sub(at) {
        Some(0) => Ok(false),
        // The archive was read to its end, so these are zeros: the mark, and what fills a record up.
        Some(BLOCK..=RECORD) => Ok(true),
        Some(zeros @ BLOCK..) => Err(truncated(
            path,
            &format!("its last {zeros} bytes are zeros, expected files or at most {RECORD} zeros"),
        )),
        _ => Err(truncated(
            path,
            &format!("its last block ends at byte {at}, the file has {length} and is not complete"),
        )),
    }
}

/// Returns the error of a truncated archive.
pub fn truncated(path: &Path, why: &str) -> DataError {
    DataError::at(path, format!("is truncated: {why}; write or copy it again"))
}
