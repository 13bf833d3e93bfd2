//! `scan`: decodes every image once; fixes the order, the good ones, and the dataset's fingerprint.

use std::path::{Path, PathBuf};

use tessera_tokenizers::Fingerprint;

use super::classes::class_hash;
use super::digest::{Digest, Shape};
use super::shards::{self, Place};
use super::{DataError, DatasetSpec, cifar, folder, mosaics};

/// An image that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path, relative to the root.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// One split of a scanned dataset, in scan order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitScan {
    /// Path relative to the root, or the image's number.
    pub names: Vec<String>,
    /// Label of each.
    pub labels: Vec<u32>,
    /// Width and height of each, where images are decoded; else none.
    pub shapes: Vec<Shape>,
    /// Where in `shards` each lies, where there are shards; else none.
    pub places: Vec<Place>,
    /// The files that `places` speaks of.
    pub shards: Vec<PathBuf>,
}

impl SplitScan {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// What a dataset holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// "imagenette160", "cifar10", "mosaics".
    pub name: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// BLAKE3 (16 hex digits) of the class names in order.
    pub class_list_hash: String,
    /// The train split.
    pub train: SplitScan,
    /// The val split.
    pub val: SplitScan,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// Changes when any image, label or their order changes.
    pub fingerprint: Fingerprint,
}

/// Whom a scan tells (done, total, note) and asks whether to stop.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// Scans `spec`. `cache` is a folder for digests by size and time; `progress` is told (done, total, note).
///
/// # Errors
/// [`DataError`].
pub fn scan(
    spec: &DatasetSpec,
    cache: &Path,
    progress: &(dyn Fn(usize, usize, &str) + Sync),
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Scan, DataError> {
    let told = Told {
        progress,
        interrupted,
    };
    let mut scan = match spec {
        DatasetSpec::ImageFolder { root, classes, .. } => {
            folder::scan(root, classes.as_deref(), cache, told)?
        }
        DatasetSpec::WebDataset { shards, .. } => shards::scan(shards, cache, told)?,
        DatasetSpec::CifarBinary { root, classes } => cifar::scan(root, *classes)?,
        DatasetSpec::Mosaics {
            seed,
            train,
            val,
            size,
        } => mosaic_scan(*seed, *train, *val, *size),
    };
    if spec.decoding().fast {
        // Other pixels: another dataset, for stored stages and for who compares runs.
        scan.name.push_str(" (fast_decode)");
        scan.fingerprint = Fingerprint::of(&[scan.fingerprint.0.as_bytes(), b"fast_decode 1"]);
    }
    Ok(scan)
}

/// An image that was found and looked at.
pub(super) struct Seen {
    /// Its path relative to the root.
    pub name: String,
    pub label: u32,
    pub digest: Digest,
    /// Where in the split's shards it lies.
    pub place: Option<Place>,
}

/// A scan of encoded images: `splits` are train and val in scan order.
///
/// # Errors
/// [`DataError::TooManyBroken`].
pub(super) fn assemble(
    name: String,
    classes: Vec<String>,
    splits: [Vec<Seen>; 2],
) -> Result<Scan, DataError> {
    let total = splits.iter().map(Vec::len).sum::<usize>();
    let mut hasher = blake3::Hasher::new();
    let mut skipped = Vec::new();
    let [train, val] = splits.map(|split| {
        let mut scan = SplitScan::default();
        for Seen {
            name,
            label,
            digest,
            place,
        } in split
        {
            match digest.found {
                Err(reason) => skipped.push(Skipped { name, reason }),
                Ok(shape) => {
                    let (bytes, blake3) = (digest.bytes, digest.blake3);
                    hasher.update(format!("{name}\0{bytes}\0{blake3}\0{label}\n").as_bytes());
                    scan.names.push(name);
                    scan.labels.push(label);
                    scan.shapes.push(shape);
                    scan.places.extend(place);
                }
            }
        }
        scan
    });
    if let Some(first) = skipped.first().filter(|_| skipped.len() * 100 > total) {
        return Err(DataError::TooManyBroken {
            broken: skipped.len(),
            total,
            first: format!("{}: {}", first.name, first.reason),
        });
    }
    Ok(Scan {
        name,
        class_list_hash: class_hash(&classes),
        classes,
        train,
        val,
        skipped,
        fingerprint: Fingerprint(hasher.finalize().to_hex().to_string()),
    })
}

fn mosaic_scan(seed: u64, train: usize, val: usize, size: usize) -> Scan {
    let split = |count: usize| SplitScan {
        names: (0..count).map(|i| i.to_string()).collect(),
        labels: (0..count).map(mosaics::label).collect(),
        ..SplitScan::default()
    };
    let classes: Vec<String> = mosaics::CLASSES.map(String::from).to_vec();
    let about = format!(
        "mosaics version {} seed {seed} train {train} val {val} size {size}",
        mosaics::VERSION
    );
    Scan {
        name: "mosaics".into(),
        class_list_hash: class_hash(&classes),
        classes,
        train: split(train),
        val: split(val),
        skipped: Vec::new(),
        fingerprint: Fingerprint::of(&[about.as_bytes()]),
    }
}
