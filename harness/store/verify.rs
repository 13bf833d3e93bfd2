//! `bench store verify`: reads every file of finished stages, and resume state.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::anyhow;

use super::error::StoreError;
use super::folder::{Folder, damage_of_state};
use super::lock::{Attempt, is_stale};
use super::record::{self, Found};
use super::upkeep::{Place, entries, is_marked, lost, states};

/// What [`verify`] has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Whole entries.
    pub whole: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Stages with whole resume state.
    pub states: usize,
    /// Entries of a version without digests, which cannot be verified.
    pub old: usize,
    /// Damaged entries, and stages with damaged resume state.
    pub damaged: usize,
    /// Entries and resume state that could not be read.
    pub unread: usize,
}

/// Compares every file of every finished entry, and all resume state, with its digest, and moves what is damaged into `.damaged`. A run verifies only
/// what it reads. `tell` gets a line for each that is damaged or cannot be read. What cannot be moved, as in a read-only store, stays.
///
/// # Errors
/// When the store cannot be listed, or the folder is no store.
pub fn verify(root: &Path, mut tell: impl FnMut(&str)) -> Result<Verified, StoreError> {
    let folder = Folder::new(root);
    let mut verified = Verified::default();
    let (entries, lost) = (entries(root)?, lost(root)?);
    if entries.is_empty() && !is_marked(root) {
        return Err(StoreError::Stage(anyhow!(
            "{}: found no finished stage, expected a store; check --store and TESSERA_STORE",
            root.display()
        )));
    }
    for path in lost {
        let path = path.display();
        tell(&format!(
            "{path} has lost the files of an entry; the next run that needs it computes it again"
        ));
        verified.damaged += 1;
    }
    for entry in entries {
        match end_of(&folder, &entry) {
            End::Absent => {}
            End::Old => verified.old += 1,
            End::Whole(bytes) => {
                verified.whole += 1;
                verified.bytes += bytes;
            }
            End::Damaged(line) => {
                tell(&line);
                verified.damaged += 1;
            }
            End::Unread(line) => {
                tell(&line);
                verified.unread += 1;
            }
        }
    }
    for state in states(root)? {
        // A process that computes the stage replaces whole files, so no lock is needed to read them.
        match damage_of_state(&state.dir) {
            Ok(None) => verified.states += 1,
            Ok(Some(damage)) => {
                let is_damaged = || !matches!(damage_of_state(&state.dir), Ok(None));
                let end = moved(&folder, &state, is_damaged);
                let (stage, key) = (&state.stage, &state.key);
                tell(&format!(
                    "resume state of {stage} {key:.12}: {damage}; {end}"
                ));
                verified.damaged += 1;
            }
            Err(error) => {
                tell(&error.to_string());
                verified.unread += 1;
            }
        }
    }
    Ok(verified)
}

/// What became of an entry.
enum End {
    /// Removed by another process.
    Absent,
    Old,
    /// Bytes of its files.
    Whole(u64),
    Damaged(String),
    Unread(String),
}

fn end_of(folder: &Folder, entry: &Place) -> End {
    match read(entry) {
        Ok(Found::Absent) => End::Absent,
        Ok(Found::Old) => End::Old,
        Ok(Found::Whole(record)) => End::Whole(record.bytes()),
        Ok(Found::Damaged(difference)) => {
            let is_damaged = || matches!(read(entry), Ok(Found::Damaged(_)) | Err(_));
            let end = moved(folder, entry, is_damaged);
            let path = entry.dir.join(&difference.file);
            End::Damaged(format!(
                "{} is damaged (found {}, expected {}); {end}",
                path.display(),
                difference.found,
                difference.expected
            ))
        }
        Err(error) => {
            let path = entry.dir.display();
            End::Unread(format!(
                "{path}: {error}; it is not verified: make it readable"
            ))
        }
    }
}

/// As [`record::inspect`], but reads every file.
fn read(Place { stage, key, dir }: &Place) -> io::Result<Found> {
    let found = record::inspect(dir, stage, key)?;
    let Found::Whole(record) = &found else {
        return Ok(found);
    };
    for name in record.names() {
        match record.check(dir, name) {
            Ok(Ok(())) => {}
            Err(error) if is_stale(&error) => return Ok(Found::Absent),
            Err(error) => return Err(error),
            // Another process may have removed it since.
            Ok(Err(difference)) => {
                return Ok(match fs::symlink_metadata(dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Absent,
                    _ => Found::Damaged(difference),
                });
            }
        }
    }
    Ok(found)
}

