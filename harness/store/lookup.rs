//! Looks a stage up, or computes it once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use serde_json::{Value, json};
use tessera_models::files;

use super::entry::Entry;
use super::error::{StoreError, at, make_dir, of_stage};
use super::folder::Folder;
use super::left::file_name;
use super::lock::{Attempt, Lock, is_stale};
use super::memory;
use super::mount::Mount;
use super::provenance::Provenance;
use super::record::{self, Found, Record};
use super::upkeep::sweep_store;

/// The folders that a stage writes to.
pub struct Workspace<'a> {
    /// Files of the entry; moved into place when the stage returns.
    pub out: &'a Path,
    /// Resume state, in files of [`files::write_sealed`] only; removed when the stage is finished.
    pub state: &'a Path,
}

impl Workspace<'_> {
    /// Removes the resume state, which no later run may use. Returns `error`, and says if the state cannot be removed.
    pub fn forget(&self, error: anyhow::Error) -> anyhow::Error {
        forget_state(self.state, error.into()).into()
    }
}

/// The store at a folder.
#[derive(Clone)]
pub struct Store {
    pub(super) folder: Arc<Folder>,
    /// Whether entries of an earlier format were reported.
    reported_old: Arc<AtomicBool>,
}

/// Pause between two attempts while another process holds a lock.
const PAUSE: Duration = Duration::from_millis(200);
/// Pauses until a user is told that a stage waits.
const QUIET: u64 = 10;
/// Limit of the time for which this machine's cache of names may hide a folder of another machine. Above NFS's default of 60 s (`acdirmax`).
const HIDDEN: Duration = Duration::from_secs(90);
/// Limit of the attempts in a store that damages every file.
const MOST: usize = 64;
/// File of the state folder with the seconds spent before an interruption.
const SECONDS: &str = "seconds";

