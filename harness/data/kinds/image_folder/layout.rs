//! The folders of a dataset, and messages about other layouts.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use tessera_models::files::{is_absent, says_absent};
use tessera_models::foreign;

use super::walk::{Split, entries, split};
use crate::data::classes::{Found, choose};
use crate::data::decode::is_image;
use crate::data::error::DataError;
use crate::data::foreign::is_hidden;
use crate::data::left_out::Omitted;

const LAYOUT: &str = "expected train/<class>/* and val/<class>/*, or class folders alone, most of which hold images directly";
/// A suite names the folder as `root`; `bench init` and `bench score` get it as an argument.
const OTHER: &str = "or name another folder (`root` in a suite)";
/// Other names of the val split.
const VAL: &[&str] = &[
    "validation",
    "valid",
    "val_images",
    "test",
    "dev",
    "eval",
    "Val",
    "VAL",
];
/// Folders that a message names.
const NAMED: usize = 6;

/// The class folders of a root.
pub struct Layout {
    /// Names in label order.
    pub classes: Vec<String>,
    /// The folder of each split, relative to the root and empty for the root itself. A root may have no val split.
    pub splits: [Option<&'static str>; 2],
    /// What lies beside the class folders.
    pub omitted: Omitted,
}

/// Returns the class folders: those of the list, or all of `train` in bytewise order. `val` must have the same, if it exists. Without
/// `train`, the class folders lie in the root.
///
/// # Errors
/// What was found in place of the layout, and the remedy.
pub fn classes(root: &Path, list: Option<&Path>) -> Result<Layout, DataError> {
    let splits = match fs::metadata(root.join("train")) {
        Err(error) if says_absent(&error) && is_flat(root) => [Some(""), None],
        Ok(_) if is_train_only(root) => [Some("train"), None],
        _ => [Some("train"), Some("val")],
    };
    let read = splits.map(|name| {
        let Some(name) = name else { return Ok(None) };
        exists(root, name)?;
        let split = split(root, name)?;
        sorted_into_classes(root, name, &split)?;
        Ok::<_, DataError>(Some(split))
    });
    let [train, val] = read;
    let (train, val) = (train?.unwrap_or_default(), val?);
    let places: Vec<String> = splits
        .into_iter()
        .flatten()
        .map(|split| root.join(split).display().to_string())
        .collect();
    let found = Found {
        train: &train.classes,
        val: val.as_ref().map_or(&train.classes, |val| &val.classes),
        places: places.join(" and "),
        lacks: "has no folder in",
    };
    let classes = choose(&found, list, root)?;
    let mut omitted = train.omitted;
    omitted.append(val.unwrap_or_default().omitted);
    if splits[0] == Some("train") {
        beside(root, &splits, &mut omitted);
    }
    Ok(Layout {
        classes,
        splits,
        omitted,
    })
}

/// Adds images and folders of images in the root, which lie in no split: loose images, and folders that hold images or are called as a split.
fn beside(root: &Path, splits: &[Option<&str>; 2], omitted: &mut Omitted) {
    let mut all: Vec<PathBuf> = entries(root)
        .unwrap_or_default()
        .iter()
        .map(|entry| entry.path())
        .collect();
    all.sort_unstable();
    for path in all {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A split may be a link to a folder of another name.
        let is_split_of =
            |split: &&str| path.canonicalize().ok() == root.join(split).canonicalize().ok();
        let is_other = !splits.iter().flatten().any(is_split_of);
        let is_hidden = is_hidden(name.as_bytes());
        let is_image = || match path.is_dir() {
            true => is_split(&path) || holds_image(&path, DEEP),
            false => path.is_file() && is_image(&path),
        };
        if is_other && !is_hidden && is_image() {
            omitted.other(name, "in no split");
        }
    }
}

/// Levels of folders below a folder in the root in which images are looked for: a split has its images in the first, and some lie deeper.
const DEEP: usize = 2;

/// Returns whether an image lies in `folder` or at most `deep` folders below it. Other files, of which there may be millions, are not looked at.
fn holds_image(folder: &Path, deep: usize) -> bool {
    let all = entries(folder).unwrap_or_default();
    let is_folder = |entry: &&DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut paths = all.iter().map(DirEntry::path);
    let mut folders = all.iter().filter(is_folder);
    paths.any(|path| is_image(&path) && path.is_file())
        || deep > 0 && folders.any(|inner| holds_image(&inner.path(), deep - 1))
}

/// Returns the names of the visible folders in `folder`, sorted.
fn folders(folder: &Path) -> Vec<String> {
    let all = entries(folder).unwrap_or_default();
    let visible = all
        .iter()
        .filter(|e| !is_hidden(e.file_name().as_encoded_bytes()));
    let mut folders: Vec<String> = visible
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort_unstable();
    folders
}

/// Returns whether `folder` is called as a split is.
fn is_split(folder: &Path) -> bool {
    let own = folder.file_name().and_then(|own| own.to_str());
    own.is_some_and(|own| own == "train" || own == "val" || VAL.contains(&own))
}

/// Returns whether the folders in `root` are class folders: each holds an image, or none is called as a split is and more hold an image than
/// only folders, so that an empty class folder or one with folders does not hide the others. A split is not taken for a root, because the
/// other split lies beside it.
fn is_flat(root: &Path) -> bool {
    let folders = folders(root);
    let (mut holding, mut nested) = (0, 0);
    for folder in &folders {
        let entries = entries(&root.join(folder)).unwrap_or_default();
        let paths = || entries.iter().map(|entry| entry.path());
        match paths().any(|path| is_image(&path)) {
            true => holding += 1,
            false => nested += usize::from(paths().any(|path| path.is_dir())),
        }
    }
    let has_split = folders.iter().any(|name| is_split(Path::new(name)));
    let all = holding == folders.len();
    !is_split(root) && holding > 0 && (all || (!has_split && holding > nested))
}

/// Returns whether `root` has no val split under any name.
fn is_train_only(root: &Path) -> bool {
    let absent = is_absent(&root.join("val"));
    absent
        && !folders(root)
            .iter()
            .any(|name| VAL.contains(&name.as_str()))
}

/// Checks that a split has class folders.
fn sorted_into_classes(root: &Path, name: &str, split: &Split) -> Result<(), DataError> {
    if !split.classes.is_empty() {
        return Ok(());
    }
    let found = match split.loose.len() {
        0 => "contains no class folders".to_owned(),
        loose => format!("contains {loose} images and no class folders"),
    };
    Err(DataError::at(
        &root.join(name),
        format!(
            "{found}; expected {name}/<class>/*; move every image into the folder of its class"
        ),
    ))
}

/// Returns the first of some names.
fn named(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        text.push_str(", ...");
    }
    text
}

