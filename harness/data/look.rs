//! Looks at a folder and says which kind of dataset it holds.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tessera_models::{ReadOn, files};
use tessera_tokenizers::Image;

use super::decode::{decode, decode_file, is_image};
use super::error::DataError;

/// Images whose size is looked at, one of a class or the first of a shard.
const LOOKED_AT: usize = 9;
/// Bytes of an image in a shard that are looked at.
const LARGEST: u64 = 1 << 26;
/// Names of the split that is evaluated, as shards have them.
const VAL: [&str; 3] = ["val", "validation", "test"];

/// What a folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The `dataset:` of a suite, with `folder` as given.
    pub dataset: Value,
    /// Its layout in words.
    pub layout: &'static str,
    /// Median of the shorter sides of a few images, pixels; `None` if none can be read.
    pub side: Option<usize>,
}

/// Returns what `folder` holds. The images are not checked.
///
/// # Errors
/// If it holds shards of a val split and shards that are of no split.
pub fn look(folder: &Path) -> Result<Look, DataError> {
    let root = folder.to_string_lossy();
    let has = |name: &str| folder.join(name).is_file();
    let cifar = |classes: usize, layout| Look {
        dataset: json!({"kind": "cifar-binary", "root": root, "classes": classes}),
        layout,
        side: Some(32),
    };
    if has("data_batch_1.bin") {
        return Ok(cifar(10, "the binary files of CIFAR-10"));
    }
    if has("train.bin") && has("test.bin") {
        return Ok(cifar(100, "the binary files of CIFAR-100"));
    }
    if let Some(shards) = shards(folder)? {
        return Ok(shards);
    }
    let train = folder.join("train");
    let (classes, layout) = match (train.is_dir(), folder.join("val").is_dir()) {
        (true, true) => (&*train, "class folders in train and val"),
        (true, false) => (&*train, "class folders in train, and no val"),
        (false, _) => (folder, "class folders"),
    };
    Ok(Look {
        dataset: json!({"kind": "image-folder", "root": root}),
        layout,
        side: side(classes),
    })
}

/// Returns the entries of a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = all.map(|entry| entry.path()).collect();
    all.sort_unstable();
    all
}

/// Shards of one split.
struct Shards {
    /// A glob or a folder.
    pattern: PathBuf,
    first: PathBuf,
}

fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "tar")
}

/// Returns whether a shard's name begins like a split.
fn is_of(path: &Path, split: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    is_shard(path) && name.starts_with(split)
}

/// Returns the shards in the folder `split`, or those whose names begin so.
fn of_split(folder: &Path, split: &str) -> Option<Shards> {
    let within = folder.join(split);
    let inner = entries(&within).into_iter().find(|path| is_shard(path));
    let inner = inner.map(|first| Shards {
        pattern: within,
        first,
    });
    inner.or_else(|| {
        let first = entries(folder)
            .into_iter()
            .find(|path| is_of(path, split))?;
        let pattern = folder.join(format!("{split}*.tar"));
        Some(Shards { pattern, first })
    })
}

/// Returns a WebDataset of both splits, or of the only one; `None` without shards.
fn shards(folder: &Path) -> Result<Option<Look>, DataError> {
    let train = of_split(folder, "train");
    let val = VAL.iter().find_map(|split| of_split(folder, split));
    let is_of_none = |path: &PathBuf| {
        let mut splits = ["train"].iter().chain(&VAL);
        is_shard(path) && !splits.any(|split| is_of(path, split))
    };
    let other = entries(folder).into_iter().find(is_of_none);
    match (train, val, other) {
        (Some(train), Some(val), _) => Ok(Some(Look {
            dataset: json!({"kind": "webdataset", "train": train.pattern.to_string_lossy(), "val": val.pattern.to_string_lossy()}),
            layout: ".tar shards",
            side: shard_side(&train.first),
        })),
        (Some(one), None, None) | (None, Some(one), None) => Ok(Some(one_split(&one))),
        (None, None, Some(first)) => Ok(Some(one_split(&Shards {
            pattern: folder.to_owned(),
            first,
        }))),
        (None, None, None) => Ok(None),
        (_, _, Some(other)) => {
            let message = format!(
                "found shards of one split and {}; expected train*.tar and val*.tar, or folders `train` and `val` with shards; rename \
                 them, or write `dataset: {{kind: webdataset, train: ..., val: ...}}`",
                other.file_name().unwrap_or_default().display()
            );
            Err(DataError::at(folder, message))
        }
    }
}

