//! The result of a scan: images, their order, labels and sizes.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Fingerprint, Split};

use super::classes::{class_hash, look_alike};
use super::digest::Shape;
use super::error::DataError;
use super::left_out::{Omitted, one_line};
use super::names::Names;

/// One split of a scanned dataset, in scan order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitScan {
    /// Path of each image relative to the root, or its number.
    pub names: Names,
    /// Label of each image.
    pub labels: Vec<u32>,
    /// Size of each encoded image; otherwise empty.
    pub shapes: Vec<Shape>,
    /// BLAKE3 of each encoded image's bytes, which are compared with it when they are read, or of each CIFAR image's pixels; otherwise empty.
    pub digests: Vec<[u8; 32]>,
    /// Position of each image in `shards`; empty without shards.
    pub places: Vec<Place>,
    /// The shards.
    pub shards: Vec<PathBuf>,
}

impl SplitScan {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A scanned dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// "imagenette160", "cifar10", "mosaics".
    pub name: String,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// BLAKE3 (16 hex digits) of the class names in order.
    pub class_list_hash: String,
    /// The train split.
    pub train: Arc<SplitScan>,
    /// The val split.
    pub val: Arc<SplitScan>,
    /// Files that are left out.
    pub omitted: Omitted,
    /// Changes with any image or label and with their order.
    pub fingerprint: Fingerprint,
}

impl Scan {
    /// Creates a scan without broken images. `classes` are the class names in label order. `fingerprint` must change with any image
    /// or label and with their order.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        [train, val]: [SplitScan; 2],
        fingerprint: Fingerprint,
    ) -> Self {
        Self {
            name: name.into(),
            class_list_hash: class_hash(&classes),
            classes,
            train: Arc::new(train),
            val: Arc::new(val),
            omitted: Omitted::default(),
            fingerprint,
        }
    }

    /// Returns the name of an image, with its line breaks escaped, so that names can be written one a line.
    pub fn line(&self, split: Split, index: usize) -> String {
        let split = match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        };
        split.names[index].replace('\n', "\\n").replace('\r', "\\r")
    }

    /// Checks that there is something to score.
    ///
    /// # Errors
    /// [`DataError::Empty`] when the train split or a class in it has no images.
    pub(super) fn check(&self) -> Result<(), DataError> {
        if self.train.is_empty() {
            let message = "the train split has no images, expected at least one";
            return Err(DataError::Empty(format!("{}: {message}", self.name)));
        }
        match self.absent(&self.train) {
            Some(absent) => {
                let skipped = self.omitted.images.first().map(|image| {
                    let count = self.omitted.images.len();
                    format!(
                        " (skipped, of {count} in all: {}: {})",
                        one_line(&image.name),
                        one_line(&image.reason)
                    )
                });
                Err(DataError::Empty(format!(
                    "{}: the train split has no images of {absent}{}, expected at least one of each; add images of them",
                    self.name,
                    skipped.unwrap_or_default()
                )))
            }
            None => Ok(()),
        }
    }

    /// Checks that there is something to evaluate a model on.
    ///
    /// # Errors
    /// [`DataError::Empty`] when the val split has no images.
    pub fn check_val(&self) -> Result<(), DataError> {
        match self.val.is_empty() {
            false => Ok(()),
            true => Err(DataError::Empty(format!(
                "{}: the val split has no images, expected at least one, because accuracies are measured on it; add some, write \
                 `dataset: {{hold_out: 0.1}}` to hold out a part of train, or use `bench score` without `bag_of_tokens`",
                self.name
            ))),
        }
    }

    /// Returns the only class, if there is one.
    pub fn single_class(&self) -> Option<&str> {
        match &self.classes[..] {
            [class] => Some(class),
            _ => None,
        }
    }

    /// Two classes whose names look the same, so they may be one.
    pub fn look_alike(&self) -> Option<(&str, &str)> {
        look_alike(&self.classes)
    }

    /// "3 of 50 val images": those whose bytes are in the train split too, with the first. Without digests nothing is known.
    pub fn repeated(&self) -> Option<String> {
        let mut of_val: HashSet<&[u8; 32]> = self.val.digests.iter().collect();
        let all = of_val.len();
        self.train.digests.iter().for_each(|digest| {
            of_val.remove(digest);
        });
        let is_repeated = |at: &usize| !of_val.contains(&self.val.digests[*at]);
        let repeated = || (0..self.val.digests.len()).filter(is_repeated);
        let first = repeated().next().filter(|_| of_val.len() < all)?;
        Some(format!(
            "{} of {} val images ({}, ...)",
            repeated().count(),
            self.val.len(),
            &self.val.names[first]
        ))
    }

    /// "3 of 50 train images (ant/2.png, ...)": those whose bytes an earlier train image has. Without digests nothing is known.
    pub fn twice(&self) -> Option<String> {
        let train = &self.train;
        let mut seen = HashSet::with_capacity(train.digests.len());
        let mut repeated = (0..train.digests.len()).filter(|at| !seen.insert(&train.digests[*at]));
        let first = &train.names[repeated.next()?];
        let count = 1 + repeated.count();
        Some(format!(
            "{count} of {} train images ({first}, ...)",
            train.len()
        ))
    }

    /// "2 images (cat/1.png as ant/1.png, ...)": those of both splits whose bytes an earlier image of another class has. Without digests nothing is known.
    pub fn contradictions(&self) -> Option<String> {
        let train = self.train.digests.len();
        let place = |at: usize| match at.checked_sub(train) {
            None => (&*self.train, at),
            Some(at) => (&*self.val, at),
        };
        let digest = |at| {
            let (split, at) = place(at);
            &split.digests[at]
        };
        // The first image of each content, by a part of its digest: all digests would take several times the memory.
        let short = |at| u64::from_le_bytes(std::array::from_fn(|byte| digest(at)[byte]));
        let mut firsts: HashMap<u64, u32> = HashMap::with_capacity(train);
        let (mut count, mut shown) = (0_usize, String::new());
        for at in 0..train + self.val.digests.len() {
            let first = *firsts.entry(short(at)).or_insert(at as u32) as usize;
            let [of_first, of_this] = [first, at].map(place);
            let label = |(split, at): (&SplitScan, usize)| split.labels[at];
            if label(of_first) == label(of_this) || digest(first) != digest(at) {
                continue;
            }
            if count == 0 {
                let name = |(split, at): (&SplitScan, usize)| split.names[at].to_owned();
                shown = format!("{} as {}", name(of_this), name(of_first));
            }
            count += 1;
        }
        match count {
            0 => None,
            1 => Some(format!("1 image ({shown})")),
            _ => Some(format!("{count} images ({shown}, ...)")),
        }
    }

    /// "2 of 10 classes (ant, bee)": those that a split has no images of.
    pub fn absent(&self, split: &SplitScan) -> Option<String> {
        let mut counts = vec![0usize; self.classes.len()];
        split
            .labels
            .iter()
            .for_each(|label| counts[*label as usize] += 1);
        let absent = self
            .classes
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count == 0);
        let absent: Vec<&str> = absent.map(|(name, _)| name.as_str()).collect();
        let named = absent[..absent.len().min(3)].join(", ");
        let more = if absent.len() > 3 { ", ..." } else { "" };
        (!absent.is_empty()).then(|| {
            format!(
                "{} of {} classes ({named}{more})",
                absent.len(),
                self.classes.len()
            )
        })
    }
}

