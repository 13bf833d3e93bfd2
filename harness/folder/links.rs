//! Links in a run folder that others wrote: they could make this program overwrite, remove or publish files elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tessera_models::files;

use super::layout::{LIVE, LOCK, VISIBLE};

/// Levels of folders in a run folder: `submit/nodes/3.json`, `cells/a/history.csv`.
const LEVELS: usize = 3;

/// Refuses links that lead out of the run folder `out`, or to nothing. The folder itself may be one, and need not exist.
///
/// # Errors
/// The first such link, its target and the remedy; or if a folder cannot be read.
pub fn check(out: &Path) -> anyhow::Result<()> {
    let Ok(whole) = fs::canonicalize(out) else {
        return Ok(());
    };
    let names = VISIBLE.iter().chain([&LOCK, &LIVE]);
    names
        .map(|name| out.join(name))
        .try_for_each(|path| inside(&whole, path, LEVELS))
}

fn inside(whole: &Path, path: PathBuf, levels: usize) -> anyhow::Result<()> {
    let about = match fs::symlink_metadata(&path) {
        Ok(about) => about,
        Err(error) if files::says_absent(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    if about.is_symlink() && !fs::canonicalize(&path).is_ok_and(|to| to.starts_with(whole)) {
        let to = fs::read_link(&path).unwrap_or_default();
        bail!(
            "{}: found a link to {}, expected a file or folder in the run folder; a folder that others wrote could lead to any file; remove the \
             link, or use a copy without links (`cp -rL`)",
            path.display(),
            to.display()
        );
    }
    if !about.is_dir() || levels == 0 {
        return Ok(());
    }
    let named = || path.display().to_string();
    for entry in fs::read_dir(&path).with_context(named)? {
        let entry = entry.with_context(named)?;
        let kind = entry.file_type().with_context(named)?;
        if kind.is_dir() || kind.is_symlink() {
            inside(whole, entry.path(), levels - 1)?;
        }
    }
    Ok(())
}
