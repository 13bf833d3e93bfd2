//! `train/<class>/*` and `val/<class>/*`. Without `val` there are no val images, unless a part of each class is held out; without both, the
//! class folders lie in the root.

mod examine;
mod layout;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera_models::files;
use tessera_tokenizers::{Config, ConfigError, Split, schemars};

use crate::data::classes::read_list;
use crate::data::contract::{DatasetFactory, DatasetSpec, PixelSource, ScanContext, Survey};
use crate::data::decoding::{DecodedCache, Decoding};
use crate::data::encoded::{Assembly, Encoded};
use crate::data::error::DataError;
use crate::data::fetched::Fetched;
use crate::data::hold_out::HoldOut;
use crate::data::left_out::Omitted;
use crate::data::names::Names;
use crate::data::scan::{Scan, SplitScan};
use examine::{Cache, Progress};
use layout::Layout;

/// Factory of `image-folder`.
pub struct Factory;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The folder with `train/<class>/*` and `val/<class>/*`. To score, `train` or the class folders alone are enough.
    root: PathBuf,
    /// The name of a dataset of `bench fetch`. If `root` does not exist, the fetched folder is used.
    fetch: Option<Fetched>,
    /// Fraction of the images of each class that become the val split, for a folder without `val`.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    hold_out: Option<f64>,
    /// Seed of the draw of `hold_out`.
    #[serde(default)]
    #[schemars(range(min = 0, max = u64::MAX))]
    hold_out_seed: u64,
    /// A file with one class folder name per line (what follows a tab or a WordNet id is ignored), in label order.
    classes: Option<PathBuf>,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size if no more is rendered. Faster on large images, but the pixels differ from
    /// those of the resampled original: everything is computed again, and tables say so.
    #[serde(default)]
    fast_decode: bool,
    /// `u8`: decode every image once into a file of the store, which is mapped into memory. No result changes. `--dry-run` prints its
    /// size (three bytes per pixel, images at their own size).
    decoded_cache: Option<DecodedCache>,
}

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "image-folder"
    }

    fn summary(&self) -> &'static str {
        "train/<class>/* and val/<class>/*, JPEG, PNG or WebP; to score, class folders are enough"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let fields: Fields = with.parse()?;
        Ok(Box::new(ImageFolder {
            root: with.resolve_path(fields.root),
            held: HoldOut::of_fields(with, fields.hold_out, fields.hold_out_seed)?,
            classes: fields.classes.map(|c| with.resolve_path(c)),
            decoding: Decoding::of_fields(with, fields.fast_decode, fields.decoded_cache)?,
        }))
    }
}

/// `train/<class>/*` and `val/<class>/*`.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    /// The folder with `train` and `val`, or with class folders.
    pub root: PathBuf,
    /// The images of each class that become the val split.
    pub held: Option<HoldOut>,
    /// A file with one class folder per line, in label order.
    pub classes: Option<PathBuf>,
    /// How images are decoded.
    pub decoding: Decoding,
}

impl DatasetSpec for ImageFolder {
    fn decoding(&self) -> Decoding {
        self.decoding
    }

    fn scan(&self, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
        scan(self, cx)
    }

    fn survey(&self) -> Result<Survey, DataError> {
        let (classes, all, omitted) = listed(self)?;
        let mut images = [0, 0];
        for class in &all {
            images[1] += class.held.len();
            images[class.split] += class.images.len() - class.held.len();
        }
        Ok(Survey {
            images: images.map(Some),
            omitted,
            single_class: <[String; 1]>::try_from(classes).ok().map(|[class]| class),
        })
    }

    fn folders(&self) -> Vec<PathBuf> {
        if !self.root.is_dir() {
            return Vec::new();
        }
        // Without splits, further folders in the root would hide that its folders are classes, also with a list.
        match self.root.join("train").is_dir() {
            true => ["train", "val"].map(|split| self.root.join(split)).into(),
            false => vec![self.root.clone()],
        }
    }

    fn snapshot(&self) -> Result<Option<Value>, DataError> {
        let list = self.classes.as_deref().map(|path| {
            let bytes = read_list(path)?;
            Ok::<_, DataError>(blake3::hash(&bytes).to_hex().to_string())
        });
        // Not the folder above the root: names are relative to the root, so a copy of the images elsewhere has the same scan.
        let mut about = json!({
            "kind": Factory.kind(),
            "name": name(&self.root),
            "classes": list.transpose()?,
            "fast_decode": self.decoding.fast,
        });
        if let Some(HoldOut { part, seed }) = self.held {
            about["hold_out"] = json!([part, seed]);
        }
        Ok(Some(about))
    }

    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError> {
        // A stored scan may be that of another machine.
        if !self.root.is_dir() {
            return Err(DataError::at(&self.root, "no such folder on this machine"));
        }
        let files = Files::new(self.root.clone(), &scan.train, &scan.val);
        Ok(PixelSource::Encoded(Box::new(files)))
    }
}

