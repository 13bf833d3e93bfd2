//! `train/<class>/*` and `val/<class>/*`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Fingerprint, Split};

use super::classes::{Found, choose};
use super::decode::is_image;
use super::digest::{Digest, Stamp, recall, remember};
use super::encoded::Encoded;
use super::scan::{Seen, Told, assemble};
use super::{DataError, Scan};

/// Where the good images are.
pub struct Files {
    root: PathBuf,
    train: Vec<String>,
    val: Vec<String>,
}

impl Files {
    pub fn new(root: &Path, scan: &Scan) -> Self {
        Self {
            root: root.to_owned(),
            train: scan.train.names.clone(),
            val: scan.val.names.clone(),
        }
    }

    /// Files by their paths, all of them val.
    pub fn alone(paths: Vec<String>) -> Self {
        Self {
            root: PathBuf::new(),
            train: Vec::new(),
            val: paths,
        }
    }

    fn path(&self, split: Split, index: usize) -> PathBuf {
        let names = if split == Split::Train {
            &self.train
        } else {
            &self.val
        };
        self.root.join(&names[index])
    }
}

impl Encoded for Files {
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError> {
        let path = self.path(split, index);
        let gone = |e| DataError::at(&path, format!("{e}; it was there when the run began"));
        fs::read(&path).map_err(gone)
    }

    fn refuse(&self, split: Split, index: usize, message: String) -> DataError {
        DataError::at(&self.path(split, index), message)
    }
}

/// One candidate file.
struct Candidate {
    name: String,
    label: u32,
}

/// What is remembered of a file.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    digest: Digest,
}

pub fn scan(
    root: &Path,
    list: Option<&Path>,
    cache: &Path,
    told: Told<'_>,
) -> Result<Scan, DataError> {
    let classes = classes(root, list)?;
    let splits = [
        candidates(root, "train", &classes)?,
        candidates(root, "val", &classes)?,
    ];
    let total = splits[0].len() + splits[1].len();
    let key = Fingerprint::of(&[root.to_string_lossy().as_bytes()]);
    let cache = cache.join(format!("{}.json", &key.0[..32]));
    let known: HashMap<String, Known> = recall(&cache).unwrap_or_default();
    let done = AtomicUsize::new(0);
    let look = |c: &Candidate| {
        if (told.interrupted)() {
            return Err(DataError::Interrupted);
        }
        let now = look(&root.join(&c.name), known.get(&c.name))?;
        (told.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total, "images");
        Ok(now)
    };
    let [train, val] = &splits;
    let look_all = |split: &[Candidate]| split.par_iter().map(look).collect::<Result<Vec<_>, _>>();
    let looked = [look_all(train)?, look_all(val)?];
    let pairs = splits.iter().flatten().zip(looked.iter().flatten());
    let now: HashMap<&str, &Known> = pairs.map(|(c, known)| (c.name.as_str(), known)).collect();
    remember(&cache, &now);
    let mut looked = looked.into_iter();
    let seen = splits.map(|split| {
        let looked = looked.next().unwrap_or_default();
        let seen = split.into_iter().zip(looked).map(|(c, known)| Seen {
            name: c.name,
            label: c.label,
            digest: known.digest,
            place: None,
        });
        seen.collect()
    });
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
    assemble(name.unwrap_or_else(|| "images".into()), classes, seen)
}

/// Class folders in label order: the list's, or all of `train`, bytewise; `val` must have the same.
fn classes(root: &Path, list: Option<&Path>) -> Result<Vec<String>, DataError> {
    for split in ["train", "val"] {
        let path = root.join(split);
        if !path.is_dir() {
            return Err(DataError::at(
                &path,
                "no such folder; expected train/<class>/* and val/<class>/* below `root`: put the images so, or point `root` there",
            ));
        }
    }
    let found = Found {
        train: &folders(&root.join("train"))?,
        val: &folders(&root.join("val"))?,
        places: ["train", "val"].map(|split| root.join(split).display().to_string()),
        lacks: "has no folder in",
    };
    let classes = choose(&found, list, root)?;
    if classes.is_empty() {
        return Err(DataError::at(
            &root.join("train"),
            "no class folders in it; expected train/<class>/*",
        ));
    }
    Ok(classes)
}

fn candidates(root: &Path, split: &str, classes: &[String]) -> Result<Vec<Candidate>, DataError> {
    let mut all = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let path = root.join(split).join(class);
        let entries = fs::read_dir(&path).map_err(|e| DataError::at(&path, e.to_string()))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|e| is_image(&e.path()))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        if names.is_empty() {
            return Err(DataError::at(
                &path,
                "no images in this class folder (expected .jpg, .jpeg, .png or .webp); remove the folder or fill it",
            ));
        }
        names.sort_unstable();
        all.extend(names.into_iter().map(|n| Candidate {
            name: format!("{split}/{class}/{n}"),
            label: label as u32,
        }));
    }
    Ok(all)
}

fn folders(path: &Path) -> Result<Vec<String>, DataError> {
    let entries = fs::read_dir(path).map_err(|e| DataError::at(path, e.to_string()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().is_dir())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn look(path: &Path, known: Option<&Known>) -> Result<Known, DataError> {
    let refuse = |e: std::io::Error| DataError::at(path, e.to_string());
    let stamp = Stamp::of(&fs::metadata(path).map_err(refuse)?);
    if let Some(known) = known.filter(|known| known.stamp == stamp) {
        return Ok(known.clone());
    }
    let bytes = fs::read(path).map_err(refuse)?;
    Ok(Known {
        stamp,
        digest: Digest::of(&bytes),
    })
}
