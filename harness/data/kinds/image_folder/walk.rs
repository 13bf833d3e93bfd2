//! Lists the images of a class folder and of the folders below it, and everything else that lies there.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tessera_models::files;

use crate::data::decode::is_image;
use crate::data::error::DataError;
use crate::data::foreign::{HIDDEN, foreign, is_hidden};
use crate::data::left_out::Omitted;
use crate::data::names::Names;

/// Levels of folders below a class folder; deeper ones are links that lead in circles through other file systems.
const MOST_LEVELS: usize = 32;
/// Bytes that tell the format of a file.
const FIRST: u64 = 64;

/// What a folder holds.
#[derive(Default)]
pub struct Listing {
    /// Paths of the images relative to the root, sorted.
    pub images: Names,
    /// Everything else.
    pub omitted: Omitted,
}

/// An entry of a folder, with links followed.
pub enum Entry {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// A pipe, socket or device.
    Special,
    /// A link to nothing, or to itself.
    Dangling,
}

impl Entry {
    /// Returns what an entry is; the file type of its folder's listing saves a system call for each plain file.
    pub fn of(entry: &DirEntry) -> Result<Self, DataError> {
        let refuse = |error: std::io::Error| DataError::at(&entry.path(), error.to_string());
        let kind = entry.file_type().map_err(refuse)?;
        let kind = match kind.is_symlink() {
            false => kind,
            true => match fs::metadata(entry.path()) {
                Ok(about) => about.file_type(),
                Err(error) if is_dangling(&error) => return Ok(Self::Dangling),
                Err(error) => return Err(refuse(error)),
            },
        };
        Ok(match (kind.is_dir(), kind.is_file()) {
            (true, _) => Self::Folder,
            (_, true) => Self::File,
            _ => Self::Special,
        })
    }
}

/// Whether a link leads to nothing or in a circle.
pub fn is_dangling(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP)
}

/// Returns the entries of a folder.
///
/// # Errors
/// If it cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<DirEntry>, DataError> {
    let read = fs::read_dir(folder).and_then(Iterator::collect);
    read.map_err(|e: std::io::Error| DataError::at(folder, e.to_string()))
}

/// Returns the name of an image or class, which must be UTF-8.
///
/// # Errors
/// If it is not.
pub fn utf8(entry: &DirEntry) -> Result<String, DataError> {
    let refuse = |_| DataError::at(&entry.path(), "the name is not UTF-8; rename it");
    entry.file_name().into_string().map_err(refuse)
}

/// Lists the images in the class folder `folder` (relative to `root`) and in the folders below it.
///
/// # Errors
/// If a folder cannot be read, links lead in a circle, or the name of an image or folder is not UTF-8.
pub fn walk(root: &Path, folder: &str) -> Result<Listing, DataError> {
    let mut listing = Listing::default();
    let mut images = Vec::new();
    let mut others: Vec<Other> = Vec::new();
    let mut open: Vec<(String, Vec<(u64, u64)>)> = vec![(folder.to_owned(), Vec::new())];
    while let Some((folder, mut above)) = open.pop() {
        let path = root.join(&folder);
        let refuse = |message: String| DataError::at(&path, message);
        let about: Metadata = fs::metadata(&path).map_err(|e| refuse(e.to_string()))?;
        let own = (about.dev(), about.ino());
        if above.contains(&own) {
            return Err(refuse(
                "is a link to a folder above it; remove the link".to_owned(),
            ));
        }
        if above.len() > MOST_LEVELS {
            return Err(refuse(format!(
                "is more than {MOST_LEVELS} folders below its class, expected at most {MOST_LEVELS}; move its images up"
            )));
        }
        above.push(own);
        for entry in entries(&path)? {
            let name = entry.file_name();
            let relative = || format!("{folder}/{}", name.to_string_lossy());
            if is_hidden(name.as_encoded_bytes()) {
                others.push((relative(), entry.path(), None));
                continue;
            }
            match Entry::of(&entry)? {
                Entry::Folder => open.push((format!("{folder}/{}", utf8(&entry)?), above.clone())),
                // A dangling link stands for an image that is missing.
                Entry::File | Entry::Dangling if is_image(Path::new(&name)) => {
                    images.push([&folder, "/", &utf8(&entry)?].concat());
                }
                other => others.push((relative(), entry.path(), Some(other))),
            }
        }
    }
    images.sort_unstable();
    listing.images = images.iter().collect();
    report(others, &mut listing.omitted);
    Ok(listing)
}

/// A file that is not read: its path relative to the root, its path, and what it is unless it is hidden.
type Other = (String, PathBuf, Option<Entry>);

/// Adds files that are not read by name, so that equal folders are reported in equal order.
fn report(mut others: Vec<Other>, omitted: &mut Omitted) {
    others.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, path, entry) in others {
        match entry {
            None => omitted.other(name, HIDDEN),
            Some(entry) => leave_out(omitted, name, &path, &entry),
        }
    }
}

/// Adds a file that is not read.
pub fn leave_out(omitted: &mut Omitted, name: String, path: &Path, entry: &Entry) {
    match entry {
        Entry::Special if is_image(path) => {
            omitted.image(name, "is a pipe, socket or device; remove it")
        }
        Entry::Special => omitted.other(name, "pipes, sockets and devices"),
        Entry::Dangling => omitted.other(name, "links to nothing"),
        Entry::File | Entry::Folder => match foreign_file(path) {
            Some(reason) => omitted.image(name, reason),
            None => omitted.other(name, "no images"),
        },
    }
}

/// Returns why a plain file is an image that is left out; `None` for other files.
fn foreign_file(path: &Path) -> Option<String> {
    let mut first = Vec::new();
    // A file that cannot be read is judged by its extension.
    if let Ok(file) = files::open(path) {
        let _ = file.take(FIRST).read_to_end(&mut first);
    }
    let extension = path.extension().and_then(OsStr::to_str);
    foreign(extension.unwrap_or_default(), &first)
}

/// Returns the path of `name` in `folder`, which is relative to the root and empty for the root itself.
pub fn joined(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// What lies directly in a split.
#[derive(Default)]
pub struct Split {
    /// Class folders, sorted.
    pub classes: Vec<String>,
    /// Images beside the class folders.
    pub loose: Vec<String>,
    /// Everything else.
    pub omitted: Omitted,
}

/// Lists a split; an empty `name` is the root itself.
///
/// # Errors
/// If it cannot be read, or the name of a class is not UTF-8.
pub fn split(root: &Path, name: &str) -> Result<Split, DataError> {
    let mut split = Split::default();
    let folder: PathBuf = root.join(name);
    let mut others: Vec<Other> = Vec::new();
    for entry in entries(&folder)? {
        let path = entry.path();
        let relative = joined(name, &entry.file_name().to_string_lossy());
        if is_hidden(entry.file_name().as_encoded_bytes()) {
            others.push((relative, path, None));
            continue;
        }
        match Entry::of(&entry)? {
            Entry::Folder => split.classes.push(utf8(&entry)?),
            Entry::File if is_image(&path) => split.loose.push(relative),
            other => others.push((relative, path, Some(other))),
        }
    }
    report(others, &mut split.omitted);
    split.loose.sort_unstable();
    for name in &split.loose {
        let reason = "lies in no class folder; move it into one";
        split.omitted.image(name, reason);
    }
    split.classes.sort_unstable();
    Ok(split)
}
