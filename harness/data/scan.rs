//! `scan`: decodes every image once; fixes the order, the good ones, and the dataset's fingerprint.

use std::path::Path;

use tessera_tokenizers::Fingerprint;

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
    match spec {
        DatasetSpec::ImageFolder {
            root,
            classes,
            fast_decode,
        } => {
            let mut scan = folder::scan(root, classes.as_deref(), cache, progress, interrupted)?;
            if *fast_decode {
                // Other pixels: another dataset, for stored stages and for who compares runs.
                scan.name.push_str(" (fast_decode)");
                scan.fingerprint =
                    Fingerprint::of(&[scan.fingerprint.0.as_bytes(), b"fast_decode 1"]);
            }
            Ok(scan)
        }
        DatasetSpec::CifarBinary { root, classes } => cifar::scan(root, *classes),
        DatasetSpec::Mosaics {
            seed,
            train,
            val,
            size,
        } => Ok(mosaic_scan(*seed, *train, *val, *size)),
    }
}

fn mosaic_scan(seed: u64, train: usize, val: usize, size: usize) -> Scan {
    let split = |count: usize| SplitScan {
        names: (0..count).map(|i| i.to_string()).collect(),
        labels: (0..count).map(mosaics::label).collect(),
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

/// 16 hex digits over the names in order.
pub(super) fn class_hash(classes: &[String]) -> String {
    let parts: Vec<&[u8]> = classes.iter().map(String::as_bytes).collect();
    Fingerprint::of(&parts).0[..16].to_owned()
}
