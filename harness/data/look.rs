//! Looks at a folder and says which kind of dataset it holds.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::decode::{decode_file, is_image};
use super::error::DataError;

/// Images whose size is looked at, one of a class.
const LOOKED_AT: usize = 9;
/// Names of the split that is evaluated, as shards have them.
const VAL: [&str; 3] = ["val", "validation", "test"];

/// What a folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The `dataset:` of a suite, with `folder` as given.
    pub dataset: Value,
    /// Its layout in words.
    pub layout: &'static str,
    /// Median of the shorter sides of a few images, pixels; `None` if they are not looked at.
    pub side: Option<usize>,
}

/// Returns what `folder` holds. The images are not checked.
///
/// # Errors
/// If it holds shards of one split only.
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

/// Returns a WebDataset of `train*.tar` and `val*.tar`, or of the folders `train` and `val` with shards; `None` without shards.
fn shards(folder: &Path) -> Result<Option<Look>, DataError> {
    let is_shard = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "tar");
    let named = |split: &str| {
        let begins = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            is_shard(path) && name.starts_with(split)
        };
        let within = entries(&folder.join(split)).iter().any(is_shard);
        let beside = entries(folder).iter().any(begins);
        let pattern = match (within, beside) {
            (true, _) => folder.join(split),
            (false, true) => folder.join(format!("{split}*.tar")),
            (false, false) => return None,
        };
        Some(pattern.to_string_lossy().into_owned())
    };
    let (train, val) = (named("train"), VAL.iter().find_map(|split| named(split)));
    let (Some(train), Some(val)) = (&train, &val) else {
        return match train.is_some() || val.is_some() || entries(folder).iter().any(is_shard) {
            false => Ok(None),
            true => {
                let message = "found .tar shards, but not of both splits; expected train*.tar and val*.tar, or folders `train` and `val` \
                               with shards; rename them, or write `dataset: {kind: webdataset, train: ..., val: ...}`";
                Err(DataError::at(folder, message))
            }
        };
    };
    Ok(Some(Look {
        dataset: json!({"kind": "webdataset", "train": train, "val": val}),
        layout: ".tar shards",
        side: None,
    }))
}

/// Returns the median of the shorter sides of the first images of a few class folders.
fn side(folder: &Path) -> Option<usize> {
    let classes = entries(folder).into_iter().filter(|path| path.is_dir());
    let first = |class: PathBuf| entries(&class).into_iter().find(|path| is_image(path));
    let images = classes.filter_map(first).take(LOOKED_AT);
    let sides = images.filter_map(|path| decode_file(&path).ok());
    let mut sides: Vec<usize> = sides.map(|image| image.width.min(image.height)).collect();
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
        let half = found(&["train-0.tar"]).unwrap_err();
        assert!(half.contains("not of both splits"), "{half}");
    }
}
