//! Errors of the store and of run folders.

use std::io;
use std::path::{Path, PathBuf};

use tessera_models::files;

/// What to do about a store that cannot be read or written.
const REMEDY: &str =
    "make the store readable and writable, or choose another with --store DIR or TESSERA_STORE";

/// How the system's messages end about a place that takes no more bytes: EFBIG, ENOSPC, EROFS, EDQUOT.
const UNWRITABLE: [&str; 4] = [
    "(os error 27)",
    "(os error 28)",
    "(os error 30)",
    "(os error 122)",
];

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A part of the store cannot be read or written.
    #[error("{}: {error}; {}", .path.display(), remedy(.error))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of a run cannot be written.
    #[error("{}: {error}; make room or the place writable, or choose another with --out; of a finished run, `bench report` also takes a copy", .path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A file of a finished entry is not what the stage wrote. The entry is damaged; it counts as absent.
    #[error("{0}")]
    Damaged(String),
    /// The user asked to stop while another process held the lock.
    #[error("interrupted")]
    Interrupted,
    /// The stage itself failed.
    #[error(transparent)]
    Stage(#[from] anyhow::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::CrossesDevices => {
            "a folder of the store lies on another file system, so finished work cannot be moved there; move the whole store, and link to that"
        }
        _ => REMEDY,
    }
}

/// Adds place and remedy to a stage's error about a file that cannot be written. Stages write into the folders `work`, and most of their errors
/// name no file. One that names a file elsewhere stays.
pub(super) fn of_stage(error: anyhow::Error, work: [&Path; 2]) -> StoreError {
    let text = format!("{error:#}");
    if !UNWRITABLE.iter().any(|end| text.contains(end)) {
        return error.into();
    }
    let is_named = |place: &&Path| text.contains(&*place.to_string_lossy());
    let place = work[0].display();
    StoreError::Stage(match (work.iter().any(is_named), text.contains('/')) {
        (true, _) => anyhow::anyhow!("{text}; {REMEDY}"),
        (false, false) => anyhow::anyhow!("{place}: {text}; {REMEDY}"),
        (false, true) => error,
    })
}

/// Writes `bytes` beside `path`, syncs and renames: after an error the file is unchanged.
///
/// # Errors
/// [`StoreError::Out`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    files::write_atomic(path, bytes).map_err(out_at(path))
}

pub(super) fn out_at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Out { path, error }
}

/// [`files::make_dir`] with the store's error.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    files::make_dir(path).map_err(at(path))
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Make the store readable and writable", which it was.
    #[test]
    fn a_stage_on_another_file_system_has_a_remedy_of_its_own() {
        let error = io::Error::from_raw_os_error(libc::EXDEV);
        let told = at(Path::new("/s/pretrain"))(error).to_string();
        assert!(
            told.ends_with("move the whole store, and link to that"),
            "{told}"
        );
        let full = at(Path::new("/s/pretrain"))(io::Error::from_raw_os_error(28)).to_string();
        assert!(full.ends_with(REMEDY), "{full}");
    }

    #[test]
    fn a_stage_that_fills_the_disk_names_place_and_remedy() {
        let work = [Path::new("/s/.tmp/count-1"), Path::new("/s/.state/count")];
        let said = |error: anyhow::Error| of_stage(error, work).to_string();
        let full = || io::Error::from_raw_os_error(28);
        let told = said(full().into());
        let begin = "/s/.tmp/count-1: No space left on device (os error 28); make the store";
        assert!(told.starts_with(begin) && told.ends_with(REMEDY), "{told}");
        let named = anyhow::anyhow!("/s/.state/count/state: {}", full());
        assert_eq!(
            said(named),
            format!("/s/.state/count/state: {}; {REMEDY}", full())
        );
        // Other places and other errors have their own remedies.
        for other in [format!("/models/a: {}", full()), "no".into()] {
            assert_eq!(said(anyhow::Error::msg(other.clone())), other);
        }
    }
}
