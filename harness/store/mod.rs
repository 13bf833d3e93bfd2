//! The store: results of stages, found again by everything that determines them.
//!
//! An entry is `STORE/<stage>/<key>/` with `result.json`, `provenance.json` and the stage's files; its key is the digest of
//! its provenance. Resuming, skipping what is done, sharing a codebook between suites and knowing where a number came
//! from are one lookup. An entry is written beside, synced and renamed, so it is whole or absent; a lock per key
//! lets several processes share a store.

mod memory;
mod upkeep;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tessera_tokenizers::Fingerprint;

pub use upkeep::{Listed, free_bytes, gc, list};

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be read or written.
    #[error("{}: {source}; choose a writable folder with --store DIR or TESSERA_STORE", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
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

/// A finished stage.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its folder.
    pub dir: PathBuf,
    /// Its key, which later stages take as an input.
    pub key: String,
    /// What it returned.
    pub result: Value,
    /// Wall time of the computation, seconds.
    pub seconds: f64,
    /// Most bytes that the process had resident meanwhile, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// Where a stage writes.
pub struct Workspace<'a> {
    /// Files of the entry; moved into place when the stage returns.
    pub out: &'a Path,
    /// Resume state; kept until the stage is finished.
    pub state: &'a Path,
}

/// The store at a folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens (and makes) the store at `root`.
    ///
    /// # Errors
    /// When the folder cannot be written; said before any work.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        make_dir(root)?;
        // Nameless: whoever opens the same folder meanwhile does not remove it.
        tempfile::tempfile_in(root).map_err(at(root))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry of `provenance`, if it is finished.
    pub fn lookup(&self, provenance: &Provenance) -> Option<Entry> {
        let key = provenance.key();
        let dir = self.dir(provenance.stage, &key);
        let text = fs::read_to_string(dir.join("result.json")).ok()?;
        let stored: Value = serde_json::from_str(&text).ok()?;
        Some(Entry {
            dir,
            key,
            result: stored.get("result")?.clone(),
            seconds: stored.get("seconds")?.as_f64()?,
            peak_bytes: stored.get("peak_bytes").and_then(Value::as_u64),
        })
    }

    /// The entry of `provenance`, computed by `stage` when it isn't there yet.
    ///
    /// Waits while another process computes the same one; `interrupted` is asked meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; nothing half-written stays under the entry's name.
    pub fn get_or(
        &self,
        provenance: &Provenance,
        interrupted: &dyn Fn() -> bool,
        stage: impl FnOnce(&Workspace<'_>) -> anyhow::Result<Value>,
    ) -> Result<Entry, StoreError> {
        let key = provenance.key();
        let _lock = self.lock(provenance.stage, &key, interrupted)?;
        if let Some(entry) = self.lookup(provenance) {
            return Ok(entry);
        }
        let state = self.root.join(".state").join(provenance.stage).join(&key);
        let out = self
            .root
            .join(".tmp")
            .join(format!("{}-{key}", provenance.stage));
        // What an earlier, killed process left; nobody else writes here while we hold the lock.
        if out.exists() {
            fs::remove_dir_all(&out).map_err(at(&out))?;
        }
        make_dir(&out)?;
        make_dir(&state)?;
        let spent = read_seconds(&state);
        memory::forget_peak();
        let start = Instant::now();
        let result = stage(&Workspace {
            out: &out,
            state: &state,
        });
        let seconds = spent + start.elapsed().as_secs_f64();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                // Time spent before an interruption belongs to the stage that resumes from the state.
                let _ = fs::write(state.join("seconds"), seconds.to_string());
                return Err(error.into());
            }
        };
        let entry = self.finish(provenance, &key, &out, result, seconds)?;
        let _ = fs::remove_dir_all(&state);
        Ok(entry)
    }

    fn finish(
        &self,
        provenance: &Provenance,
        key: &str,
        out: &Path,
        result: Value,
        seconds: f64,
    ) -> Result<Entry, StoreError> {
        let about = json!({"stage": provenance.stage, "label": provenance.label, "inputs": provenance.inputs});
        write_synced(&out.join("provenance.json"), pretty(&about).as_bytes())?;
        let peak_bytes = memory::peak();
        let stored = json!({"seconds": seconds, "peak_bytes": peak_bytes, "result": result});
        write_synced(&out.join("result.json"), pretty(&stored).as_bytes())?;
        for file in fs::read_dir(out).map_err(at(out))?.flatten() {
            let path = file.path();
            if path.is_file() {
                File::open(&path)
                    .and_then(|f| f.sync_all())
                    .map_err(at(&path))?;
            }
        }
        let dir = self.dir(provenance.stage, key);
        if let Some(parent) = dir.parent() {
            make_dir(parent)?;
        }
        fs::rename(out, &dir).map_err(at(&dir))?;
        sync_dir(dir.parent().unwrap_or(&self.root));
        Ok(Entry {
            dir,
            key: key.to_owned(),
            result,
            seconds,
            peak_bytes,
        })
    }

    fn dir(&self, stage: &str, key: &str) -> PathBuf {
        self.root.join(stage).join(key)
    }

    /// Held while the returned file lives; the system drops it when the process dies.
    fn lock(
        &self,
        stage: &str,
        key: &str,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<File, StoreError> {
        let path = self.root.join(".locks").join(format!("{stage}-{key}"));
        make_dir(path.parent().unwrap_or(&self.root))?;
        let file = File::create(&path).map_err(at(&path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if interrupted() => {
                    return Err(StoreError::Interrupted);
                }
                Err(fs::TryLockError::WouldBlock) => {
                    std::thread::sleep(std::time::Duration::from_millis(200))
                }
                Err(fs::TryLockError::Error(source)) => {
                    return Err(StoreError::Io { path, source });
                }
            }
        }
    }
}

