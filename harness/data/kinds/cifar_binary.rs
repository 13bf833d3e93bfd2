//! CIFAR-10 and CIFAR-100 in the official binary format: per image one or two label bytes, then 3072 bytes, channel by channel.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::files;
use tessera_models::foreign::told_of_numbers;
use tessera_tokenizers::{Config, ConfigError, Fingerprint, Image, Split, schemars};

use crate::data::classes::read_names;
use crate::data::contract::{
    DatasetFactory, DatasetSpec, PixelSource, Pixels, ScanContext, Survey,
};
use crate::data::error::DataError;
use crate::data::fetched::Fetched;
use crate::data::left_out::{Omitted, USED};
use crate::data::scan::{Scan, SplitScan};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// Factory of `cifar-binary`.
pub struct Factory;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The folder with `data_batch_1.bin` ... (or `train.bin`).
    root: PathBuf,
    /// The name of a dataset of `bench fetch`. If `root` does not exist, the fetched folder is used.
    fetch: Option<Fetched>,
    /// 10 or 100.
    #[serde(default = "ten")]
    #[schemars(extend("enum" = [10, 100]))]
    classes: usize,
}

fn ten() -> usize {
    10
}

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "cifar-binary"
    }

    fn summary(&self) -> &'static str {
        "CIFAR-10 or CIFAR-100 in the files of the official binary archive"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let Fields { root, classes, .. } = with.parse()?;
        if classes != 10 && classes != 100 {
            return Err(with.error("classes", format!("found {classes}, expected 10 or 100")));
        }
        Ok(Box::new(CifarBinary {
            root: with.resolve_path(root),
            classes,
        }))
    }
}

/// The official binary files.
#[derive(Clone, Debug)]
pub struct CifarBinary {
    /// The folder with `*.bin`.
    pub root: PathBuf,
    /// 10 or 100.
    pub classes: usize,
}

impl DatasetSpec for CifarBinary {
    fn scan(&self, _: &ScanContext<'_>) -> Result<Scan, DataError> {
        scan(&self.root, self.classes)
    }

    fn survey(&self) -> Result<Survey, DataError> {
        let scan = scan(&self.root, self.classes)?;
        Ok(Survey {
            images: [Some(scan.train.len()), Some(scan.val.len())],
            omitted: scan.omitted,
            ..Survey::default()
        })
    }

    fn open(&self, scan: &Scan) -> Result<PixelSource, DataError> {
        let records = Records::read(&self.root, self.classes)?;
        if records.fingerprint() != scan.fingerprint {
            let message = "the files changed after they were scanned; run the same command again";
            return Err(DataError::at(&self.root, message));
        }
        Ok(PixelSource::Decoded(Box::new(records)))
    }
}

/// All images in memory (180 MB for the whole archive).
struct Records {
    train: Bytes,
    val: Bytes,
}

struct Bytes {
    data: Vec<u8>,
    labels: usize,
}

impl Bytes {
    fn record(&self) -> usize {
        self.labels + 3 * PIXELS
    }

    fn len(&self) -> usize {
        self.data.len() / self.record()
    }

    /// The records of CIFAR-100 begin with the coarse label.
    fn label(&self, index: usize) -> u32 {
        u32::from(self.data[index * self.record() + self.labels - 1])
    }
}

/// Returns the files of the train split and of the val split, and the number of labels of an image.
fn names_of(classes: usize) -> (Vec<String>, &'static str, usize) {
    match classes {
        100 => (vec!["train.bin".to_owned()], "test.bin", 2),
        _ => (
            (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
            "test_batch.bin",
            1,
        ),
    }
}

impl Records {
    fn read(root: &Path, classes: usize) -> Result<Self, DataError> {
        let (train, val, labels) = names_of(classes);
        Ok(Self {
            train: read(root, &train, labels, classes)?,
            val: read(root, &[val.to_owned()], labels, classes)?,
        })
    }

    /// Returns the digest of every image's pixels.
    fn digests(bytes: &Bytes) -> Vec<[u8; 32]> {
        let images = bytes.data.par_chunks(bytes.record());
        let digest = |image: &[u8]| *blake3::hash(&image[bytes.labels..]).as_bytes();
        images.map(digest).collect()
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&[b"cifar", &self.train.data, &self.val.data])
    }

    fn split(&self, split: Split) -> &Bytes {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }
}

impl Pixels for Records {
    fn image(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let bytes = self.split(split);
        let start = index * bytes.record() + bytes.labels;
        let planes = &bytes.data[start..start + 3 * PIXELS];
        let rgb = (0..PIXELS).flat_map(|i| [planes[i], planes[PIXELS + i], planes[2 * PIXELS + i]]);
        Ok(Image {
            width: SIDE,
            height: SIDE,
            rgb: rgb.collect::<Vec<u8>>().into(),
        })
    }
}

