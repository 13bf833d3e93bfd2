//! The store's folder: the paths of its parts, and how damaged parts are moved away.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tessera_models::files;

use super::error::{StoreError, at, make_dir};
use super::held::Held;
use super::left::{file_name, sweep};
use super::lock::{Attempt, Lock, is_stale};
use super::record::{self, Difference, Record};
use super::used::Used;

/// The folder of damaged entries.
const DAMAGED: &str = ".damaged";

/// Receives the store's messages.
type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The part that all clones of a store and its entries share.
pub(super) struct Folder {
    pub root: PathBuf,
    pub locks: PathBuf,
    pub tell: Option<Tell>,
    /// Number of entries that were found damaged or removed while they were in use.
    pub damaged: AtomicUsize,
    /// Whether an interrupted stage goes on where it was.
    pub kept: AtomicBool,
    /// Damaged entries that look-ups have reported.
    reported: Mutex<BTreeSet<PathBuf>>,
    pub used: Used,
    /// Files that stages read for long.
    held: Mutex<Vec<Arc<Held>>>,
    /// How often a held file had changed.
    pub changed: AtomicUsize,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            locks: root.join(".locks"),
            tell: None,
            damaged: AtomicUsize::new(0),
            kept: AtomicBool::new(false),
            reported: Mutex::default(),
            used: Used::new(root),
            held: Mutex::default(),
            changed: AtomicUsize::new(0),
        }
    }

    pub fn dir(&self, stage: &str, key: &str) -> PathBuf {
        self.root.join(stage).join(key)
    }

    /// Returns whether there is an entry, or was one until it was found damaged.
    pub fn has_had(&self, stage: &str, key: &str) -> bool {
        let name = format!("{stage}-{key}-");
        let damaged = || fs::read_dir(self.root.join(DAMAGED)).into_iter().flatten();
        let is_it = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&name);
        self.dir(stage, key).exists() || damaged().flatten().any(is_it)
    }

    /// Reports a damaged entry once. The entry stays where it is until it is needed.
    pub fn report(&self, dir: &Path, label: &str, difference: &Difference) {
        if self.reported().insert(dir.to_owned()) {
            self.tell(&format!(
                "{} is damaged (found {}, expected {}); the entry of {label:?} counts as absent",
                dir.join(&difference.file).display(),
                difference.found,
                difference.expected
            ));
        }
    }

    fn reported(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a damaged entry away and reports it.
    pub fn set_aside(
        &self,
        dir: &Path,
        label: &str,
        difference: &Difference,
    ) -> Result<String, StoreError> {
        let moved = self.move_away(dir)?;
        self.damaged.fetch_add(1, Ordering::Relaxed);
        self.reported().remove(dir);
        let moved = match moved {
            Some(to) => format!("the entry of {label:?} is moved to {} and", to.display()),
            None => format!("another process has moved the entry of {label:?}; it is"),
        };
        let message = format!(
            "{} is damaged (found {}, expected {}); {moved} computed again",
            dir.join(&difference.file).display(),
            difference.found,
            difference.expected,
        );
        self.tell(&message);
        Ok(message)
    }

    /// Returns the path of the file `name` of an entry if its bytes have their digest; otherwise moves the entry away.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they have another.
    pub fn verify(
        &self,
        (record, dir): (&Record, &Path),
        name: &str,
    ) -> Result<PathBuf, StoreError> {
        let path = dir.join(name);
        let gone = || {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            let path = path.display();
            StoreError::Damaged(format!(
                "{path} is gone: another process has removed or moved its entry"
            ))
        };
        let check = || match record.check(dir, name) {
            Err(error) if is_stale(&error) => Err(gone()),
            checked => checked.map_err(at(&path)),
        };
        if check()?.is_ok() {
            return Ok(path);
        }
        if fs::symlink_metadata(dir).is_err() {
            return Err(gone());
        }
        let (stage, key) = (&record.stage, &record.key);
        let Attempt::Taken(_lock) = self.attempt(stage, key)? else {
            self.damaged.fetch_add(1, Ordering::Relaxed);
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
        let message = self.set_aside(dir, &label, &difference)?;
        Err(StoreError::Damaged(message))
    }

    /// Compares all held files again, and drops those that nobody holds any more. A file that has changed is held no longer.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a file has changed since it was verified.
    pub fn check_held(&self) -> Result<(), StoreError> {
        let all = std::mem::take(&mut *self.held());
        let (whole, changed): (Vec<_>, Vec<_>) = all.into_iter().partition(|held| held.is_whole());
        let in_use = whole.into_iter().filter(|held| Arc::strong_count(held) > 1);
        self.held().extend(in_use);
        let Some(held) = changed.first() else {
            return Ok(());
        };
        self.changed.fetch_add(1, Ordering::Relaxed);
        self.verify((&held.record, held.dir()), &held.name)?;
        // Its bytes are right again, or were always.
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let path = held.path.display();
        Err(StoreError::Damaged(format!(
            "{path} was written while a stage read it; the stage is computed again"
        )))
    }

    pub fn held(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves resume state with a wrong digest away; `of` says whose it is. The caller holds the key's lock.
    pub fn check_state(&self, state: &Path, of: &str) -> Result<(), StoreError> {
        sweep(state);
        let Some(damage) = damage_of_state(state)? else {
            return Ok(());
        };
        let moved = match self.move_away(state)? {
            Some(to) => format!("moved to {}", to.display()),
            None => "another process has moved it".to_owned(),
        };
        self.tell(&format!(
            "resume state of {of}: {damage}; {moved}; the stage restarts"
        ));
        Ok(())
    }

    /// Moves a folder into `.damaged` and returns its new path; `None` if another process has moved it.
    pub fn move_away(&self, dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        let name = dir.strip_prefix(&self.root).unwrap_or(dir);
        let name = name.to_string_lossy().replace('/', "-");
        let name = name.trim_start_matches('.');
        let to = self.root.join(DAMAGED);
        make_dir(&to)?;
        let to = to.join(format!("{name}-{}", files::nonce()));
        match fs::rename(dir, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_stale(&error) => Ok(None),
            moved => moved.map(|()| Some(to)).map_err(at(dir)),
        }
    }

    pub fn tell(&self, line: &str) {
        if let Some(tell) = &self.tell {
            tell(line);
        }
    }

    pub fn attempt(&self, stage: &str, key: &str) -> Result<Attempt, StoreError> {
        make_dir(&self.locks)?;
        let path = self.locks.join(format!("{stage}-{key}"));
        Lock::attempt(&path).map_err(at(&path))
    }
}

/// Returns the first file of resume state with a wrong digest, and what is wrong.
///
/// # Errors
/// When a file cannot be read for another reason than damage.
pub(super) fn damage_of_state(state: &Path) -> Result<Option<String>, StoreError> {
    let names = match record::files(state) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(state)(error)),
    };
    // A temporary file of another process is no state yet.
    let is_state = |path: &&PathBuf| files::Owner::of(&file_name(path)).is_none();
    for path in names.iter().filter(is_state) {
        let Err(error) = files::check_sealed(path) else {
            continue;
        };
        let damaged = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        // Another process has finished the stage.
        if error.kind() == io::ErrorKind::NotFound {
            continue;
        }
        if !damaged.contains(&error.kind()) && error.raw_os_error() != Some(libc::EIO) {
            return Err(at(path)(error));
        }
        return Ok(Some(format!("{}: {error}", path.display())));
    }
    Ok(None)
}
