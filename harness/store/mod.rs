//! The store: results of stages, found again by everything that determines them.
//!
//! An entry is `STORE/<stage>/<key>/` with `result.json`, `provenance.json` and the stage's files; its key is the digest of
//! its provenance. Resuming, skipping what is done, sharing a codebook between suites and knowing where a number came
//! from are one lookup.
//!
//! An entry is written under a name that nobody else uses, synced and renamed, so it is whole or absent; where two processes
//! computed the same one, the first stays. Locks only save work. `result.json` has the digest of every file and its own: it is
//! compared at every look-up, a file when it is read. A damaged entry is said, moved into `STORE/.damaged`, and computed again.

mod entry;
mod lock;
mod memory;
mod record;
mod upkeep;
mod used;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tessera_models::files;
use tessera_tokenizers::Fingerprint;

pub use entry::Entry;
use lock::{Attempt, Lock};
use record::{Difference, Found, Record};
pub use upkeep::{Listed, gc, is_alive, list, sweep};
use used::Used;

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be read or written.
    #[error("{}: {error}; choose a writable folder with --store DIR or TESSERA_STORE", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file of a run cannot be written.
    #[error("{}: {error}; make room, or choose a writable folder with --out DIR", .path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file of a finished entry is not what the stage wrote. The entry is no longer in the store: whoever asks again computes it.
    #[error("{0}")]
    Damaged(String),
    /// The user asked to stop while another process held the lock.
    #[error("interrupted")]
    Interrupted,
    /// The stage itself failed.
    #[error(transparent)]
    Stage(#[from] anyhow::Error),
}

/// Everything that determines a stage's result.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// "scan", "fit", "count", "pretrain", "knn", "probe", "finetune".
    pub stage: &'static str,
    /// For people: "K-means Pixel, K=50, seed 0". Not part of the key.
    pub label: String,
    /// Config, seed, input fingerprints, stage version, numerics.
    pub inputs: Value,
}

impl Provenance {
    /// The key: BLAKE3 of the inputs' canonical JSON (keys sorted), 32 hex digits.
    pub fn key(&self) -> String {
        let text = canonical(&json!({"stage": self.stage, "inputs": self.inputs}));
        Fingerprint::of(&[text.as_bytes()]).0[..32].to_owned()
    }
}

/// JSON with sorted keys: the same text however the value was put together.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let fields: Vec<String> = keys
                .iter()
                .map(|k| format!("{}:{}", Value::String((*k).clone()), canonical(&map[*k])))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// Where a stage writes.
pub struct Workspace<'a> {
    /// Files of the entry; moved into place when the stage returns.
    pub out: &'a Path,
    /// Resume state, in files of [`files::write_sealed`] only; kept until the stage is finished.
    pub state: &'a Path,
}

/// The store at a folder.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    locks: PathBuf,
    shared: Arc<Shared>,
}

/// What all clones of a store have in common.
struct Shared {
    tell: Option<Box<dyn Fn(&str) + Send + Sync>>,
    damaged: AtomicUsize,
    said_old: AtomicBool,
    used: Used,
}

/// Between two attempts to get what another process has.
const PAUSE: Duration = Duration::from_millis(200);
/// So long a folder that another machine has made may be hidden by this machine's cache of names.
const HIDDEN: Duration = Duration::from_secs(60);
/// In the state folder: seconds spent before an interruption.
const SECONDS: &str = "seconds";

