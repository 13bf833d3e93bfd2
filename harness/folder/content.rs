//! Bytes, texts and JSON of a run folder, with errors that name the file and the remedy.

use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use tessera_models::{files, foreign};

use super::sums::RESTORE;

/// Most bytes of a text or a picture of a run folder. A picture has a few MiB, and the largest text, names and reasons of images that are left
/// out, has about 100 bytes for each.
const MOST: u64 = 256 << 20;

/// Returns the bytes of a file; `None` if it does not exist.
///
/// # Errors
/// If it exists but cannot be read, or is larger than any that a run writes.
pub fn bytes(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match files::read_up_to(path, MOST) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if files::says_absent(&error) => Ok(None),
        Err(error) => {
            let readable = match error.kind() {
                ErrorKind::PermissionDenied => "make it readable, or ",
                _ => "",
            };
            let message = format!("{}: {error}; {readable}{RESTORE}", path.display());
            Err(io::Error::new(error.kind(), message).into())
        }
    }
}

/// Returns the text of a file; `None` if it does not exist.
///
/// # Errors
/// As for [`bytes`], and if it is not UTF-8.
pub(super) fn text(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = bytes(path)?;
    if let Some(bytes) = &bytes {
        refuse_foreign(bytes, path)?;
    }
    let text = bytes.map(foreign::utf8).transpose();
    text.map_err(|found| {
        let path = path.display();
        anyhow!(
            "{path}: found {found}, expected UTF-8; if you have edited the file, save it again in that encoding (of spreadsheets: \"CSV UTF-8\"); or \
             {RESTORE}"
        )
    })
}

/// Refuses what lies in place of a file; an empty one has its own error.
fn refuse_foreign(bytes: &[u8], path: &Path) -> anyhow::Result<()> {
    match foreign::told(bytes).filter(|_| !bytes.is_empty()) {
        Some(what) => bail!("{}: {what}; or {RESTORE}", path.display()),
        None => Ok(()),
    }
}

/// Reads a file of JSON; `None` if it does not exist.
///
/// # Errors
/// As for [`text`], and if it is not the JSON that a run writes.
pub(super) fn json<T: for<'de> serde::Deserialize<'de>>(path: &Path) -> anyhow::Result<Option<T>> {
    let value = text(path)?.map(|text| serde_json::from_str(&text));
    let path = || format!("{}: not as it was written; {RESTORE}", path.display());
    value.transpose().with_context(path)
}
