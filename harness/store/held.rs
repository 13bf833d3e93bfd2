//! A file of an entry that a stage reads for long: a mapped file is read for hours after it was verified.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tessera_models::files;

use super::record::{Record, modified_ns};

/// A held file of at most this many bytes is read again before every result is stored: less than a second. A larger one, such as the decoded
/// pixels of ImageNet, is read again only if a time of it has changed, or could have changed without a trace.
const READ_AGAIN: u64 = 1 << 30;

/// A file whose bytes were those that its stage wrote when it was opened. It stays open, because its name may later lead to another file.
pub struct Held {
    /// The path.
    pub path: PathBuf,
    pub(super) name: String,
    pub(super) record: Arc<Record>,
    file: File,
    modified_ns: i64,
}

impl Held {
    pub(super) fn open(path: PathBuf, name: &str, record: Arc<Record>) -> io::Result<Self> {
        let file = files::open(&path)?;
        Ok(Self {
            name: name.to_owned(),
            record,
            modified_ns: modified_ns(&file.metadata()?),
            file,
            path,
        })
    }

    /// Returns the entry's folder.
    pub(super) fn dir(&self) -> &Path {
        let depth = Path::new(&self.name).components().count();
        self.path.ancestors().nth(depth).unwrap_or(&self.path)
    }

    /// Whether the file has not been written since it was opened, and still has its bytes. A file that cannot be read is not whole.
    pub(super) fn is_whole(&self) -> bool {
        let file = (self.name.as_str(), &self.file);
        let checked = self.record.check_open(file, self.modified_ns, READ_AGAIN);
        checked.unwrap_or(false)
    }
}
