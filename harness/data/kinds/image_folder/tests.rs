use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tessera_tokenizers::Split;

use super::ImageFolder;
use crate::data::check_two_classes;
use crate::data::tests::spec;
use crate::data::{DataError, Dataset, DatasetSpec, Scan, scan};

mod held_out;
mod layout;

fn image(path: &Path, shade: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = image::RgbImage::from_pixel(8, 8, image::Rgb([shade, 1, 2]));
    image
        .save_with_format(path, image::ImageFormat::Png)
        .unwrap();
}

/// Two classes of `count` images in both splits, all different.
fn folder(count: u8) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (split, first) in [("train", 0_u8), ("val", 100)] {
        for (class, add) in [("ant", 0), ("bee", 50)] {
            for at in 0..count {
                let name = format!("{split}/{class}/{at}.png");
                image(
                    &dir.path().join(name),
                    first.wrapping_add(add).wrapping_add(at),
                );
            }
        }
    }
    dir
}

fn scanned_with(root: &Path, cache: &Path) -> Result<Scan, DataError> {
    scan(&spec(root), cache, &|_, _, _| (), &|| false)
}

fn scanned(root: &Path) -> Result<Scan, DataError> {
    scanned_with(root, tempfile::tempdir().unwrap().path())
}

/// Writes `after` in place of a file and restores its modification time. Both have the same length.
fn replace(path: &Path, after: &[u8]) {
    let about = fs::metadata(path).unwrap();
    assert_eq!(about.len(), after.len() as u64);
    let beside = path.with_extension("new");
    fs::write(&beside, after).unwrap();
    let file = fs::File::options().write(true).open(&beside).unwrap();
    file.set_modified(about.modified().unwrap()).unwrap();
    fs::rename(beside, path).unwrap();
}

