//! `bench store verify`: reads every byte of a store.

use std::fs;
use std::io;
use std::path::Path;

use super::error::{StoreError, at};
use super::folder::Folder;
use super::lock::Attempt;
use super::record::{self, Difference, Found};
use super::upkeep::{Place, entries, states};

/// What [`verify`] has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Whole entries.
    pub whole: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries of a version without digests, which cannot be verified.
    pub old: usize,
    /// Damaged entries and damaged resume state.
    pub damaged: usize,
}

/// Compares every file of every finished entry, and all resume state, with its digest, and moves what is damaged into `.damaged`. A run verifies only
/// what it reads. `tell` gets a line for each that is damaged. An entry that cannot be moved, as in a read-only store, is told and stays.
///
/// # Errors
/// When the store cannot be read, or the folder is no store.
pub fn verify(root: &Path, mut tell: impl FnMut(&str)) -> Result<Verified, StoreError> {
    let folder = Folder::new(root);
    let mut verified = Verified::default();
    for entry in entries(root)? {
        match read(&entry).map_err(at(&entry.dir))? {
            Found::Absent => {}
            Found::Old => verified.old += 1,
            Found::Whole(record) => {
                verified.whole += 1;
                verified.bytes += record.bytes();
            }
            Found::Damaged(difference) => {
                if let Some(line) = moved(&folder, &entry, &difference) {
                    tell(&line);
                    verified.damaged += 1;
                }
            }
        }
    }
    for state in states(root)? {
        // A process that computes the stage has read it, and replaces it.
        if let Attempt::Taken(_lock) = folder.attempt(&state.stage, &state.key)? {
            let of = format!("{} {:.12}", state.stage, state.key);
            if let Some(line) = folder.check_state(&state.dir, &of)? {
                tell(&line);
                verified.damaged += 1;
            }
        }
    }
    Ok(verified)
}

/// As [`record::inspect`], but reads every file.
fn read(Place { stage, key, dir }: &Place) -> io::Result<Found> {
    let found = record::inspect(dir, stage, key)?;
    let Found::Whole(record) = &found else {
        return Ok(found);
    };
    for name in record.names() {
        if let Err(difference) = record.check(dir, name)? {
            // Another process may have removed it since.
            return Ok(match fs::symlink_metadata(dir) {
                Ok(_) => Found::Damaged(difference),
                Err(_) => Found::Absent,
            });
        }
    }
    Ok(found)
}

/// Moves a damaged entry away and says it; `None` if it is whole or gone by now.
fn moved(folder: &Folder, entry: &Place, difference: &Difference) -> Option<String> {
    let end = match folder.attempt(&entry.stage, &entry.key) {
        Ok(Attempt::Busy) => "another process is computing it again".to_owned(),
        Ok(Attempt::Taken(_lock)) => {
            if !matches!(read(entry), Ok(Found::Damaged(_)) | Err(_)) {
                return None;
            }
            match folder.move_away(&entry.dir) {
                Ok(None) => return None,
                Ok(Some(to)) => format!(
                    "its entry is moved to {}, and the next run that needs it computes it again",
                    to.display()
                ),
                Err(error) => format!("its entry stays: {error}"),
            }
        }
        Err(error) => format!("its entry stays: {error}"),
    };
    let path = entry.dir.join(&difference.file);
    let (path, found, expected) = (path.display(), &difference.found, &difference.expected);
    Some(format!(
        "{path} is damaged (found {found}, expected {expected}); {end}"
    ))
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
    }

    #[test]
    fn damaged_resume_state_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        kept(dir.path());
        let key = "0123456789abcdef0123456789abcdef";
        let state = dir.path().join(".state/pretrain").join(key);
        fs::create_dir_all(&state).unwrap();
        files::write_sealed(&state.join("state"), b"weights".to_vec()).unwrap();
        assert_eq!(verified(dir.path()).0.damaged, 0);
        let mut bytes = fs::read(state.join("state")).unwrap();
        bytes[2] ^= 1;
        fs::write(state.join("state"), bytes).unwrap();
        let (after, told) = verified(dir.path());
        assert_eq!((after.whole, after.damaged), (1, 1));
        assert!(told[0].contains("resume state of pretrain"), "{told:?}");
        assert!(!state.exists());
    }
}