/// Writes `bytes` beside `path`, syncs and renames: the file is whole or as it was.
///
/// # Errors
/// [`StoreError::Io`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    let beside = path.with_file_name(name);
    write_synced(&beside, bytes)?;
    fs::rename(&beside, path).map_err(at(path))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create(path).map_err(at(path))?;
    file.write_all(bytes).map_err(at(path))?;
    file.sync_all().map_err(at(path))
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

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

fn read_seconds(state: &Path) -> f64 {
    let text = fs::read_to_string(state.join("seconds")).unwrap_or_default();
    text.trim().parse().unwrap_or(0.0)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn provenance(k: u64) -> Provenance {
        Provenance {
            stage: "fit",
            label: "test".into(),
            inputs: json!({"k": k, "a": [1, {"z": 0, "y": 1}]}),
        }
    }

    #[test]
    fn the_key_does_not_depend_on_the_order_of_fields() {
        let other = Provenance {
            inputs: json!({"a": [1, {"y": 1, "z": 0}], "k": 3}),
            ..provenance(3)
        };
        assert_eq!(provenance(3).key(), other.key());
        assert_ne!(provenance(3).key(), provenance(4).key());
    }

    #[test]
    fn a_stage_is_computed_once_and_a_failed_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let calls = Cell::new(0);
        let compute = |fails: bool| {
            store.get_or(&provenance(1), &|| false, |work| {
                calls.set(calls.get() + 1);
                fs::write(work.out.join("file"), b"x")?;
                anyhow::ensure!(!fails, "no");
                Ok(json!({"value": 0.1}))
            })
        };
        assert!(matches!(compute(true), Err(StoreError::Stage(_))));
        assert!(
            store.lookup(&provenance(1)).is_none(),
            "a failed stage leaves no entry"
        );
        let entry = compute(false).unwrap();
        assert_eq!(fs::read(entry.dir.join("file")).unwrap(), b"x");
        assert_eq!(compute(false).unwrap().result, json!({"value": 0.1}));
        assert_eq!(calls.get(), 2);
    }

    #[test]
    fn state_survives_a_failure_and_goes_with_success() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.get_or(&provenance(1), &|| false, |work| {
            fs::write(work.state.join("step"), b"5")?;
            anyhow::bail!("killed")
        });
        assert!(first.is_err());
        let entry = store.get_or(&provenance(1), &|| false, |work| {
            Ok(json!(String::from_utf8(fs::read(
                work.state.join("step")
            )?)?))
        });
        assert_eq!(entry.unwrap().result, json!("5"));
        assert!(
            !dir.path()
                .join(".state/fit")
                .join(provenance(1).key())
                .exists()
        );
    }

    #[test]
    fn two_threads_compute_an_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        let calls = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let store = Store::open(dir.path()).unwrap();
                    store
                        .get_or(&provenance(1), &|| false, |_| {
                            calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(50));
                            Ok(json!(1))
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