#[test]
fn a_file_that_is_replaced_at_equal_size_and_time_is_noticed() {
    let dir = folder(2);
    let cache = tempfile::tempdir().unwrap();
    let files = ["train/ant/0.png", "train/ant/1.png"].map(|name| dir.path().join(name));
    for file in &files {
        // Decoders stop at the end of the image.
        let mut bytes = fs::read(file).unwrap();
        bytes.resize(1000, 0);
        fs::write(file, bytes).unwrap();
    }
    let first = scanned_with(dir.path(), cache.path()).unwrap();
    assert_eq!(first, scanned_with(dir.path(), cache.path()).unwrap());
    let dataset = Dataset::open(&spec(dir.path()), &first).unwrap();
    let [one, other] = files;
    replace(&one, &fs::read(&other).unwrap());
    let error = dataset.image(Split::Train, 0).unwrap_err().to_string();
    for part in ["train/ant/0.png", "changed", "run the same command again"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let second = scanned_with(dir.path(), cache.path()).unwrap();
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_eq!(second, scanned(dir.path()).unwrap(), "as without a cache");
    let dataset = Dataset::open(&spec(dir.path()), &second).unwrap();
    dataset.image(Split::Train, 0).unwrap();
    replace(&other, &fs::read(&other).unwrap());
    dataset.image(Split::Train, 1).unwrap();
    // What another version found in the same bytes: scanning again with its cache would find it again.
    let mut otherwise = second;
    Arc::make_mut(&mut otherwise.train).shapes[0].width = 9;
    let dataset = Dataset::open(&spec(dir.path()), &otherwise).unwrap();
    let error = dataset.image(Split::Train, 0).unwrap_err().to_string();
    for part in ["train/ant/0.png", "expected (9, 8)", "folder `scan`"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn equal_images_elsewhere_have_the_fingerprint_and_no_common_cache() {
    let [one, other] = [folder(2), folder(2)];
    let cache = tempfile::tempdir().unwrap();
    let entries = || fs::read_dir(cache.path()).unwrap().count();
    let first = scanned_with(one.path(), cache.path()).unwrap();
    let second = scanned_with(other.path(), cache.path()).unwrap();
    assert_eq!((&first.fingerprint, entries()), (&second.fingerprint, 2));
    // Another spelling and a link of the same folder share the cache.
    symlink(one.path(), other.path().join("link")).unwrap();
    let spellings = [one.path().join("train/.."), other.path().join("link")];
    for root in spellings {
        let again = scanned_with(&root, cache.path()).unwrap();
        assert_eq!(
            (again.fingerprint, entries()),
            (first.fingerprint.clone(), 2)
        );
    }
}

#[test]
fn a_damaged_cache_is_read_as_none() {
    let dir = folder(2);
    let cache = tempfile::tempdir().unwrap();
    let first = scanned_with(dir.path(), cache.path()).unwrap();
    let file = fs::read_dir(cache.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(
            first,
            scanned_with(dir.path(), cache.path()).unwrap(),
            "byte {at}"
        );
        assert_eq!(fs::read(&file).unwrap(), whole, "it is written again");
    }
}

#[test]
fn a_list_of_classes_keeps_the_results_of_the_others() {
    let dir = folder(2);
    let cache = tempfile::tempdir().unwrap();
    scanned_with(dir.path(), cache.path()).unwrap();
    let file = || {
        fs::read_dir(cache.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    };
    let list = dir.path().join("list.txt");
    fs::write(&list, "bee\n").unwrap();
    let listed = ImageFolder {
        classes: Some(list),
        ..spec(dir.path())
    };
    image(&dir.path().join("train/bee/9.png"), 9);
    let few = scan(&listed, cache.path(), &|_, _, _| (), &|| false).unwrap();
    assert_eq!(few.train.len(), 3);
    let before = fs::read(file()).unwrap();
    scanned_with(dir.path(), cache.path()).unwrap();
    assert_eq!(fs::read(file()).unwrap(), before, "nothing was decoded");
}

#[test]
fn hidden_files_are_neither_images_nor_classes() {
    let dir = folder(2);
    let plain = scanned(dir.path()).unwrap();
    for split in ["train", "val"] {
        let split = dir.path().join(split);
        image(&split.join(".ipynb_checkpoints/0-checkpoint.png"), 200);
        image(&split.join("ant/@eaDir/0.png"), 201);
        fs::write(split.join("ant/._0.png"), b"\0\x05\x16\x07").unwrap();
        fs::write(split.join(".DS_Store"), b"x").unwrap();
        fs::write(split.join("ant/Thumbs.db"), b"x").unwrap();
    }
    let scan = scanned(dir.path()).unwrap();
    assert_eq!(scan.fingerprint, plain.fingerprint);
    assert_eq!(
        (&scan.classes, scan.omitted.images.len()),
        (&plain.classes, 0)
    );
    let group = &scan.omitted.others[0];
    assert_eq!(
        (group.count, scan.omitted.others.len()),
        (10, 1),
        "{group:?}"
    );
    assert!(group.names.contains(&"train/ant/._0.png".to_owned()));
}

#[test]
fn images_that_are_not_read_are_counted_and_named() {
    let dir = folder(2);
    let ant = |name: &str| dir.path().join("train/ant").join(name);
    for name in ["a.bmp", "b.TIFF", "c.gif", "d.jfif", "e"] {
        image(&ant(name), 7);
    }
    fs::write(ant("f.tif"), b"II*\0").unwrap();
    fs::write(ant("notes.txt"), b"a text").unwrap();
    image(&dir.path().join("val/loose.png"), 8);
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, ant("pipe.png"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let scan = scanned(dir.path()).unwrap();
    assert_eq!(scan.train.len(), 4);
    let named = |name: &str| scan.omitted.images.iter().find(|image| image.name == name);
    for (name, reason) in [
        ("train/ant/a.bmp", "is a PNG with another extension"),
        ("train/ant/e", "is a PNG with another extension"),
        ("train/ant/f.tif", "`.tif` is not read; convert it"),
        ("val/loose.png", "lies in no class folder"),
        ("train/ant/pipe.png", "is a pipe, socket or device"),
    ] {
        assert!(named(name).unwrap().reason.contains(reason), "{name}");
    }
    let texts = &scan.omitted.others[0];
    assert_eq!(
        (texts.reason.as_str(), &texts.names[0][..]),
        ("no images", "train/ant/notes.txt")
    );
}

#[test]
fn images_in_deeper_folders_are_found() {
    let dir = folder(1);
    let deeper = dir.path().join("train/ant/images/more/5.png");
    image(&deeper, 9);
    let scan = scanned(dir.path()).unwrap();
    let names: Vec<_> = scan.train.names.iter().collect();
    assert_eq!(
        names,
        [
            "train/ant/0.png",
            "train/ant/images/more/5.png",
            "train/bee/0.png"
        ]
    );
    let dataset = Dataset::open(&spec(dir.path()), &scan).unwrap();
    assert_eq!(dataset.image(Split::Train, 1).unwrap().rgb[0], 9);
    symlink(
        dir.path().join("train/ant"),
        dir.path().join("train/ant/images/up"),
    )
    .unwrap();
    let error = scanned(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("images/up: is a link to a folder above it"),
        "{error}"
    );
}

#[test]
fn a_link_to_nothing_is_a_broken_image() {
    let dir = folder(120);
    symlink("annex/objects/x", dir.path().join("train/ant/gone.png")).unwrap();
    symlink("loop.png", dir.path().join("train/ant/loop.png")).unwrap();
    let scan = scanned(dir.path()).unwrap();
    let reasons: Vec<_> = scan
        .omitted
        .images
        .iter()
        .map(|image| &image.reason)
        .collect();
    assert!(
        reasons[0].contains("is a link to annex/objects/x"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("leads back to itself"), "{reasons:?}");
}

#[test]
fn a_name_that_is_not_utf8_is_refused() {
    for (name, is_folder) in [
        (&b"train/ant/image\xff.png"[..], false),
        (b"train/class\xff", true),
    ] {
        let dir = folder(1);
        let path = dir.path().join(OsStr::from_bytes(name));
        match is_folder {
            true => fs::create_dir(path).unwrap(),
            false => fs::write(path, b"").unwrap(),
        }
        let error = scanned(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not UTF-8; rename it"), "{error}");
    }
    let dir = folder(1);
    fs::write(
        dir.path()
            .join(OsStr::from_bytes(b"train/ant/notes\xff.txt")),
        b"",
    )
    .unwrap();
    assert_eq!(scanned(dir.path()).unwrap().omitted.others[0].count, 1);
}

#[test]
fn other_layouts_are_explained() {
    let told = |change: &dyn Fn(&Path) -> PathBuf| {
        let dir = folder(1);
        let root = change(dir.path());
        let survey = spec(&root).survey().unwrap_err().to_string();
        assert_eq!(scanned(&root).unwrap_err().to_string(), survey);
        survey
    };
    let moved = |from: &'static str, to: &'static str| {
        told(&move |root| {
            fs::rename(root.join(from), root.join(to)).unwrap();
            root.to_owned()
        })
    };
    assert!(moved("val", "validation").contains("found `validation`; rename it to `val`"));
    assert!(moved("val/ant", "val/Ant").contains("differ in case"));
    assert!(told(&|root| root.join("train")).contains("is a split; name the folder above it"));
    assert!(told(&|root| root.join("train/ant/0.png")).contains("is a file; name the folder"));
    let zip = told(&|root| {
        fs::write(root.join("images.zip"), b"PK\x03\x04\x14\0 and so on").unwrap();
        root.join("images.zip")
    });
    assert!(
        zip.contains("images.zip` is a ZIP archive") && zip.contains("; unpack it, and name the"),
        "{zip}"
    );
    assert!(told(&|root| root.join("data\\images")).contains("write / in place of \\"));
    assert!(told(&|root| root.join("x".repeat(300))).contains("File name too long"));
    let outer = told(&|root| {
        let inner = root.join("outer/images");
        fs::create_dir_all(&inner).unwrap();
        for split in ["train", "val"] {
            fs::rename(root.join(split), inner.join(split)).unwrap();
        }
        root.join("outer")
    });
    assert!(
        outer.contains("found images/train; set `root` to"),
        "{outer}"
    );
    let flat = told(&|root| {
        fs::remove_dir_all(root.join("val")).unwrap();
        (0..3).for_each(|at| image(&root.join(format!("val/{at}.png")), at));
        root.to_owned()
    });
    assert!(
        flat.contains("val: contains 3 images and no class folders"),
        "{flat}"
    );
    let loose = told(&|root| {
        (0..3).for_each(|at| image(&root.join(format!("loose/{at}.png")), at));
        root.join("loose")
    });
    let said = "loose; metrics and probes need the class of every image";
    assert!(
        loose.contains("found 3 images and no class folders"),
        "{loose}"
    );
    assert!(loose.contains(said), "{loose}");
}

#[test]
fn images_in_no_split_are_named() {
    let dir = folder(1);
    let at = |name: &str| dir.path().join(name);
    for folder in ["test/ant", "notes"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::copy(at("train/ant/0.png"), at("loose.png")).unwrap();
    fs::create_dir_all(at("extra/lynx")).unwrap();
    fs::copy(at("train/ant/0.png"), at("extra/lynx/e.png")).unwrap();
    fs::write(at("README.md"), "").unwrap();
    // A split may be a link.
    fs::rename(at("val"), at("validation")).unwrap();
    std::os::unix::fs::symlink("validation", at("val")).unwrap();
    let omitted = scanned(dir.path()).unwrap().omitted;
    let found = omitted
        .others
        .iter()
        .find(|of| of.reason == "in no split")
        .unwrap();
    assert_eq!(
        (found.count, &found.names[..]),
        (3, &["extra", "loose.png", "test"].map(str::to_owned)[..])
    );
}

#[test]
fn val_images_that_are_in_train_too_are_counted() {
    let dir = folder(2);
    let scan = scanned(dir.path()).unwrap();
    assert_eq!((scan.repeated(), scan.contradictions()), (None, None));
    fs::copy(
        dir.path().join("train/bee/1.png"),
        dir.path().join("val/ant/1.png"),
    )
    .unwrap();
    let repeated = scanned(dir.path()).unwrap().repeated().unwrap();
    assert_eq!(repeated, "1 of 4 val images (val/ant/1.png, ...)");
    let contradictions = scanned(dir.path()).unwrap().contradictions().unwrap();
    assert_eq!(contradictions, "1 image (val/ant/1.png as train/bee/1.png)");
    fs::copy(
        dir.path().join("train/bee/1.png"),
        dir.path().join("val/bee/1.png"),
    )
    .unwrap();
    fs::remove_file(dir.path().join("val/ant/1.png")).unwrap();
    let scan = scanned(dir.path()).unwrap();
    assert_eq!((scan.contradictions(), scan.twice()), (None, None));
    let copy = dir.path().join("train/bee/2.png");
    fs::copy(dir.path().join("train/bee/1.png"), copy).unwrap();
    let twice = scanned(dir.path()).unwrap().twice().unwrap();
    assert_eq!(twice, "1 of 5 train images (train/bee/2.png, ...)");
}

#[test]
fn a_scan_costs_a_bounded_number_of_bytes_for_each_image() {
    let dir = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let (classes, each) = (10, 200);
    for split in ["train", "val"] {
        for class in 0..classes {
            let folder = dir
                .path()
                .join(format!("{split}/n{:08}", 1_440_764 + class));
            image(&folder.join("original.png"), class as u8);
            for at in 0..each - 1 {
                let name = format!("n{:08}_{at:05}.png", 1_440_764 + class);
                fs::hard_link(folder.join("original.png"), folder.join(name)).unwrap();
            }
        }
    }
    let scan = scanned_with(dir.path(), cache.path()).unwrap();
    let images = (2 * classes * each) as u64;
    let file = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap();
    let stored = file.metadata().unwrap().len() / images;
    assert!(stored <= 95, "{stored} bytes for each image on disk");
    assert_eq!(Arc::strong_count(&scan.train), 1);
    let open = Dataset::open(&spec(dir.path()), &scan).unwrap();
    assert!(Arc::strong_count(&scan.train) > 1, "not a copy");
    assert_eq!(open.len(Split::Train), classes * each);
}

/// A folder too many made one class, of which every accuracy is 100 %.
#[test]
fn accuracies_need_two_classes() {
    let dir = folder(2);
    assert_eq!(scanned(dir.path()).unwrap().single_class(), None);
    assert!(check_two_classes(None).is_ok());
    let deep = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        fs::create_dir_all(deep.path().join(split)).unwrap();
        let to = deep.path().join(split).join("images");
        fs::rename(dir.path().join(split), to).unwrap();
    }
    let scan = scanned(deep.path()).unwrap();
    let error = check_two_classes(scan.single_class())
        .unwrap_err()
        .to_string();
    for part in ["one class, `images`", "one level up", "100 %"] {
        assert!(error.contains(part), "{error}");
    }
}