fn one_split(shards: &Shards) -> Look {
    Look {
        dataset: json!({"kind": "webdataset", "train": shards.pattern.to_string_lossy()}),
        layout: ".tar shards of one split",
        side: shard_side(&shards.first),
    }
}

/// Returns the median of the shorter sides of the first images of a few class folders.
fn side(folder: &Path) -> Option<usize> {
    let classes = entries(folder).into_iter().filter(|path| path.is_dir());
    let first = |class: PathBuf| entries(&class).into_iter().find(|path| is_image(path));
    let images = classes.filter_map(first).take(LOOKED_AT);
    median(images.filter_map(|path| decode_file(&path).ok()))
}

/// Returns the median of the shorter sides of the first images of a shard. What cannot be read is left to the scan.
fn shard_side(shard: &Path) -> Option<usize> {
    let mut archive = tar::Archive::new(BufReader::new(ReadOn(files::open(shard).ok()?)));
    let entries = archive.entries().ok()?.map_while(Result::ok);
    let images = entries.filter(|entry| entry.path().is_ok_and(|path| is_image(&path)));
    let bytes = images.take(LOOKED_AT).filter_map(|image| {
        let mut bytes = Vec::new();
        image.take(LARGEST).read_to_end(&mut bytes).ok()?;
        decode(&bytes).ok()
    });
    median(bytes)
}

fn median(images: impl Iterator<Item = Image>) -> Option<usize> {
    let mut sides: Vec<usize> = images.map(|image| image.width.min(image.height)).collect();
    sides.sort_unstable();
    sides.get(sides.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str]) -> Result<Value, String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = dir.path().to_string_lossy().into_owned();
        let look = look(dir.path()).map_err(|error| error.to_string())?;
        let text = look.dataset.to_string().replace(&root, "ROOT");
        Ok(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn every_kind_of_folder_is_found() {
        for (files, dataset) in [
            (
                &["data_batch_1.bin", "test_batch.bin"][..],
                json!({"kind": "cifar-binary", "root": "ROOT", "classes": 10}),
            ),
            (
                &["train.bin", "test.bin"],
                json!({"kind": "cifar-binary", "root": "ROOT", "classes": 100}),
            ),
            (
                &["train-0.tar", "train-1.tar", "val-0.tar"],
                json!({"kind": "webdataset", "train": "ROOT/train*.tar", "val": "ROOT/val*.tar"}),
            ),
            (
                &["train/0.tar", "test/0.tar"],
                json!({"kind": "webdataset", "train": "ROOT/train", "val": "ROOT/test"}),
            ),
            (
                &["train-0.tar", "train-1.tar"],
                json!({"kind": "webdataset", "train": "ROOT/train*.tar"}),
            ),
            (
                &["test/0.tar"],
                json!({"kind": "webdataset", "train": "ROOT/test"}),
            ),
            (
                &["00000.tar", "00001.tar"],
                json!({"kind": "webdataset", "train": "ROOT"}),
            ),
            (
                &["train/ant/0.png", "val/ant/0.png"],
                json!({"kind": "image-folder", "root": "ROOT"}),
            ),
            (
                &["ant/0.png"],
                json!({"kind": "image-folder", "root": "ROOT"}),
            ),
        ] {
            assert_eq!(found(files), Ok(dataset));
        }
        for others in [&["train-0.tar", "more.tar"], &["val-0.tar", "more.tar"]] {
            let half = found(others).unwrap_err();
            assert!(half.contains("one split and more.tar"), "{half}");
        }
    }
}
