//! The store under failures, damage, and other processes.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use serde_json::json;
use tessera_models::files;

use super::lookup::forget_state;
use super::*;

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
        store.lookup(&provenance(1)).unwrap().is_none(),
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
        files::write_sealed(&work.state.join("step"), b"5".to_vec())?;
        anyhow::bail!("killed")
    });
    assert!(first.is_err());
    let entry = store.get_or(&provenance(1), &|| false, |work| {
        let step = files::read_sealed(&work.state.join("step"))?;
        Ok(json!(String::from_utf8(step)?))
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

/// A store that keeps what it says.
fn told(root: &Path) -> (Store, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&said);
    let store = Store::open(root).unwrap();
    let store = store.telling(move |line| kept.lock().unwrap().push(line.to_owned()));
    (store, said)
}

/// The entry of `provenance(1)` with two files, computed where it is missing.
fn compute(store: &Store) -> Entry {
    let made = store.get_or(&provenance(1), &|| false, |work| {
        fs::write(work.out.join("weights"), b"0123456789")?;
        fs::create_dir(work.out.join("more"))?;
        fs::write(work.out.join("more/ids"), b"abc")?;
        Ok(json!({"top1": 15.0}))
    });
    made.unwrap()
}

fn names(folder: &Path) -> Vec<PathBuf> {
    record::files(folder).unwrap_or_default()
}

#[test]
fn every_changed_byte_of_an_entry_is_said_and_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, said) = told(dir.path());
    let entry = compute(&store);
    let mut changed = 0;
    for path in names(&entry.dir) {
        let name = path.strip_prefix(&entry.dir).unwrap().display().to_string();
        let whole = fs::read(&path).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        for at in (0..whole.len())
            .step_by(1 + whole.len() / 12)
            .chain([whole.len()])
        {
            let mut bytes = whole.clone();
            match bytes.get_mut(at) {
                Some(byte) => *byte ^= 4,
                None => bytes.clear(),
            }
            fs::write(&path, &bytes).unwrap();
            if changed % 2 == 0 {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(modified).unwrap();
            }
            // A time that is the old one hides the change from a look-up; who reads the file finds it.
            if let Some(entry) = store.lookup(&provenance(1)).unwrap() {
                let error = entry.whole().unwrap_err().to_string();
                assert!(error.contains(&name), "{error}");
            }
            let again = compute(&store);
            again.whole().unwrap();
            changed += 1;
            let moved: Vec<String> = said
                .lock()
                .unwrap()
                .iter()
                .filter(|line| line.contains("moved to"))
                .cloned()
                .collect();
            assert_eq!(moved.len(), changed, "{name} {at}");
            assert!(moved[changed - 1].contains(&name));
            assert_eq!(fs::read(again.dir.join("weights")).unwrap(), b"0123456789");
        }
    }
    assert_eq!(store.damaged(), changed);
    assert_eq!(
        fs::read_dir(dir.path().join(".damaged")).unwrap().count(),
        changed
    );
    assert!(names(&dir.path().join(".tmp")).is_empty());
}

#[test]
fn a_lost_file_and_another_keys_entry_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, said) = told(dir.path());
    let entry = compute(&store);
    for name in ["weights", record::RECORD, record::PROVENANCE] {
        fs::remove_file(entry.dir.join(name)).unwrap();
        compute(&store).whole().unwrap();
    }
    let other = dir.path().join("fit").join(provenance(2).key());
    fs::rename(&entry.dir, &other).unwrap();
    let made = store.get_or(&provenance(2), &|| false, |_| Ok(json!(2)));
    assert_eq!(made.unwrap().result, json!(2));
    assert_eq!(said.lock().unwrap().len(), 4, "{said:?}");
}

#[test]
fn an_entry_without_digests_is_computed_again_and_that_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, said) = told(dir.path());
    for k in [1, 2] {
        let old = dir.path().join("fit").join(provenance(k).key());
        fs::create_dir_all(&old).unwrap();
        let text = json!({"seconds": 1.0, "peak_bytes": 3, "result": 9}).to_string();
        fs::write(old.join("result.json"), text).unwrap();
        assert!(store.lookup(&provenance(k)).unwrap().is_none());
        let made = store.get_or(&provenance(k), &|| false, |_| Ok(json!(k)));
        assert_eq!(made.unwrap().result, json!(k));
    }
    assert_eq!(said.lock().unwrap().len(), 1);
}

/// State of a day was removed whatever was to be kept.
#[test]
fn state_is_kept_as_long_as_entries() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(".state/fit").join(provenance(1).key());
    let store = Store::open(dir.path()).unwrap();
    let killed = store.get_or(&provenance(1), &|| false, |work| {
        files::write_sealed(&work.state.join("step"), b"5".to_vec())?;
        anyhow::bail!("killed")
    });
    assert!(killed.is_err());
    let day = std::time::Duration::from_secs(24 * 3600);
    let old = std::time::SystemTime::now() - 10 * day;
    let files = fs::read_dir(&state)
        .unwrap()
        .map(|file| file.unwrap().path());
    for path in files.chain([state.clone()]) {
        File::open(path).unwrap().set_modified(old).unwrap();
    }
    assert!(gc(dir.path(), 30 * day, false).unwrap().is_empty());
    assert!(state.join("step").exists());
    assert_eq!(gc(dir.path(), 9 * day, false).unwrap().len(), 1);
    assert!(!state.exists());
}