impl Store {
    /// Opens or creates the store at `root`, and removes the temporary files of this machine's dead processes.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_dir(root)?;
        // Without a name, so that no other process removes it.
        tempfile::tempfile_in(root).map_err(at(root))?;
        sweep_store(root);
        Ok(Self {
            folder: Arc::new(Folder::new(root)),
            reported_old: Arc::default(),
        })
    }

    /// Sends the store's messages to `tell`. Call it before the store is cloned.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        if let Some(folder) = Arc::get_mut(&mut self.folder) {
            folder.tell = Some(Box::new(tell));
        }
        self
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.folder.root
    }

    /// Returns [`hidden`] of the store's folder.
    pub fn hidden(&self) -> Duration {
        hidden(&self.folder.root)
    }

    /// Number of entries that were found damaged or removed. If it grew during a stage that failed, another attempt may succeed.
    pub fn damaged(&self) -> usize {
        self.folder.damaged.load(Ordering::Relaxed)
    }

    fn changed(&self) -> usize {
        self.folder.changed.load(Ordering::Relaxed)
    }

    /// Whether an interrupted stage of this process goes on later: it has written resume state in this process, or another process computes
    /// it.
    pub fn kept(&self) -> bool {
        self.folder.kept.load(Ordering::Relaxed)
    }

    /// Calls `work`, and repeats it if it failed while an entry was found damaged: the next attempt computes the entry again.
    ///
    /// # Errors
    /// As `work`.
    pub fn again<T, E>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        for _ in 1..MOST {
            let damaged = self.damaged();
            let ended = work();
            if ended.is_ok() || self.damaged() == damaged {
                return ended;
            }
        }
        work()
    }

    /// Returns the entry of `provenance` if it is finished and not damaged.
    ///
    /// # Errors
    /// When the entry cannot be read for another reason than damage.
    pub fn lookup(&self, provenance: &Provenance) -> Result<Option<Entry>, StoreError> {
        let (stage, key) = (provenance.stage, provenance.key());
        let dir = self.folder.dir(stage, &key);
        // Before the inspection, so that `gc` does not remove what this finds.
        self.folder.used.note(stage, &key);
        match record::inspect(&dir, stage, &key).map_err(at(&dir))? {
            Found::Whole(record) => Ok(Some(self.entry(dir, record))),
            Found::Damaged(difference) => {
                self.folder.report(&dir, &provenance.label, &difference);
                Ok(None)
            }
            Found::Absent | Found::Old => Ok(None),
        }
    }

    /// Returns the entry of a stage and a key if it is finished and not damaged.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entry_of(&self, stage: &str, key: &str) -> Result<Option<Entry>, StoreError> {
        let dir = self.folder.dir(stage, key);
        Ok(match record::inspect(&dir, stage, key).map_err(at(&dir))? {
            Found::Whole(record) => Some(self.entry(dir, record)),
            _ => None,
        })
    }

    /// Returns whether there is an entry of a stage and a key, or was one until it was found damaged.
    pub fn has_had(&self, stage: &str, key: &str) -> bool {
        self.folder.has_had(stage, key)
    }

    /// As [`lookup`](Self::lookup), but moves a damaged entry away. The caller holds the key's lock.
    fn take(&self, provenance: &Provenance) -> Result<Option<Entry>, StoreError> {
        let (stage, key) = (provenance.stage, provenance.key());
        let dir = self.folder.dir(stage, &key);
        match record::inspect(&dir, stage, &key).map_err(at(&dir))? {
            Found::Whole(record) => return Ok(Some(self.entry(dir, record))),
            Found::Absent => {}
            Found::Old => {
                if !self.reported_old.swap(true, Ordering::Relaxed) {
                    self.folder.tell("entries of an earlier format have no digests; those that are needed are computed again");
                }
                self.folder.move_away(&dir)?;
            }
            Found::Damaged(difference) => {
                self.folder
                    .set_aside(&dir, &provenance.label, &difference)?;
            }
        }
        Ok(None)
    }

    /// Returns the entry of `provenance`; `stage` computes it if it is absent.
    ///
    /// Waits while another process computes the same entry, until `interrupted` returns true.
    ///
    /// # Errors
    /// [`StoreError`]; it leaves no incomplete entry.
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
        let scratch = Scratch::new(&self.folder.root, &format!("{}-{key}", provenance.stage))?;
        let state = self
            .folder
            .root
            .join(".state")
            .join(provenance.stage)
            .join(&key);
        let of = format!("{} {}", provenance.stage, provenance.label);
        self.folder.check_state(&state, &of)?;
        make_dir(&state)?;
        let spent = read_seconds(&state);
        let before = files_of_state(&state);
        memory::forget_peak();
        let start = Instant::now();
        let changed = self.changed();
        let result = stage(&Workspace {
            out: &scratch.0,
            state: &state,
        });
        let seconds = spent + start.elapsed().as_secs_f64();
        let held = self.folder.check_held();
        let changed = self.changed() > changed;
        let result = match result
            .map_err(|error| of_stage(error, [&scratch.0, &state]))
            .and_then(|result| held.map(|()| result))
        {
            Ok(result) => result,
            Err(error) if changed => return Err(forget_state(&state, error)),
            Err(error) => {
                // Time spent before an interruption belongs to the stage that resumes from the state.
                let spent = seconds.to_string().into_bytes();
                let _ = files::write_sealed(&state.join(SECONDS), spent);
                let kept = files_of_state(&state);
                if !kept.is_empty() && kept != before {
                    self.folder.kept.store(true, Ordering::Relaxed);
                }
                return Err(error);
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

    /// Renames a finished folder to its key; if another process was first, that entry stays.
    fn publish(
        &self,
        provenance: &Provenance,
        record: Record,
        out: &Path,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Entry, StoreError> {
        let dir = self.folder.dir(provenance.stage, &record.key);
        let parent = dir.parent().unwrap_or(&self.folder.root);
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
            if !kinds.contains(&taken.kind()) && !is_stale(&taken) {
                return Err(at(&dir)(taken));
            }
            if let Some(theirs) = self.take(provenance)? {
                return Ok(theirs);
            }
            // Moved away, or not visible on this machine yet.
            if is_stale(&taken) || fs::symlink_metadata(&dir).is_err() {
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
        self.folder.used.note(&record.stage, &record.key);
        Entry::new(Arc::clone(&self.folder), dir, record)
    }

    fn lock(
        &self,
        stage: &str,
        key: &str,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Lock, StoreError> {
        let mut turns = 0_u64;
        loop {
            let attempt = self.folder.attempt(stage, key)?;
            turns += 1;
            if turns == QUIET && matches!(attempt, Attempt::Busy) {
                self.folder.tell(&format!(
                    "{stage} {key:.12}: another process computes it; this one waits"
                ));
            }
            match attempt {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Busy if interrupted() => {
                    self.folder.kept.store(true, Ordering::Relaxed);
                    return Err(StoreError::Interrupted);
                }
                Attempt::Busy => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Returns the time for which this machine's cache of names may hide what another machine has written into `folder`; zero on a disk of this
/// machine.
pub fn hidden(folder: &Path) -> Duration {
    match Mount::of(folder) {
        Some(mount) if !mount.is_shared() => Duration::ZERO,
        _ => HIDDEN,
    }
}

/// A folder with a unique name, removed when the stage ends without an entry.
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

/// Writes provenance and record beside the stage's files, and syncs all of them.
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

/// Best effort: not every file system can sync a folder.
fn sync_dir(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}

/// Removes resume state that may be computed from what has changed. Returns `error`, and says if the state cannot be removed.
pub(super) fn forget_state(state: &Path, error: StoreError) -> StoreError {
    // NFS keeps the name `.nfs..` of a removed file that a process has open, and so the folder.
    let is_empty = || record::files(state).is_ok() && files_of_state(state).is_empty();
    match fs::remove_dir_all(state) {
        Err(kept) if kept.kind() != io::ErrorKind::NotFound && !is_empty() => {
            StoreError::Stage(anyhow!(
                "{error:#}; {}: cannot be removed ({kept}); this resume state may be computed from what has changed: remove it",
                state.display()
            ))
        }
        _ => error,
    }
}

/// Returns the files of resume state without [`SECONDS`], with their sizes and times.
fn files_of_state(state: &Path) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
    let mut names = record::files(state).unwrap_or_default();
    names.retain(|path| {
        let name = file_name(path);
        name != SECONDS && !name.starts_with(".nfs") && files::Owner::of(&name).is_none()
    });
    names.sort();
    let about = |path: PathBuf| {
        let about = fs::metadata(&path).ok()?;
        Some((path, about.len(), about.modified().ok()))
    };
    names.into_iter().filter_map(about).collect()
}

fn read_seconds(state: &Path) -> f64 {
    let bytes = files::read_sealed(&state.join(SECONDS)).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .trim()
        .parse()
        .unwrap_or(0.0)
}