impl Store {
    /// Opens (and makes) the store at `root`, and removes what dead processes of this machine left.
    ///
    /// # Errors
    /// When the folder cannot be written; said before any work.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_dir(root)?;
        // Nameless: whoever opens the same folder meanwhile does not remove it.
        tempfile::tempfile_in(root).map_err(at(root))?;
        upkeep::sweep_store(root);
        Ok(Self {
            root: root.to_owned(),
            locks: root.join(".locks"),
            shared: Arc::new(Shared {
                tell: None,
                damaged: AtomicUsize::new(0),
                said_old: AtomicBool::new(false),
                used: Used::new(root),
            }),
        })
    }

    /// The same store, not cloned yet, that says to `tell` what it finds damaged.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.tell = Some(Box::new(tell));
        }
        self
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many damaged entries and states were moved away: a stage that failed meanwhile may succeed when it is tried again.
    pub fn damaged(&self) -> usize {
        self.shared.damaged.load(Ordering::Relaxed)
    }

    /// The entry of `provenance`, if it is finished and not damaged.
    ///
    /// # Errors
    /// When the system refuses to read what is there.
    pub fn lookup(&self, provenance: &Provenance) -> Result<Option<Entry>, StoreError> {
        let (stage, key) = (provenance.stage, provenance.key());
        let dir = self.dir(stage, &key);
        match record::inspect(&dir, stage, &key).map_err(at(&dir))? {
            Found::Whole(record) => Ok(Some(self.entry(dir, record))),
            Found::Absent | Found::Old | Found::Damaged(_) => Ok(None),
        }
    }

    /// The same, and a damaged entry is moved away. The caller has the key's lock.
    fn take(&self, provenance: &Provenance) -> Result<Option<Entry>, StoreError> {
        let (stage, key) = (provenance.stage, provenance.key());
        let dir = self.dir(stage, &key);
        match record::inspect(&dir, stage, &key).map_err(at(&dir))? {
            Found::Whole(record) => return Ok(Some(self.entry(dir, record))),
            Found::Absent => {}
            Found::Old => {
                if !self.shared.said_old.swap(true, Ordering::Relaxed) {
                    self.tell("entries of an earlier format have no digests: what is needed of them is computed again");
                }
                self.move_away(&dir)?;
            }
            Found::Damaged(difference) => {
                self.set_aside(&dir, &provenance.label, &difference)?;
            }
        }
        Ok(None)
    }

    /// The entry of `provenance`, computed by `stage` when it isn't there yet.
    ///
    /// Waits while another process computes the same one; `interrupted` is asked meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; nothing half-written stays.
    pub fn get_or(
        &self,
        provenance: &Provenance,
        interrupted: &dyn Fn() -> bool,
        stage: impl FnOnce(&Workspace<'_>) -> anyhow::Result<Value>,
    ) -> Result<Entry, StoreError> {
        let key = provenance.key();
        let _lock = self.lock(provenance.stage, &key, interrupted)?;
        if let Some(entry) = self.take(provenance)? {
            return Ok(entry);
        }
        let scratch = Scratch::new(&self.root, &format!("{}-{key}", provenance.stage))?;
        let state = self.root.join(".state").join(provenance.stage).join(&key);
        self.check_state(&state, provenance)?;
        make_dir(&state)?;
        let spent = read_seconds(&state);
        memory::forget_peak();
        let start = Instant::now();
        let result = stage(&Workspace {
            out: &scratch.0,
            state: &state,
        });
        let seconds = spent + start.elapsed().as_secs_f64();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                // Time spent before an interruption belongs to the stage that resumes from the state.
                let spent = seconds.to_string().into_bytes();
                let _ = files::write_sealed(&state.join(SECONDS), spent);
                return Err(error.into());
            }
        };
        let mut record = Record {
            stage: provenance.stage.to_owned(),
            key,
            seconds,
            peak_bytes: memory::peak(),
            result,
            files: Default::default(),
        };
        finish(provenance, &mut record, &scratch.0)?;
        let entry = self.publish(provenance, record, &scratch.0, interrupted)?;
        let _ = fs::remove_dir_all(&state);
        Ok(entry)
    }

    /// Moves a finished folder to its name; where another process was first, its entry stays.
    fn publish(
        &self,
        provenance: &Provenance,
        record: Record,
        out: &Path,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Entry, StoreError> {
        let dir = self.dir(provenance.stage, &record.key);
        let parent = dir.parent().unwrap_or(&self.root);
        make_dir(parent)?;
        let start = Instant::now();
        loop {
            let taken = match fs::rename(out, &dir) {
                Ok(()) => {
                    sync_dir(parent);
                    return Ok(self.entry(dir, record));
                }
                Err(taken) => taken,
            };
            let kinds = [
                io::ErrorKind::DirectoryNotEmpty,
                io::ErrorKind::AlreadyExists,
            ];
            if !kinds.contains(&taken.kind()) {
                return Err(at(&dir)(taken));
            }
            if let Some(theirs) = self.take(provenance)? {
                return Ok(theirs);
            }
            // Moved away, or not visible on this machine yet.
            if fs::symlink_metadata(&dir).is_err() {
                if interrupted() {
                    return Err(StoreError::Interrupted);
                }
                if start.elapsed() > HIDDEN {
                    return Err(at(&dir)(taken));
                }
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn entry(&self, dir: PathBuf, record: Record) -> Entry {
        self.shared.used.note(&record.stage, &record.key);
        Entry::new(self.clone(), dir, record)
    }

    fn dir(&self, stage: &str, key: &str) -> PathBuf {
        self.root.join(stage).join(key)
    }

    /// Resume state whose digest is wrong is no state.
    fn check_state(&self, state: &Path, provenance: &Provenance) -> Result<(), StoreError> {
        upkeep::sweep(state);
        let names = match record::files(state) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(state)(error)),
        };
        for path in names {
            let Err(error) = files::check_sealed(&path) else {
                continue;
            };
            let damaged = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
            if !damaged.contains(&error.kind()) && error.raw_os_error() != Some(libc::EIO) {
                return Err(at(&path)(error));
            }
            let moved = self.move_away(state)?;
            self.tell(&format!(
                "resume state of {} {}: {}: {error}; moved to {}, the stage begins anew",
                provenance.stage,
                provenance.label,
                path.display(),
                moved.display()
            ));
            return Ok(());
        }
        Ok(())
    }

    /// Moves a damaged entry out of the way, and says so.
    fn set_aside(
        &self,
        dir: &Path,
        label: &str,
        difference: &Difference,
    ) -> Result<String, StoreError> {
        let moved = self.move_away(dir)?;
        let message = format!(
            "{} is damaged (found {}, expected {}); the entry of {label:?} is moved to {} and computed again",
            dir.join(&difference.file).display(),
            difference.found,
            difference.expected,
            moved.display()
        );
        self.tell(&message);
        Ok(message)
    }

    /// Moves a folder into `.damaged`; one that is gone has been moved by another process.
    fn move_away(&self, dir: &Path) -> Result<PathBuf, StoreError> {
        let name = dir.strip_prefix(&self.root).unwrap_or(dir);
        let name = name.to_string_lossy().replace('/', "-");
        let name = name.trim_start_matches('.');
        let to = self.root.join(".damaged");
        make_dir(&to)?;
        let to = to.join(format!("{name}-{}", files::nonce()));
        match fs::rename(dir, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(dir)(error)),
            _ => self.shared.damaged.fetch_add(1, Ordering::Relaxed),
        };
        Ok(to)
    }

    fn tell(&self, line: &str) {
        if let Some(tell) = &self.shared.tell {
            tell(line);
        }
    }

    fn attempt(&self, stage: &str, key: &str) -> Result<Attempt, StoreError> {
        make_dir(&self.locks)?;
        let path = self.locks.join(format!("{stage}-{key}"));
        Lock::attempt(&path).map_err(at(&path))
    }

    fn lock(
        &self,
        stage: &str,
        key: &str,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Lock, StoreError> {
        loop {
            match self.attempt(stage, key)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Busy if interrupted() => return Err(StoreError::Interrupted),
                Attempt::Busy => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// A folder under a name of its own, removed when the stage ends without an entry.
struct Scratch(PathBuf);

impl Scratch {
    fn new(root: &Path, prefix: &str) -> Result<Self, StoreError> {
        let dir = root.join(".tmp").join(files::temporary(prefix));
        make_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes provenance and record beside the stage's files, and has the disk keep all of them.
fn finish(provenance: &Provenance, record: &mut Record, out: &Path) -> Result<(), StoreError> {
    let about =
        json!({"stage": provenance.stage, "label": provenance.label, "inputs": provenance.inputs});
    let path = out.join(record::PROVENANCE);
    fs::write(&path, format!("{about:#}\n")).map_err(at(&path))?;
    for path in record::files(out).map_err(at(out))? {
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(at(&path))?;
    }
    record.add_files(out).map_err(at(out))?;
    let path = out.join(record::RECORD);
    files::write_atomic(&path, record.text().as_bytes()).map_err(at(&path))?;
    sync_dir(out);
    Ok(())
}

/// Writes `bytes` beside `path`, syncs and renames: the file is whole or as it was.
///
/// # Errors
/// [`StoreError::Out`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    files::write_atomic(path, bytes).map_err(out_at(path))
}

fn out_at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Out { path, error }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(at(path))
}

/// Best effort: not every file system lets a folder be synced.
fn sync_dir(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { path, error }
}

fn read_seconds(state: &Path) -> f64 {
    let bytes = files::read_sealed(&state.join(SECONDS)).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .trim()
        .parse()
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