#[test]
fn damaged_state_is_said_and_the_stage_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, said) = told(dir.path());
    let state = dir.path().join(".state/fit").join(provenance(1).key());
    for damage in [&b""[..], b"4", &[7; 64]] {
        let first = store.get_or(&provenance(1), &|| false, |work| {
            assert!(!work.state.join("step").exists());
            files::write_sealed(&work.state.join("step"), b"5".to_vec())?;
            anyhow::bail!("killed")
        });
        assert!(first.is_err());
        fs::write(state.join("step"), damage).unwrap();
    }
    let entry = store.get_or(&provenance(1), &|| false, |work| {
        Ok(json!(work.state.join("step").exists()))
    });
    assert_eq!(entry.unwrap().result, json!(false));
    assert_eq!(said.lock().unwrap().len(), 3);
}

/// Two mounts of one folder whose locks do not see each other.
#[test]
fn without_locks_the_first_entry_stays_whole_and_nobody_fails() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let (both, bytes) = (Barrier::new(2), AtomicUsize::new(0));
        let entries = std::thread::scope(|scope| {
            let run = |who: usize| {
                let mut store = Store::open(dir.path()).unwrap();
                let folder = Arc::get_mut(&mut store.folder).unwrap();
                folder.locks = dir.path().join(format!(".locks-{who}"));
                let made = store.get_or(&provenance(1), &|| false, |work| {
                    both.wait();
                    files::write_sealed(&work.state.join("step"), vec![1])?;
                    fs::write(work.out.join("weights"), vec![who as u8; 1000])?;
                    bytes.fetch_add(1, Ordering::SeqCst);
                    Ok(json!(who))
                });
                let entry = made.unwrap();
                let weights = fs::read(entry.file("weights").unwrap()).unwrap();
                (entry.result.clone(), weights)
            };
            let other = scope.spawn(move || run(1));
            [run(0), other.join().unwrap()]
        });
        assert_eq!(bytes.load(Ordering::SeqCst), 2, "both computed it");
        assert_eq!(entries[0], entries[1]);
        assert_eq!(
            entries[0].1,
            vec![entries[0].0.as_u64().unwrap() as u8; 1000]
        );
        for left in [".tmp", ".state", ".damaged", ".used", ".locks-0"] {
            let found = names(&dir.path().join(left));
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

#[test]
fn a_shown_file_is_a_copy_made_once() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = told(&dir.path().join("store"));
    let entry = compute(&store);
    let (from, to) = (entry.dir.join("weights"), dir.path().join("shown"));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    entry.copy("weights", &to).unwrap();
    let first = inode(&to);
    assert_ne!(first, inode(&from));
    entry.copy("weights", &to).unwrap();
    assert_eq!(inode(&to), first, "not copied again");
    fs::write(&to, b"edited by u").unwrap();
    assert_eq!(fs::read(&from).unwrap(), b"0123456789");
    entry.copy("weights", &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"0123456789");
    // What versions before 0.2 made.
    fs::remove_file(&to).unwrap();
    fs::hard_link(&from, &to).unwrap();
    entry.copy("weights", &to).unwrap();
    assert_ne!(inode(&to), inode(&from));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing beside"
    );
}

#[test]
fn what_a_dead_process_left_goes_and_what_lives_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = told(dir.path());
    let entry = compute(&store);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let living = files::temporary("fit-1");
    let left = living.replace(&format!("-{}-", std::process::id()), &format!("-{dead}-"));
    let elsewhere = left.replace(".tmp-", ".tmp-other");
    let tmp = dir.path().join(".tmp");
    for name in [&living, &left, &elsewhere] {
        fs::create_dir_all(tmp.join(name)).unwrap();
    }
    fs::write(dir.path().join(".locks/fit-3"), b"").unwrap();
    let _held = store.folder.attempt("fit", "2").unwrap();
    Store::open(dir.path()).unwrap();
    gc(dir.path(), Duration::from_secs(3600), false).unwrap();
    let there = |name: &str| tmp.join(name).exists();
    assert_eq!(
        [&living, &left, &elsewhere].map(|n| there(n)),
        [true, false, true]
    );
    let locks = names(&dir.path().join(".locks"));
    assert_eq!(
        locks,
        [dir.path().join(".locks/fit-2")],
        "the one that is held"
    );
    // An entry whose lock is held is being computed.
    drop(store);
    let key = entry.key.clone();
    drop(entry);
    let other = Store::open(dir.path()).unwrap();
    let held = other.folder.attempt("fit", &key).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    gc(dir.path(), Duration::ZERO, false).unwrap();
    assert_eq!(list(dir.path()).unwrap().len(), 1);
    drop(held);
    gc(dir.path(), Duration::ZERO, false).unwrap();
    assert!(list(dir.path()).unwrap().is_empty());
}