/// Where an image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index of the shard.
    pub shard: u32,
    /// Offset of the image, bytes.
    pub offset: u64,
    /// Length of the image, bytes.
    pub bytes: u64,
}

/// Says that `class` is the only one, and what may be the reason.
pub fn said_of_single(class: &str) -> String {
    format!(
        "found one class, `{class}`; if it is a folder that holds a folder for each class, move these one level up"
    )
}

/// Checks that there are two classes, as accuracies need.
///
/// # Errors
/// [`DataError::Empty`] if there is a `single` one.
pub fn check_two_classes(single: Option<&str>) -> Result<(), DataError> {
    match single.map(said_of_single) {
        None => Ok(()),
        Some(said) => Err(DataError::Empty(format!(
            "{said}; expected at least two classes, because every accuracy of one class is 100 %"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_split_needs_an_image_of_every_class() {
        let split = |labels: &[u32]| SplitScan {
            names: labels.iter().map(u32::to_string).collect(),
            labels: labels.to_vec(),
            ..SplitScan::default()
        };
        let checked = |train: &[u32]| {
            let classes = ["ant", "bee", "cat"].map(String::from).to_vec();
            let splits = [split(train), SplitScan::default()];
            let scan = Scan::new("images", classes, splits, Fingerprint::of(&[b"x"]));
            scan.check().map_err(|error| error.to_string())
        };
        assert_eq!(checked(&[2, 0, 1]), Ok(()));
        let absent = checked(&[1, 1]).unwrap_err();
        for part in ["images", "2 of 3 classes (ant, cat)", "add images of them"] {
            assert!(absent.contains(part), "{absent}");
        }
        assert!(
            checked(&[])
                .unwrap_err()
                .contains("the train split has no images")
        );
    }
}
