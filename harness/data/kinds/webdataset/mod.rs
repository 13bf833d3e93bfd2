//! WebDataset: `.tar` shards of images with a label file for each, read in place.
//!
//! A scan stores the shard, offset and length of every image, so each image is one read and nothing is unpacked. The scan equals that
//! of a folder of the same images: an image's name is `<split>/<path in the archive>`, the order is class, then name, and the
//! fingerprint covers names, sizes, contents and labels, not shards.

mod fields;
mod index;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, Fingerprint, Split, schemars};

use crate::data::classes::{Found, choose, read_names};
use crate::data::contract::{DatasetFactory, DatasetSpec, PixelSource, ScanContext};
use crate::data::decoding::Decoding;
use crate::data::digest::{Digest, Stamp, recall, remember};
use crate::data::encoded::{Encoded, Scanned, assemble};
use crate::data::error::DataError;
use crate::data::scan::{Place, Scan, SplitScan};
use fields::{Fields, patterns};
use index::Member;

/// Factory of `webdataset`.
pub struct Factory;

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "webdataset"
    }

    fn summary(&self) -> &'static str {
        "local .tar shards of JPEG, PNG or WebP, with a .cls or .json label for each image"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let fields: Fields = with.parse()?;
        Ok(Box::new(WebDataset {
            train: patterns(with, "train", &fields.train)?,
            val: patterns(with, "val", &fields.val)?,
            class_names: fields.class_names.map(|c| with.resolve_path(c)),
            classes: fields.classes.map(|c| with.resolve_path(c)),
            decoding: Decoding::of_fields(with, fields.fast_decode, fields.decoded_cache)?,
        }))
    }
}

/// Shards, and the names of their labels.
#[derive(Clone, Debug, Default)]
pub struct WebDataset {
    /// Files, globs or folders with the train split.
    pub train: Vec<PathBuf>,
    /// Files, globs or folders with the val split.
    pub val: Vec<PathBuf>,
    /// A file whose lines name labels 0, 1, and so on.
    pub class_names: Option<PathBuf>,
    /// A file with the names of the selected classes, in label order.
    pub classes: Option<PathBuf>,
    /// How images are decoded.
    pub decoding: Decoding,
}

impl DatasetSpec for WebDataset {
    fn decoding(&self) -> Decoding {
        self.decoding
    }

    fn scan(&self, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
        scan(self, cx)
    }

    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError> {
        Ok(PixelSource::Encoded(Box::new(Members {
            train: scan.train.clone(),
            val: scan.val.clone(),
        })))
    }
}