/// Computes an entry with the file `pixels`, then another whose stage holds that file and calls `meanwhile` with its path. Returns how
/// the second ended, and the store.
fn read_while(meanwhile: impl Fn(&Path)) -> (Result<Entry, StoreError>, Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pixels = |work: &Workspace<'_>| -> anyhow::Result<serde_json::Value> {
        fs::write(work.out.join("pixels"), [7; 4096])?;
        Ok(json!(null))
    };
    let read = store.get_or(&provenance(2), &|| false, |work| {
        let entry = store.get_or(&provenance(1), &|| false, pixels)?;
        let held = entry.hold("pixels")?;
        files::write_sealed(&work.state.join("step"), b"5".to_vec())?;
        meanwhile(&held.path);
        Ok(json!(fs::read(&held.path).map(|bytes| bytes[0]).ok()))
    });
    (read, store, dir)
}

#[test]
fn what_a_stage_read_is_compared_again_before_its_result_is_stored() {
    let overwrite = |path: &Path, quietly: bool, back: bool| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let mut file = File::options().write(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, &[255; 2048]).unwrap();
        if back {
            fs::write(path, [7; 4096]).unwrap();
            file.set_modified(modified + Duration::from_secs(1))
                .unwrap();
        }
        if quietly {
            file.set_modified(modified).unwrap();
        }
    };
    for (what, quietly, back) in [
        ("openly", false, false),
        ("quietly", true, false),
        ("and back", false, true),
    ] {
        let (read, store, dir) = read_while(|path| overwrite(path, quietly, back));
        let error = read.err().unwrap();
        assert!(matches!(error, StoreError::Damaged(_)), "{what}: {error}");
        let expected = if back {
            "was written while"
        } else {
            "is moved to"
        };
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(store.lookup(&provenance(2)).unwrap().is_none(), "{what}");
        assert_eq!(
            store.lookup(&provenance(1)).unwrap().is_some(),
            back,
            "{what}"
        );
        assert_eq!(store.damaged(), 1, "{what}");
        // What the stage had computed from it would be resumed.
        let state = dir.path().join(".state/fit").join(provenance(2).key());
        assert!(!state.exists(), "{what}");
        let again = store.get_or(&provenance(2), &|| false, |_| Ok(json!(1)));
        assert!(again.is_ok(), "{what}: it is held no longer");
    }
}

#[test]
fn a_held_file_that_is_whole_or_removed_does_not_disturb() {
    let (read, store, _dir) = read_while(|_| ());
    assert_eq!(read.unwrap().result, json!(7));
    // Its name may go, as in `gc` of another process: what was read stays.
    let (removed, ..) = read_while(|path| fs::remove_dir_all(path.parent().unwrap()).unwrap());
    assert_eq!(removed.unwrap().result, json!(null));
    // Beyond its stage, a file is compared while it is held.
    let held = store
        .lookup(&provenance(1))
        .unwrap()
        .unwrap()
        .hold("pixels")
        .unwrap();
    let next = |k| store.get_or(&provenance(k), &|| false, |_| Ok(json!(k)));
    assert!(next(3).is_ok());
    fs::write(&held.path, [8; 4096]).unwrap();
    assert!(next(4).is_err());
    assert!(next(4).is_ok());
}

/// The error of a stage was replaced by that of its resume state.
#[test]
#[cfg(target_os = "linux")]
fn state_that_cannot_be_removed_is_said_beside_the_error() {
    let failed = || StoreError::Damaged("pixels are damaged".into());
    // Nobody may remove files of a process.
    let said = forget_state(Path::new("/proc/self/fdinfo"), failed()).to_string();
    for part in [
        "pixels are damaged",
        "/proc/self/fdinfo: cannot be removed",
        "remove it",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert_eq!(
        forget_state(&state, failed()).to_string(),
        "pixels are damaged"
    );
    fs::create_dir(&state).unwrap();
    fs::write(state.join("step"), "5").unwrap();
    assert_eq!(
        forget_state(&state, failed()).to_string(),
        "pixels are damaged"
    );
    assert!(!state.exists());
}

/// A link to itself in place of a record ended every call.
#[test]
fn a_link_to_itself_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, said) = told(dir.path());
    let get = || {
        store
            .get_or(&provenance(1), &|| false, |_| Ok(json!(7)))
            .unwrap()
    };
    let record = get().dir.join("result.json");
    std::fs::remove_file(&record).unwrap();
    std::os::unix::fs::symlink(&record, &record).unwrap();
    assert_eq!(get().result, json!(7));
    assert!(record.is_file() && !record.is_symlink());
    assert!(said.lock().unwrap().join("\n").contains("is damaged"));
}
