//! A finished stage. Its files are compared with their digests before they are read.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tessera_models::files;

use super::error::{StoreError, at, out_at};
use super::folder::Folder;
use super::lock::{Attempt, is_stale};
use super::record::Record;

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

    /// The path of the file `name`, whose bytes are those that the stage wrote.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they differ. The entry is damaged; it counts as absent.
    pub fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(name);
        let gone = || {
            self.folder.damaged.fetch_add(1, Ordering::Relaxed);
            let path = path.display();
            StoreError::Damaged(format!(
                "{path} is gone: another process has removed or moved its entry"
            ))
        };
        let check = || match self.record.check(&self.dir, name) {
            Err(error) if is_stale(&error) => Err(gone()),
            checked => checked.map_err(at(&path)),
        };
        if check()?.is_ok() {
            return Ok(path);
        }
        if fs::symlink_metadata(&self.dir).is_err() {
            return Err(gone());
        }
        let (stage, key) = (&self.record.stage, &self.record.key);
        let Attempt::Taken(_lock) = self.folder.attempt(stage, key)? else {
            self.folder.damaged.fetch_add(1, Ordering::Relaxed);
            let path = path.display();
            return Err(StoreError::Damaged(format!(
                "{path} is damaged, and another process is computing it again"
            )));
        };
        // Another process may have replaced it by a whole one.
        let Err(difference) = check()? else {
            return Ok(path);
        };
        let label = format!("{stage} {key:.12}");
        let message = self.folder.set_aside(&self.dir, &label, &difference)?;
        Err(StoreError::Damaged(message))
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
            let modified = fs::metadata(&from)?.modified()?;
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