impl Place {
    fn read(self, shard: &Path) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(shard)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = vec![0; self.bytes as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The images of scanned shards.
struct Members {
    train: SplitScan,
    val: SplitScan,
}

impl Members {
    fn split(&self, split: Split) -> &SplitScan {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    fn shard(&self, split: Split, index: usize) -> &Path {
        let split = self.split(split);
        &split.shards[split.places[index].shard as usize]
    }
}

impl Encoded for Members {
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError> {
        let read = self.split(split).places[index].read(self.shard(split, index));
        read.map_err(|e| {
            self.refuse(
                split,
                index,
                format!("{e}; it was there when the run began"),
            )
        })
    }

    fn refuse(&self, split: Split, index: usize, message: String) -> DataError {
        let name = &self.split(split).names[index];
        DataError::at(
            self.shard(split, index),
            format!("image `{name}`: {message}"),
        )
    }
}

/// Cached result for a shard.
#[derive(Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    members: Vec<Member>,
}

/// A shard during a scan.
struct Shard {
    path: PathBuf,
    cache: PathBuf,
    known: Known,
    /// Whether the cache must be written.
    changed: bool,
}

fn scan(spec: &WebDataset, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
    let mut splits = [open(&spec.train, cx)?, open(&spec.val, cx)?];
    let naming = Naming::of(spec, &splits)?;
    for shard in splits.iter_mut().flatten() {
        naming.classify(shard)?;
    }
    let first = splits[0][0].path.clone();
    let classes = naming.classes(spec, &splits, &first)?;
    let label_of: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    decode_new(&mut splits, &label_of, cx)?;
    let shards = [0, 1].map(|split| splits[split].iter().map(|s| s.path.clone()).collect());
    let [train, val] = splits;
    let images = [
        in_order("train", train, &label_of)?,
        in_order("val", val, &label_of)?,
    ];
    let folder = first.parent().and_then(Path::file_name);
    let name = folder.map_or_else(|| "shards".into(), |n| n.to_string_lossy().into_owned());
    let mut scan = assemble(name, classes, images)?;
    [scan.train.shards, scan.val.shards] = shards;
    Ok(scan)
}

/// Opens the shards, each with its cached or new index.
fn open(paths: &[PathBuf], cx: &ScanContext<'_>) -> Result<Vec<Shard>, DataError> {
    let files = paths.iter().map(|path| pattern::files(path));
    let files = files.collect::<Result<Vec<_>, _>>()?.concat();
    let shards = files.into_par_iter().map(|path| {
        if (cx.interrupted)() {
            return Err(DataError::Interrupted);
        }
        let about = fs::metadata(&path).map_err(|e| DataError::at(&path, e.to_string()))?;
        let stamp = Stamp::of(&about);
        let key = Fingerprint::of(&[b"shard", path.to_string_lossy().as_bytes()]);
        let cache = cx.cache.join(format!("{}.json", &key.0[..32]));
        let known = recall::<Known>(&cache).filter(|known| known.stamp == stamp);
        let changed = known.is_none();
        let known = match known {
            Some(known) => known,
            None => Known {
                stamp,
                members: index::index(&path)?,
            },
        };
        Ok(Shard {
            path,
            cache,
            known,
            changed,
        })
    });
    let shards: Vec<Shard> = shards.collect::<Result<_, _>>()?;
    if let Some(path) = paths
        .first()
        .filter(|_| shards.iter().all(|s| s.known.members.is_empty()))
    {
        return Err(DataError::at(
            path,
            "no image in these shards; expected .jpg, .jpeg, .png or .webp, each with a .cls or .json of the same key",
        ));
    }
    Ok(shards)
}

/// The meaning of labels.
enum Naming {
    /// Numbers, named by the lines of a file.
    Lines(Vec<String>, PathBuf),
    /// Numbers without names.
    Numbers,
    /// Names.
    Texts,
}

impl Naming {
    fn of(spec: &WebDataset, splits: &[Vec<Shard>; 2]) -> Result<Self, DataError> {
        if let Some(file) = &spec.class_names {
            return Ok(Self::Lines(read_names(file, true)?, file.clone()));
        }
        let mut members = splits.iter().flatten().flat_map(|s| &s.known.members);
        Ok(match members.all(|m| m.label.parse::<u32>().is_ok()) {
            true => Self::Numbers,
            false => Self::Texts,
        })
    }

    /// Sets the class of every image of a shard.
    fn classify(&self, shard: &mut Shard) -> Result<(), DataError> {
        for member in &mut shard.known.members {
            let number = member.label.parse::<usize>().ok();
            member.class = match (self, number) {
                (Self::Numbers, Some(number)) => number.to_string(),
                (Self::Numbers | Self::Texts, _) => member.label.clone(),
                (Self::Lines(names, file), number) => {
                    let name = number.and_then(|number| names.get(number));
                    name.cloned().ok_or_else(|| {
                        let (path, label, lines) = (&member.path, &member.label, names.len());
                        DataError::at(
                            &shard.path,
                            format!(
                                "the label of `{path}` is {label}, expected a number in 0..{lines}, the lines of class_names ({}); \
                                 correct the label or the file",
                                file.display()
                            ),
                        )
                    })?
                }
            };
        }
        Ok(())
    }

    /// Returns the classes in label order.
    fn classes(
        &self,
        spec: &WebDataset,
        splits: &[Vec<Shard>; 2],
        at: &Path,
    ) -> Result<Vec<String>, DataError> {
        let [train, val] = [0, 1].map(|split| self.present(&splits[split]));
        let place = |patterns: &[PathBuf]| match patterns {
            [only] => only.display().to_string(),
            [first, ..] => format!("{} ...", first.display()),
            [] => String::new(),
        };
        let found = Found {
            train: &train,
            val: &val,
            places: [place(&spec.train), place(&spec.val)],
            lacks: "has no image in",
        };
        choose(&found, spec.classes.as_deref(), at)
    }

    fn present(&self, shards: &[Shard]) -> Vec<String> {
        let members = shards.iter().flat_map(|shard| &shard.known.members);
        let present: BTreeSet<&str> = members.map(|m| m.class.as_str()).collect();
        match self {
            Self::Lines(names, _) => {
                let names = names.iter().filter(|name| present.contains(name.as_str()));
                names.cloned().collect()
            }
            Self::Numbers => {
                let mut names: Vec<&str> = present.into_iter().collect();
                names.sort_by_key(|name| name.parse::<usize>().unwrap_or(usize::MAX));
                names.into_iter().map(String::from).collect()
            }
            Self::Texts => present.into_iter().map(String::from).collect(),
        }
    }
}

/// Decodes every image of a class in `wanted` that no earlier scan decoded, and caches the result.
fn decode_new(
    splits: &mut [Vec<Shard>; 2],
    wanted: &HashMap<&str, u32>,
    cx: &ScanContext<'_>,
) -> Result<(), DataError> {
    let is_wanted = |member: &&mut Member| wanted.contains_key(member.class.as_str());
    let all = splits.iter().flatten().flat_map(|s| &s.known.members);
    let total = all
        .filter(|m| wanted.contains_key(m.class.as_str()))
        .count();
    let done = AtomicUsize::new(0);
    for shard in splits.iter_mut().flatten() {
        let (path, members) = (&shard.path, &mut shard.known.members);
        let decoded = members.par_iter_mut().filter(is_wanted).map(|member| {
            if (cx.interrupted)() {
                return Err(DataError::Interrupted);
            }
            let changed = member.digest.is_none();
            if changed {
                let bytes = member.place(0).read(path);
                let bytes =
                    bytes.map_err(|e| DataError::at(path, format!("`{}`: {e}", member.path)))?;
                member.digest = Some(Digest::of(&bytes));
            }
            (cx.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total, "images");
            Ok(changed)
        });
        let changed = decoded.try_reduce(|| false, |a, b| Ok(a || b))?;
        if changed || shard.changed {
            remember(&shard.cache, &shard.known);
        }
    }
    Ok(())
}

/// Returns the images of the chosen classes in scan order: class, then name.
fn in_order(
    split: &str,
    shards: Vec<Shard>,
    label_of: &HashMap<&str, u32>,
) -> Result<Vec<Scanned>, DataError> {
    let mut images = Vec::new();
    let mut shard_of: HashMap<String, usize> = HashMap::new();
    let paths: Vec<PathBuf> = shards.iter().map(|shard| shard.path.clone()).collect();
    for (number, shard) in shards.into_iter().enumerate() {
        for member in shard.known.members {
            // Every image of a chosen class has a digest.
            let label = label_of.get(member.class.as_str());
            let (Some(label), Some(digest)) = (label, member.digest.clone()) else {
                continue;
            };
            let place = member.place(number as u32);
            let path = member.path;
            let within = path.strip_prefix(split).and_then(|p| p.strip_prefix('/'));
            let name = format!("{split}/{}", within.unwrap_or(&path));
            if let Some(other) = shard_of.insert(name.clone(), number) {
                return Err(DataError::at(
                    &paths[number],
                    format!(
                        "image `{path}` is in {} too; expected every image of the {split} split once; name each shard once, \
                         and give every sample its own key",
                        paths[other].display()
                    ),
                ));
            }
            images.push(Scanned {
                name,
                label: *label,
                digest,
                place: Some(place),
            });
        }
    }
    images.sort_by(|a, b| (a.label, &a.name).cmp(&(b.label, &b.name)));
    Ok(images)
}
