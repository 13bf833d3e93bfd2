//! CIFAR-10 and CIFAR-100 in the official binary form: per image its label byte(s), then 3072 bytes, channel by channel.

use std::fs;
use std::path::{Path, PathBuf};

use tessera_tokenizers::{Fingerprint, Image, Split};

use super::classes::class_hash;
use super::{DataError, Scan, SplitScan};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// All images in memory (180 MB for the whole archive).
pub struct Records {
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

    /// CIFAR-100's records begin with the coarse label.
    fn label(&self, index: usize) -> u32 {
        u32::from(self.data[index * self.record() + self.labels - 1])
    }
}

impl Records {
    pub fn read(root: &Path, classes: usize) -> Result<Self, DataError> {
        let (train, val, labels) = match classes {
            100 => (vec!["train.bin".to_owned()], "test.bin", 2),
            _ => (
                (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
                "test_batch.bin",
                1,
            ),
        };
        Ok(Self {
            train: read(root, &train, labels, classes)?,
            val: read(root, &[val.to_owned()], labels, classes)?,
        })
    }

    fn split(&self, split: Split) -> &Bytes {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    pub fn image(&self, split: Split, index: usize) -> Image {
        let bytes = self.split(split);
        let start = index * bytes.record() + bytes.labels;
        let planes = &bytes.data[start..start + 3 * PIXELS];
        let rgb = (0..PIXELS).flat_map(|i| [planes[i], planes[PIXELS + i], planes[2 * PIXELS + i]]);
        Image {
            width: SIDE,
            height: SIDE,
            rgb: rgb.collect::<Vec<u8>>().into(),
        }
    }
}

fn read(root: &Path, names: &[String], labels: usize, classes: usize) -> Result<Bytes, DataError> {
    let mut data = Vec::new();
    for name in names {
        let path = root.join(name);
        let bytes = fs::read(&path).map_err(|e| refuse(&path, format!(
            "{e}; put the files of the official binary archive of CIFAR-{classes} there ({})", names.join(", "))))?;
        let record = labels + 3 * PIXELS;
        if bytes.is_empty() || bytes.len() % record != 0 {
            return Err(refuse(
                &path,
                format!(
                    "found {} bytes, expected a multiple of {record} (truncated?)",
                    bytes.len()
                ),
            ));
        }
        for (index, image) in bytes.chunks(record).enumerate() {
            let label = usize::from(image[labels - 1]);
            if label >= classes {
                return Err(refuse(
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

pub fn scan(root: &Path, classes: usize) -> Result<Scan, DataError> {
    let records = Records::read(root, classes)?;
    let names = class_names(root, classes);
    let split = |name: &str, bytes: &Bytes| SplitScan {
        names: (0..bytes.len()).map(|i| format!("{name}/{i}")).collect(),
        labels: (0..bytes.len()).map(|i| bytes.label(i)).collect(),
        ..SplitScan::default()
    };
    Ok(Scan {
        name: format!("cifar{classes}"),
        class_list_hash: class_hash(&names),
        classes: names,
        train: split("train", &records.train),
        val: split("test", &records.val),
        skipped: Vec::new(),
        fingerprint: Fingerprint::of(&[b"cifar", &records.train.data, &records.val.data]),
    })
}

/// The archive's own names; numbers where its text file is absent.
fn class_names(root: &Path, classes: usize) -> Vec<String> {
    let file = if classes == 100 {
        "fine_label_names.txt"
    } else {
        "batches.meta.txt"
    };
    let text = fs::read_to_string(root.join(file)).unwrap_or_default();
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(String::from)
        .collect();
    if names.len() == classes {
        names
    } else {
        (0..classes).map(|i| i.to_string()).collect()
    }
}

fn refuse(path: &Path, message: String) -> DataError {
    DataError::Path {
        path: PathBuf::from(path),
        message,
    }
}
