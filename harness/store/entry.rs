//! A finished stage. Its files are compared with their digests before they are read.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tessera_models::files;

use super::error::{StoreError, at, out_at};
use super::folder::Folder;
use super::held::Held;
use super::record::{PROVENANCE, Record};

/// A finished stage.
#[derive(Clone)]
pub struct Entry {
    /// Its folder; read it only through [`file`](Self::file) and [`whole`](Self::whole).
    pub dir: PathBuf,
    /// Its key, which later stages take as an input.
    pub key: String,
    /// What it returned.
    pub result: Value,
    /// Wall time of the computation, seconds.
    pub seconds: f64,
    /// Peak of the process's resident memory during the computation, bytes; `None` if the system does not report it.
    pub peak_bytes: Option<u64>,
    record: Arc<Record>,
    folder: Arc<Folder>,
}

impl Entry {
    pub(super) fn new(folder: Arc<Folder>, dir: PathBuf, record: Record) -> Self {
        Self {
            dir,
            key: record.key.clone(),
            result: record.result.clone(),
            seconds: record.seconds,
            peak_bytes: record.peak_bytes,
            record: Arc::new(record),
            folder,
        }
    }

    /// Whether the stage wrote a file `name`.
    pub fn has(&self, name: &str) -> bool {
        self.record.files.contains_key(name)
    }

    /// Returns the inputs of its key.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn inputs(&self) -> Result<Value, StoreError> {
        let path = self.file(PROVENANCE)?;
        let about = files::read(&path).map_err(at(&path))?;
        // Its digest is that of what was written.
        let mut about: Value = serde_json::from_slice(&about).unwrap_or_default();
        Ok(about["inputs"].take())
    }

    /// The path of the file `name`, whose bytes are those that the stage wrote.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they differ. The entry is damaged; it counts as absent.
    pub fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        self.folder.verify((&self.record, &self.dir), name)
    }

    /// The folder, all of whose files are as the stage wrote them.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn whole(&self) -> Result<&Path, StoreError> {
        for name in self.record.files.keys() {
            self.file(name)?;
        }
        Ok(&self.dir)
    }

    /// As [`file`](Self::file), for a file that is read for long, such as a mapped one. It is compared again before the result of a stage is
    /// stored: of every stage as long as the value lives, and of the present one in any case.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn hold(&self, name: &str) -> Result<Arc<Held>, StoreError> {
        let path = self.file(name)?;
        let held = Held::open(path, name, Arc::clone(&self.record));
        let held = Arc::new(held.map_err(at(&self.dir.join(name)))?);
        self.folder.held().push(Arc::clone(&held));
        Ok(held)
    }

    /// As [`whole`](Self::whole), for files that are read for long. They are compared again when the present stage ends.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn hold_whole(&self) -> Result<&Path, StoreError> {
        for name in self.record.files.keys() {
            self.hold(name)?;
        }
        Ok(&self.dir)
    }

    /// Copies the file `name` to `to`, unless `to` is already a copy. The two may share blocks if the file system copies on write. They are
    /// never the same file, so edits in a run folder do not change the store.
    ///
    /// # Errors
    /// As [`file`](Self::file), or when `to` cannot be written.
    pub fn copy(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        if self.record.is_copied(name, to) && !is_same_file(&self.dir.join(name), to) {
            return Ok(());
        }
        let from = self.file(name)?;
        let beside = files::beside(to);
        let copied = copy(&from, &beside).and_then(|()| {
            let about = fs::metadata(&from)?;
            let modified = about.modified()?;
            // Files of the store may be read-only; their owner may edit the copies.
            fs::set_permissions(&beside, Permissions::from_mode(about.mode() | 0o200))?;
            File::options()
                .write(true)
                .open(&beside)?
                .set_modified(modified)?;
            fs::rename(&beside, to)
        });
        if copied.is_err() {
            let _ = fs::remove_file(&beside);
        }
        copied.map_err(out_at(to))
    }

    /// Removes copies of the stage's files from `folder`, except those named `kept`.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_copies(&self, folder: &Path, kept: &BTreeSet<String>) -> Result<(), StoreError> {
        let names = self.record.files.keys();
        for name in names.filter(|name| !kept.contains(*name)) {
            let path = folder.join(name);
            if self.record.is_copied(name, &path) {
                fs::remove_file(&path).map_err(out_at(&path))?;
            }
        }
        Ok(())
    }
}

/// `fs::copy` fails if a signal interrupts it; this repeats it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        match fs::copy(from, to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            copied => return copied.map(drop),
        }
    }
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(a).is_some_and(|a| Some(a) == id(b))
}
