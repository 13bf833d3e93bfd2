//! Temporary files of dead processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tessera_models::files::{self, Owner};

use super::error::{StoreError, at};
use super::record;

/// A temporary file of another machine counts as that of a dead process after this time without a change.
const ELSEWHERE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Removes from a folder the temporary files and folders of processes that are certainly dead. Best effort.
pub fn sweep(folder: &Path) {
    for path in dirs_or_files(folder).iter().filter(|path| is_left(path)) {
        let _ = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
    }
}

/// Whether it has a temporary name and its process is dead. A process of another machine counts as dead after [`ELSEWHERE`].
pub(super) fn is_left(path: &Path) -> bool {
    match Owner::of(&file_name(path)) {
        Some(owner) if owner.is_here() => !is_alive(owner.pid),
        Some(_) => age(path) > ELSEWHERE,
        None => false,
    }
}

/// Whether a process of this machine lives.
pub fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    // A process of another user answers with EPERM, and lives.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The entries of a folder; none if it cannot be read.
pub(super) fn dirs_or_files(folder: &Path) -> Vec<PathBuf> {
    listed(folder).unwrap_or_default()
}

/// The entries of a folder, sorted; none if there is no such folder.
///
/// # Errors
/// When it cannot be read to its end.
pub(super) fn listed(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if files::says_absent(&error) => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let paths = entries.map(|entry| Ok(entry.map_err(at(folder))?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, StoreError>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// Time since the last change of a file, or of a folder or of a file in it.
pub(super) fn age(path: &Path) -> Duration {
    let within = record::files(path).unwrap_or_default();
    let all = within.iter().map(PathBuf::as_path).chain([path]);
    let times = all.filter_map(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    let age = |time: SystemTime| SystemTime::now().duration_since(time).ok();
    times.max().and_then(age).unwrap_or_default()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