/// The files of images that decode.
pub struct Files {
    root: PathBuf,
    train: Arc<SplitScan>,
    val: Arc<SplitScan>,
}

impl Files {
    /// Of the splits, whose names are paths relative to `root`.
    pub fn new(root: PathBuf, train: &Arc<SplitScan>, val: &Arc<SplitScan>) -> Self {
        Self {
            root,
            train: Arc::clone(train),
            val: Arc::clone(val),
        }
    }

    fn path(&self, split: Split, index: usize) -> PathBuf {
        let scan = match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        };
        self.root.join(&scan.names[index])
    }
}

impl Encoded for Files {
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError> {
        let path = self.path(split, index);
        let mut bytes = Vec::new();
        let read = files::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(bytes),
            Err(e) => Err(DataError::at(
                &path,
                format!("{e}; it was there when the run began"),
            )),
        }
    }

    fn refuse(&self, split: Split, index: usize, message: String) -> DataError {
        DataError::at(&self.path(split, index), message)
    }
}

/// The images of a class in a split.
struct Class {
    split: usize,
    /// Its path relative to the root.
    folder: String,
    label: u32,
    images: Names,
    /// Indices of the images that are held out for the val split.
    held: BTreeSet<usize>,
}

/// Folders whose results are in memory at a time, so that memory does not grow with the number of classes.
const AT_ONCE: usize = 64;

fn scan(spec: &ImageFolder, cx: &ScanContext<'_>) -> Result<Scan, DataError> {
    let root = &*spec.root;
    let (classes, all, omitted) = listed(spec)?;
    let cache = Cache::of(root, cx.cache);
    let total = all.iter().map(|class| class.images.len()).sum();
    let done = Progress::new(cx, total);
    let mut assembly = Assembly::default();
    assembly.omitted = omitted;
    let mut blocks = HashMap::new();
    let mut all = all.into_iter();
    let mut failed = None;
    while failed.is_none() {
        let some: Vec<Class> = all.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            break;
        }
        let examined = some
            .par_iter()
            .map(|class| cache.examine(root, &class.folder, &class.images, &done));
        for (class, examined) in some.iter().zip(examined.collect::<Vec<_>>()) {
            match examined {
                Ok(examined) => {
                    let images = class.images.iter().zip(&examined.digests).enumerate();
                    for (at, (name, digest)) in images {
                        let split = if class.held.contains(&at) {
                            1
                        } else {
                            class.split
                        };
                        assembly.push(split, name, class.label, digest, None);
                    }
                    blocks.extend(examined.block.map(|block| (class.folder.clone(), block)));
                }
                Err(error) => failed = Some(error),
            }
        }
    }
    // An interrupted scan continues with the folders that it finished.
    cache.write(root, &blocks);
    if let Some(error) = failed {
        return Err(error);
    }
    let has_broken = assembly.has_broken();
    let mut scan = assembly.finish(name(root), classes, Default::default())?;
    if let Some(held) = spec.held {
        held.mark(&mut scan, has_broken);
    }
    Ok(scan)
}

/// Returns the name of the dataset.
fn name(root: &Path) -> String {
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "images".into())
}

/// Returns the class names, the images of every class of train, then of val, and what is left out.
fn listed(spec: &ImageFolder) -> Result<(Vec<String>, Vec<Class>, Omitted), DataError> {
    let root = &*spec.root;
    let Layout {
        classes,
        splits,
        mut omitted,
    } = layout::classes(root, spec.classes.as_deref())?;
    if let (Some(_), [_, Some(val)]) = (spec.held, splits) {
        let message = "is there, and `hold_out` would draw another val split; leave `hold_out` out";
        return Err(DataError::at(&root.join(val), message));
    }
    let splits = splits.iter().enumerate();
    let folders: Vec<(usize, u32, String)> = splits
        .filter_map(|(split, of)| Some((split, (*of)?)))
        .flat_map(|(split, of)| {
            (0..)
                .zip(&classes)
                .map(move |(label, class)| (split, label, walk::joined(of, class)))
        })
        .collect();
    let listings = folders
        .par_iter()
        .map(|(_, _, folder)| walk::walk(root, folder));
    let listings: Vec<_> = listings.collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for ((split, label, folder), listing) in folders.into_iter().zip(listings) {
        if listing.images.is_empty() {
            let lines = listing.omitted.lines(1);
            let found = lines
                .first()
                .map_or_else(String::new, |line| format!(", found only: {line}"));
            return Err(DataError::at(
                &root.join(&folder),
                format!(
                    "no images in this class folder (expected .jpg, .jpeg, .png or .webp{found}); remove the folder or fill it"
                ),
            ));
        }
        omitted.append(listing.omitted);
        all.push(Class {
            split,
            folder,
            label,
            held: spec
                .held
                .map_or_else(BTreeSet::new, |held| held.draw(listing.images.len(), label)),
            images: listing.images,
        });
    }
    Ok((classes, all, omitted))
}