fn read(root: &Path, names: &[String], labels: usize, classes: usize) -> Result<Bytes, DataError> {
    let mut data = Vec::new();
    for name in names {
        let path = root.join(name);
        let mut bytes = Vec::new();
        let found = files::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        found.map_err(|e| DataError::at(&path, format!(
            "{e}; {}put the files of the official binary archive of CIFAR-{classes} there ({})", elsewhere(root, name), names.join(", "))))?;
        let record = labels + 3 * PIXELS;
        if bytes.is_empty() || bytes.len() % record != 0 {
            return Err(DataError::at(
                &path,
                format!(
                    "found {} bytes, expected a multiple of {record} ({})",
                    bytes.len(),
                    told_of_numbers(&bytes).unwrap_or("truncated?")
                ),
            ));
        }
        // What a crash leaves of a file. One black image of the first class may be meant.
        let mut pairs = bytes.windows(2 * record).step_by(record);
        if let Some(index) = pairs.position(|pair| pair.iter().all(|byte| *byte == 0)) {
            return Err(DataError::at(
                &path,
                format!(
                    "images {index} and {} have only zero bytes, expected labels and pixels: their content is lost; copy the file again",
                    index + 1
                ),
            ));
        }
        for (index, image) in bytes.chunks(record).enumerate() {
            let label = usize::from(image[labels - 1]);
            if label >= classes {
                return Err(DataError::at(
                    &path,
                    format!(
                        "image {index} has label {label}, expected 0..{classes}; is it CIFAR-{classes}?"
                    ),
                ));
            }
        }
        data.extend(bytes);
    }
    Ok(Bytes { data, labels })
}

/// Returns what is there in place of the file `name`.
fn elsewhere(root: &Path, name: &str) -> String {
    let python = name.trim_end_matches(".bin");
    if root.join(python).is_file() {
        return format!(
            "found `{python}`, which is the Python version of the archive, expected the binary version; "
        );
    }
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    let mut inner = folders
        .map(|entry| entry.path())
        .filter(|folder| folder.join(name).is_file());
    inner.next().map_or_else(String::new, |inner| {
        format!("found it in {0}; set `root` to {0}, or ", inner.display())
    })
}

/// Returns the files beside those of the archive that look like them, and the batches that may lack images.
fn others(root: &Path, classes: usize) -> Omitted {
    let (train, val, _) = names_of(classes);
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_other = |name: &String| name.ends_with(".bin") && !train.contains(name) && name != val;
    let mut names: Vec<String> = names.filter(is_other).collect();
    names.sort_unstable();
    let mut omitted = Omitted::default();
    for name in names {
        omitted.other(name, "not in the official archive");
    }
    let sizes = train.iter().map(|name| fs::metadata(root.join(name)));
    let sizes: Vec<u64> = sizes.flatten().map(|about| about.len()).collect();
    let longest = sizes.iter().max().copied().unwrap_or_default();
    let shorter = train
        .into_iter()
        .zip(sizes)
        .filter(|(_, size)| *size < longest);
    for (name, size) in shorter {
        let reason = format!(
            "{USED}shorter than another batch of {longest} bytes; if it was cut between two images, copy it again"
        );
        omitted.other(format!("{name} ({size} bytes)"), &reason);
    }
    omitted
}

fn scan(root: &Path, classes: usize) -> Result<Scan, DataError> {
    let records = Records::read(root, classes)?;
    let names = class_names(root, classes)?;
    let split = |name: &str, bytes: &Bytes| SplitScan {
        names: (0..bytes.len()).map(|i| format!("{name}/{i}")).collect(),
        labels: (0..bytes.len()).map(|i| bytes.label(i)).collect(),
        digests: Records::digests(bytes),
        ..SplitScan::default()
    };
    Ok(Scan {
        omitted: others(root, classes),
        ..Scan::new(
            format!("cifar{classes}"),
            names,
            [split("train", &records.train), split("test", &records.val)],
            records.fingerprint(),
        )
    })
}

/// Returns the archive's class names, or numbers if its text file is absent.
///
/// # Errors
/// If the file is there and does not name every class.
fn class_names(root: &Path, classes: usize) -> Result<Vec<String>, DataError> {
    let file = if classes == 100 {
        "fine_label_names.txt"
    } else {
        "batches.meta.txt"
    };
    let path = root.join(file);
    let opened = files::open_optional(&path).map_err(|e| DataError::at(&path, e.to_string()))?;
    if opened.is_none() {
        return Ok((0..classes).map(|i| i.to_string()).collect());
    }
    let names = read_names(&path, true)?;
    match names.len() == classes {
        true => Ok(names),
        false => {
            let message = format!(
                "found {} class names, expected {classes}; copy the file of the archive again, or remove it",
                names.len()
            );
            Err(DataError::at(&path, message))
        }
    }
}
