//! `train/<class>/*` and `val/<class>/*`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Fingerprint, Image, Split};

use super::decode::{decode, is_image};
use super::scan::class_hash;
use super::{DataError, Scan, Skipped, SplitScan};

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

    pub fn decode(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let bytes = self.read(split, index)?;
        decode(&bytes).map_err(|e| self.refuse(split, index, e))
    }

    /// The bytes of a file.
    pub fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError> {
        let path = self.path(split, index);
        fs::read(&path).map_err(|e| refuse(&path, format!("{e}; it was there when the run began")))
    }

    /// What is wrong with a file's bytes.
    pub fn refuse(&self, split: Split, index: usize, message: String) -> DataError {
        let path = self.path(split, index);
        refuse(&path, format!("{message}; it decoded when it was scanned"))
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

/// One candidate file.
struct Candidate {
    name: String,
    label: u32,
}

/// What is remembered of a file, valid while its size and time stay.
#[derive(Clone, Serialize, Deserialize)]
struct Digest {
    bytes: u64,
    modified_ns: u128,
    blake3: String,
    broken: Option<String>,
}

pub fn scan(
    root: &Path,
    list: Option<&Path>,
    cache: &Path,
    progress: &(dyn Fn(usize, usize, &str) + Sync),
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Scan, DataError> {
    let classes = classes(root, list)?;
    let splits = [
        candidates(root, "train", &classes)?,
        candidates(root, "val", &classes)?,
    ];
    let total = splits[0].len() + splits[1].len();
    let key = Fingerprint::of(&[root.to_string_lossy().as_bytes()]);
    let cache = cache.join(format!("{}.json", &key.0[..32]));
    let known: HashMap<String, Digest> = fs::read(&cache)
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default();
    let done = AtomicUsize::new(0);
    let digests = splits.iter().map(|candidates| {
        let digests = candidates.par_iter().map(|c| {
            if interrupted() {
                return Err(DataError::Interrupted);
            }
            let digest = digest(&root.join(&c.name), known.get(&c.name))?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total, "images");
            Ok(digest)
        });
        digests.collect::<Result<Vec<_>, _>>()
    });
    let digests = digests.collect::<Result<Vec<_>, _>>()?;
    remember(&cache, &splits, &digests);
    assemble(root, classes, &splits, &digests)
}

fn assemble(
    root: &Path,
    classes: Vec<String>,
    splits: &[Vec<Candidate>; 2],
    digests: &[Vec<Digest>],
) -> Result<Scan, DataError> {
    let mut hasher = blake3::Hasher::new();
    let mut skipped = Vec::new();
    let mut scans = [SplitScan::default(), SplitScan::default()];
    for ((candidates, digests), scan) in splits.iter().zip(digests).zip(&mut scans) {
        for (candidate, digest) in candidates.iter().zip(digests) {
            if let Some(reason) = &digest.broken {
                skipped.push(Skipped {
                    name: candidate.name.clone(),
                    reason: reason.clone(),
                });
                continue;
            }
            hasher.update(
                format!(
                    "{}\0{}\0{}\0{}\n",
                    candidate.name, digest.bytes, digest.blake3, candidate.label
                )
                .as_bytes(),
            );
            scan.names.push(candidate.name.clone());
            scan.labels.push(candidate.label);
        }
    }
    let total = splits[0].len() + splits[1].len();
    if let Some(first) = skipped.first().filter(|_| skipped.len() * 100 > total) {
        return Err(DataError::TooManyBroken {
            broken: skipped.len(),
            total,
            first: format!("{}: {}", first.name, first.reason),
        });
    }
    let [train, val] = scans;
    Ok(Scan {
        name: root
            .file_name()
            .map_or_else(|| "images".into(), |n| n.to_string_lossy().into_owned()),
        class_list_hash: class_hash(&classes),
        classes,
        train,
        val,
        skipped,
        fingerprint: Fingerprint(hasher.finalize().to_hex().to_string()),
    })
}

/// Class folders in label order: the list's, or all of `train`, bytewise; `val` must have the same.
fn classes(root: &Path, list: Option<&Path>) -> Result<Vec<String>, DataError> {
    for split in ["train", "val"] {
        let path = root.join(split);
        if !path.is_dir() {
            return Err(refuse(
                &path,
                "no such folder; expected train/<class>/* and val/<class>/* below `root`: put the images so, or point `root` there",
            ));
        }
    }
    let train = folders(&root.join("train"))?;
    let val = folders(&root.join("val"))?;
    if let Some(list) = list {
        let text = fs::read_to_string(list).map_err(|e| refuse(list, e.to_string()))?;
        let names: Vec<String> = text
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .filter(|n| !n.starts_with('#'))
            .map(String::from)
            .collect();
        let absent = names
            .iter()
            .find(|n| !train.contains(n) || !val.contains(n));
        if let Some(name) = absent {
            return Err(refuse(
                list,
                format!(
                    "class `{name}` has no folder in {}/train and {}/val",
                    root.display(),
                    root.display()
                ),
            ));
        }
        if names.is_empty() {
            return Err(refuse(list, "no class names in it; expected one per line"));
        }
        return Ok(names);
    }
    if train != val {
        let odd = |a: &[String], b: &[String]| {
            a.iter()
                .filter(|n| !b.contains(n))
                .take(3)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        };
        return Err(refuse(
            root,
            format!(
                "train and val have different classes (only in train: {}; only in val: {}); they must be the same, or give a `classes:` list",
                odd(&train, &val),
                odd(&val, &train)
            ),
        ));
    }
    if train.is_empty() {
        return Err(refuse(
            &root.join("train"),
            "no class folders in it; expected train/<class>/*",
        ));
    }
    Ok(train)
}

fn candidates(root: &Path, split: &str, classes: &[String]) -> Result<Vec<Candidate>, DataError> {
    let mut all = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let path = root.join(split).join(class);
        let entries = fs::read_dir(&path).map_err(|e| refuse(&path, e.to_string()))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|e| is_image(&e.path()))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        if names.is_empty() {
            return Err(refuse(
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
    let entries = fs::read_dir(path).map_err(|e| refuse(path, e.to_string()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().is_dir())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn digest(path: &Path, known: Option<&Digest>) -> Result<Digest, DataError> {
    let about = fs::metadata(path).map_err(|e| refuse(path, e.to_string()))?;
    let modified = about
        .modified()
        .ok()
        .and_then(|m| m.duration_since(std::time::UNIX_EPOCH).ok());
    let modified_ns = modified.map_or(0, |d| d.as_nanos());
    if let Some(known) = known.filter(|k| k.bytes == about.len() && k.modified_ns == modified_ns) {
        return Ok(known.clone());
    }
    let bytes = fs::read(path).map_err(|e| refuse(path, e.to_string()))?;
    Ok(Digest {
        bytes: about.len(),
        modified_ns,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        broken: decode(&bytes).err(),
    })
}

/// Best effort: a cache that cannot be written only costs the next scan time.
fn remember(cache: &Path, splits: &[Vec<Candidate>; 2], digests: &[Vec<Digest>]) {
    let pairs = splits.iter().flatten().zip(digests.iter().flatten());
    let map: HashMap<&str, &Digest> = pairs.map(|(c, d)| (c.name.as_str(), d)).collect();
    if let Ok(bytes) = serde_json::to_vec(&map) {
        let _ = crate::store::write_atomic(cache, &bytes);
    }
}

fn refuse(path: &Path, message: impl Into<String>) -> DataError {
    DataError::Path {
        path: path.to_owned(),
        message: message.into(),
    }
}
