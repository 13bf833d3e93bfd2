//! WebDataset: `.tar` shards of images with a label file for each, read in place.
//!
//! A scan stores the shard, offset and length of every image, so each image is one read and nothing is unpacked. The scan equals that
//! of a folder of the same images: an image's name is `<split>/<path in the archive>`, the order is class, then name, and the
//! fingerprint covers names, sizes, contents and labels, not shards.

mod archive;
mod fields;
mod index;
mod order;
mod pattern;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use tessera_models::files;
use tessera_tokenizers::{Config, ConfigError, Fingerprint, Split, schemars};

use crate::data::classes::{Found, choose, read_names};
use crate::data::contract::{DatasetFactory, DatasetSpec, PixelSource, ScanContext, Survey};
use crate::data::decoding::Decoding;
use crate::data::digest::{Digest, Stamp, recall, remember};
use crate::data::encoded::{Assembly, Encoded};
use crate::data::error::DataError;
use crate::data::hold_out::HoldOut;
use crate::data::scan::{Place, Scan, SplitScan};
use fields::{Fields, patterns};
use index::is_number;
use order::in_order;
use shard::{Known, Shard};

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
        if fields.val.is_some() && fields.hold_out.is_some() {
            let message = "found `hold_out` beside `val`, expected one of them; leave `hold_out` out to use the shards of `val`";
            return Err(with.error("hold_out", message));
        }
        let val = fields.val.map(|val| patterns(with, "val", &val));
        Ok(Box::new(WebDataset {
            train: patterns(with, "train", &fields.train)?,
            val: val.transpose()?.unwrap_or_default(),
            held: HoldOut::of_fields(with, fields.hold_out, fields.hold_out_seed)?,
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
    /// Files, globs or folders with the val split; may be empty.
    pub val: Vec<PathBuf>,
    /// The train images of each class that become the val split.
    pub held: Option<HoldOut>,
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

    fn survey(&self) -> Result<Survey, DataError> {
        for path in self.train.iter().chain(&self.val) {
            for shard in pattern::files(path)? {
                archive::check(&shard)?;
            }
        }
        for list in self.class_names.iter().chain(&self.classes) {
            read_names(list, self.class_names.as_ref() == Some(list))?;
        }
        let no_val = self.val.is_empty() && self.held.is_none();
        Ok(Survey {
            images: [None, no_val.then_some(0)],
            ..Survey::default()
        })
    }

    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError> {
        Ok(PixelSource::Encoded(Box::new(Members {
            train: Arc::clone(&scan.train),
            val: Arc::clone(&scan.val),
        })))
    }
}

impl Place {
    fn read(self, shard: &Path) -> std::io::Result<Vec<u8>> {
        let mut file = files::open(shard)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = vec![0; self.bytes as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The images of scanned shards.
struct Members {
    train: Arc<SplitScan>,
    val: Arc<SplitScan>,
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

fn scan(spec: &WebDataset, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
    let mut splits = [open(&spec.train, cx)?, open(&spec.val, cx)?];
    let naming = Naming::of(spec, &splits)?;
    for shard in splits.iter_mut().flatten() {
        shard.classes = naming.classify(shard)?;
    }
    let first = splits[0][0].path.clone();
    let classes = naming.classes(spec, &splits, &first)?;
    let label_of: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    decode_new(&mut splits, &label_of, cx)?;
    let paths = [0, 1].map(|split| splits[split].iter().map(|s| s.path.clone()).collect());
    // Held-out images lie in the shards of train.
    let paths = match (spec.held, paths) {
        (Some(_), [train, _]) => [Vec::clone(&train), train],
        (None, paths) => paths,
    };
    let mut assembly = Assembly::default();
    for folder in spec
        .train
        .iter()
        .chain(&spec.val)
        .filter(|path| path.is_dir())
    {
        for path in pattern::passed_over(folder) {
            assembly.omitted.other(
                path.display().to_string(),
                "archives beside the shards; shards are *.tar files of the folder itself",
            );
        }
    }
    let [train, val] = &splits;
    in_order((0, "train"), train, &label_of, spec.held, &mut assembly)?;
    in_order((1, "val"), val, &label_of, None, &mut assembly)?;
    let folder = first.parent().and_then(Path::file_name);
    let name = folder.map_or_else(|| "shards".into(), |n| n.to_string_lossy().into_owned());
    let has_broken = assembly.has_broken();
    let mut scan = assembly.finish(name, classes, paths)?;
    if let Some(held) = spec.held {
        held.mark(&mut scan, has_broken);
    }
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
        let about = rustix::fs::stat(&path);
        let about = about.map_err(|e| DataError::at(&path, e.to_string()))?;
        let stamp = Stamp::of(&about);
        let canonical = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let key = Fingerprint::of(&[b"shard 3", canonical.as_os_str().as_encoded_bytes()]);
        let cache = cx.cache.join(format!("{}.bin", &key.0[..32]));
        let known = recall(&cache).and_then(|bytes| postcard::from_bytes::<Known>(&bytes).ok());
        let known = known.filter(|known| known.stamp == stamp);
        let changed = known.is_none();
        let known = match known {
            Some(known) => known,
            None => Known {
                stamp,
                index: index::index(&path)?,
            },
        };
        Ok(Shard {
            path,
            cache,
            known,
            changed,
            classes: Vec::new(),
        })
    });
    let shards: Vec<Shard> = shards.collect::<Result<_, _>>()?;
    if let Some(path) = paths
        .first()
        .filter(|_| shards.iter().all(|s| s.members().is_empty()))
    {
        let lines = shards
            .iter()
            .flat_map(|shard| shard.known.index.omitted.lines(1));
        let found = lines
            .take(1)
            .map(|line| format!(" ({line})"))
            .collect::<String>();
        return Err(DataError::at(
            path,
            format!(
                "no image in these shards{found}; expected .jpg, .jpeg, .png or .webp, each with a .cls or .json of the same key (a \
                     key ends at the first dot of the file's name)"
            ),
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
        let shards = || splits.iter().flatten();
        if let Some(file) = &spec.class_names {
            let names = read_names(file, true)?;
            shards().try_for_each(|shard| agrees(shard, &names))?;
            return Ok(Self::Lines(names, file.clone()));
        }
        let labels = || shards().flat_map(|s| s.known.index.labels.iter().map(move |l| (s, l)));
        let number = labels().find(|(_, label)| is_number(label));
        let name = labels().find(|(_, label)| !is_number(label));
        match (number, name) {
            (_, None) => Ok(Self::Numbers),
            // `1,` beside `1` is a label that was written wrongly, not a class.
            (Some((_, number)), Some((shard, name))) if spec.classes.is_none() => {
                Err(DataError::at(
                    &shard.path,
                    format!(
                        "the label of `{}` is {name:?}, a name, but others are numbers ({number}); expected all numbers or all names; correct the \
                     labels, or list the classes in `classes:` if these are their names",
                        shard.of_label(name)
                    ),
                ))
            }
            _ => Ok(Self::Texts),
        }
    }

    /// Returns the class of every label of a shard.
    fn classify(&self, shard: &Shard) -> Result<Vec<String>, DataError> {
        let Self::Lines(names, file) = self else {
            return Ok(shard.known.index.labels.clone());
        };
        let labels = shard.known.index.labels.iter();
        let classes = labels.map(|label| {
            let name = label.parse::<usize>().ok().and_then(|number| names.get(number));
            name.cloned().ok_or_else(|| {
                let (path, lines) = (shard.of_label(label), names.len());
                DataError::at(
                    &shard.path,
                    format!(
                        "the label of `{path}` is {label}, expected a number in 0..{lines}, the lines of class_names ({}); \
                         correct the label or the file",
                        file.display()
                    ),
                )
            })
        });
        classes.collect()
    }

    /// Returns the classes in label order.
    fn classes(
        &self,
        spec: &WebDataset,
        splits: &[Vec<Shard>; 2],
        at: &Path,
    ) -> Result<Vec<String>, DataError> {
        let train = self.present(&splits[0]);
        let val = match splits[1].is_empty() {
            true => train.clone(),
            false => self.present(&splits[1]),
        };
        let place = |patterns: &[PathBuf]| match patterns {
            [only] => only.display().to_string(),
            [first, ..] => format!("{} ...", first.display()),
            [] => String::new(),
        };
        let places = [&spec.train, &spec.val].map(|patterns| place(patterns));
        let places: Vec<String> = places.into_iter().filter(|p| !p.is_empty()).collect();
        let found = Found {
            train: &train,
            val: &val,
            places: places.join(" and "),
            lacks: "has no image in",
        };
        choose(&found, spec.classes.as_deref(), at)
    }

    fn present(&self, shards: &[Shard]) -> Vec<String> {
        let classes = shards.iter().flat_map(|shard| &shard.classes);
        let present: BTreeSet<&str> = classes.map(String::as_str).collect();
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

/// Checks that no image has the number of one line of `names` in one of its label files and the name of another line in the other.
fn agrees(shard: &Shard, names: &[String]) -> Result<(), DataError> {
    let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
    for (line, name) in names.iter().enumerate() {
        // A name that an earlier line has too got its label.
        let own = name.strip_suffix(&format!(" ({line})"));
        for name in own.into_iter().chain([name.as_str()]) {
            lines.entry(name).or_default().push(line);
        }
    }
    for ((number, name), key) in &shard.known.index.named {
        let lines = lines.get(&**name).map_or(&[][..], Vec::as_slice);
        let is_other = lines.iter().all(|line| line.to_string() != *number);
        if let Some(line) = lines.first().filter(|_| is_other) {
            let message = format!(
                "key `{key}` has the labels {number} and {name:?}, but {name:?} is label {line} in class_names; correct the labels or the file"
            );
            return Err(DataError::at(&shard.path, message));
        }
    }
    Ok(())
}

/// Decodes every image of a class in `wanted` that no earlier scan decoded, and caches the result.
fn decode_new(
    splits: &mut [Vec<Shard>; 2],
    wanted: &HashMap<&str, u32>,
    cx: &ScanContext<'_>,
) -> Result<(), DataError> {
    let wanted = |shard: &Shard| -> Vec<bool> {
        let classes = shard.classes.iter();
        classes
            .map(|class| wanted.contains_key(class.as_str()))
            .collect()
    };
    let count = |shard: &Shard| {
        let wanted = wanted(shard);
        let members = shard.members().iter();
        members
            .filter(|member| wanted[member.label as usize])
            .count()
    };
    let total = splits.iter().flatten().map(count).sum();
    let done = AtomicUsize::new(0);
    for shard in splits.iter_mut().flatten() {
        let wanted = wanted(shard);
        let (path, index) = (&shard.path, &mut shard.known.index);
        let paths = &index.paths;
        let members = index.members.par_iter_mut().enumerate();
        let members = members.filter(|(_, member)| wanted[member.label as usize]);
        let decoded = members.map(|(at, member)| {
            if (cx.interrupted)() {
                return Err(DataError::Interrupted);
            }
            let changed = member.digest.is_none();
            if changed {
                let bytes = member.place(0).read(path);
                let bytes =
                    bytes.map_err(|e| DataError::at(path, format!("`{}`: {e}", &paths[at])))?;
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