/// Checks that `root` has the folder of a split.
fn exists(root: &Path, name: &str) -> Result<(), DataError> {
    let path = root.join(name);
    let found = match fs::metadata(&path) {
        Ok(about) if about.is_dir() => return Ok(()),
        Ok(_) => "is no folder".to_owned(),
        Err(error) if says_absent(&error) => "no such folder".to_owned(),
        Err(error) => error.to_string(),
    };
    let remedy = remedy(root, name);
    Err(DataError::at(&path, format!("{found}; {LAYOUT}; {remedy}")))
}

/// Returns what is in place of the folder `name`, and what to do about it.
fn remedy(root: &Path, name: &str) -> String {
    let given = root.display().to_string();
    if root.is_file() {
        let what = foreign::told_of(root);
        let archive = what.and_then(|what| what.split_once("; unpack it"));
        return match archive {
            Some((what, _)) => format!("`{given}` {what}; unpack it, and name the folder"),
            None => format!("`{given}` is a file; name the folder"),
        };
    }
    if entries(root).is_err() {
        return match given.contains('\\') {
            true => format!("`{given}` does not exist; write / in place of \\"),
            false => format!("`{given}` does not exist; move the images, {OTHER}"),
        };
    }
    let folders = folders(root);
    let other = folders.iter().find(|folder| VAL.contains(&folder.as_str()));
    if let Some(other) = other.filter(|_| name == "val") {
        return format!("found `{other}`; rename it to `val`, or link `val` to it");
    }
    if is_split(root) {
        return format!("`{given}` is a split; name the folder above it as `root`");
    }
    let inner = folders
        .iter()
        .find(|folder| root.join(folder).join(name).is_dir());
    if let Some(inner) = inner {
        return format!("found {inner}/{name}; set `root` to {given}/{inner}");
    }
    let entries = entries(root).unwrap_or_default();
    let loose = entries
        .iter()
        .filter(|entry| is_image(&entry.path()))
        .count();
    match (folders.is_empty(), loose) {
        (true, 0) => {
            format!("found neither folders nor images in {given}; move the images, {OTHER}")
        }
        (true, _) => format!(
            "found {loose} images and no class folders in {given}; metrics and probes need the class of every image: move each image \
             into the folder of its class, {OTHER}"
        ),
        (false, _) => {
            format!(
                "found {} in {given}; move the images, {OTHER}",
                named(&folders)
            )
        }
    }
}