/// Moves a damaged entry or damaged resume state away if it still `is_damaged` under its lock, and says where it is.
fn moved(folder: &Folder, place: &Place, is_damaged: impl Fn() -> bool) -> String {
    let again = "the next run that needs it computes it again";
    match folder.attempt(&place.stage, &place.key) {
        Ok(Attempt::Busy) => "another process has locked it, and it stays".to_owned(),
        Ok(Attempt::Taken(_lock)) => {
            if !is_damaged() {
                return "read again, it is whole".to_owned();
            }
            match folder.move_away(&place.dir) {
                Ok(None) => "another process has moved it".to_owned(),
                Ok(Some(to)) => format!("moved to {}; {again}", to.display()),
                Err(error) => format!("it stays: {error}"),
            }
        }
        Err(error) => format!("it stays: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Provenance, Store};
    use super::*;
    use serde_json::json;
    use tessera_models::files;

    /// Returns a store with an entry of one file, and the path of the file.
    fn kept(root: &Path) -> std::path::PathBuf {
        let about = Provenance {
            stage: "count",
            label: "HOG".into(),
            inputs: json!(1),
        };
        let store = Store::open(root).unwrap();
        let entry = store.get_or(&about, &|| false, |work| {
            fs::write(work.out.join("ids.npy"), b"ids")?;
            Ok(json!(2))
        });
        entry.unwrap().file("ids.npy").unwrap()
    }

    fn verified(root: &Path) -> (Verified, Vec<String>) {
        let mut told = Vec::new();
        let verified = verify(root, |line| told.push(line.to_owned()));
        (verified.unwrap(), told)
    }

    #[test]
    fn a_byte_that_changed_quietly_is_found_and_its_entry_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = kept(dir.path());
        let (before, told) = verified(dir.path());
        assert_eq!((before.whole, before.damaged, told.len()), (1, 0, 0));
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, b"idt").unwrap();
        let open = fs::File::options().write(true).open(&file).unwrap();
        open.set_modified(modified).unwrap();
        let (after, told) = verified(dir.path());
        assert_eq!((after.whole, after.damaged), (0, 1));
        let said = &told[0];
        assert!(
            said.contains("ids.npy is damaged") && said.contains(".damaged"),
            "{said}"
        );
        assert!(!file.exists());
        assert_eq!(verified(dir.path()), (Verified::default(), Vec::new()));
        // Folders of other things are refused: the path may be mistyped.
        let other = tempfile::tempdir().unwrap();
        let error = verify(other.path(), |_| ()).unwrap_err().to_string();
        assert!(error.contains("expected a store"), "{error}");
    }

    /// As after a crash, or a repair of the file system.
    #[test]
    fn an_entry_that_has_lost_its_files_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let entry = kept(dir.path()).parent().unwrap().to_owned();
        for is_folder in [true, false] {
            let _ = fs::remove_dir_all(&entry);
            match is_folder {
                true => fs::create_dir(&entry).unwrap(),
                false => {
                    fs::remove_dir(&entry).unwrap_or_default();
                    fs::write(&entry, "").unwrap();
                }
            }
            let (found, told) = verified(dir.path());
            assert_eq!((found.whole, found.damaged), (0, 1), "{is_folder}");
            assert!(told[0].contains("has lost the files"), "{told:?}");
        }
    }

    #[test]
    fn damaged_resume_state_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        kept(dir.path());
        let key = "0123456789abcdef0123456789abcdef";
        let state = dir.path().join(".state/pretrain").join(key);
        fs::create_dir_all(&state).unwrap();
        files::write_sealed(&state.join("state"), b"weights".to_vec()).unwrap();
        let before = verified(dir.path()).0;
        assert_eq!((before.damaged, before.states), (0, 1));
        let mut bytes = fs::read(state.join("state")).unwrap();
        bytes[2] ^= 1;
        fs::write(state.join("state"), bytes).unwrap();
        let (after, told) = verified(dir.path());
        assert_eq!((after.whole, after.damaged, after.states), (1, 1, 0));
        assert!(told[0].contains("resume state of pretrain"), "{told:?}");
        assert!(told[0].contains(".damaged"), "{told:?}");
        assert!(!state.exists());
    }

    /// As in a store that this user may not write.
    #[test]
    fn what_cannot_be_moved_or_read_is_told_and_the_rest_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let file = kept(dir.path());
        fs::write(&file, b"idt").unwrap();
        let locks = dir.path().join(".locks");
        let _ = fs::remove_dir_all(&locks);
        fs::write(&locks, "a file, so no lock can be taken").unwrap();
        let (found, told) = verified(dir.path());
        assert_eq!((found.whole, found.damaged), (0, 1));
        assert!(told[0].contains("it stays: "), "{told:?}");
        assert!(file.exists());
        // A name that is too long to be looked at.
        let record = file.with_file_name(record::RECORD);
        fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("x".repeat(300), &record).unwrap();
        let (found, told) = verified(dir.path());
        assert_eq!((found.damaged, found.unread), (0, 1), "{told:?}");
        assert!(told[0].contains("is not verified"), "{told:?}");
    }
}
