use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tessera_tokenizers::Split;

use super::WebDataset;
use crate::data::{DataError, Dataset, DatasetSpec, Decoding, HoldOut, ImageFolder, Scan, scan};

const CLASSES: [&str; 3] = ["ant", "bee", "cow"];

/// A file of a shard.
type File = (String, Vec<u8>);

fn file(name: &str, bytes: impl AsRef<[u8]>) -> File {
    (name.to_owned(), bytes.as_ref().to_vec())
}

fn write_shard(path: &Path, files: &[File]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let bytes = bytes.as_slice();
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.finish().unwrap();
}

fn png(seed: usize) -> Vec<u8> {
    let (width, height) = (18 + seed as u32 % 5, 16 + seed as u32 % 3);
    let shade = |x: u32, y: u32| image::Rgb([seed as u8, x as u8 * 9, y as u8 * 11]);
    let image = image::RgbImage::from_fn(width, height, shade);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes three classes of four PNGs and a JPEG of 150 by 101 pixels, in both splits: as a folder, and as two shards per split with
/// shuffled samples. `label` returns the content of the `.cls` of a class.
fn both(label: impl Fn(usize) -> String) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("shards")).unwrap();
    for (s, split) in ["train", "val"].into_iter().enumerate() {
        let mut samples = Vec::new();
        for (c, class) in CLASSES.into_iter().enumerate() {
            let folder = dir.path().join("images").join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            let jpeg = include_bytes!("../../../../tests/fixtures/jpeg/restarts.jpg");
            let images = (0..4).map(|i| (format!("{i:03}.png"), png(100 * s + 10 * c + i)));
            for (name, bytes) in images.chain([("photo.JPG".to_owned(), jpeg.to_vec())]) {
                fs::write(folder.join(&name), &bytes).unwrap();
                let key = name.split('.').next().unwrap();
                let cls = file(&format!("{class}/{key}.cls"), label(c));
                samples.push([cls, file(&format!("./{class}/{name}"), &bytes)]);
            }
        }
        samples.reverse();
        samples.rotate_left(4);
        let (first, second) = samples.split_at(7);
        for (number, samples) in [first, second].into_iter().enumerate() {
            let path = dir.path().join(format!("shards/{split}-{number:06}.tar"));
            write_shard(&path, &samples.concat());
        }
    }
    dir
}

fn folder(dir: &Path, classes: Option<PathBuf>, fast: bool) -> ImageFolder {
    ImageFolder {
        held: None,
        root: dir.join("images"),
        classes,
        decoding: Decoding {
            fast,
            cached: false,
        },
    }
}

fn shards(dir: &Path) -> WebDataset {
    WebDataset {
        train: vec![dir.join("shards/train-*.tar")],
        val: vec![
            dir.join("shards/val-000000.tar"),
            dir.join("shards/val-000001.tar"),
        ],
        ..WebDataset::default()
    }
}

fn web(shards: WebDataset, fast: bool) -> WebDataset {
    let cached = false;
    WebDataset {
        decoding: Decoding { fast, cached },
        ..shards
    }
}

fn scanned(spec: &dyn DatasetSpec) -> Result<Scan, DataError> {
    let cache = tempfile::tempdir().unwrap();
    scan(spec, cache.path(), &|_, _, _| (), &|| false)
}

/// Asserts that both scans are equal except for the dataset's name and the positions of images, and that all pixels are equal.
fn assert_equal(a: &dyn DatasetSpec, b: &dyn DatasetSpec) {
    let (left, right) = (scanned(a).unwrap(), scanned(b).unwrap());
    assert_eq!(left.fingerprint, right.fingerprint);
    assert_eq!(left.classes, right.classes);
    assert_eq!(left.class_list_hash, right.class_list_hash);
    for (left, right) in [(&left.train, &right.train), (&left.val, &right.val)] {
        assert_eq!(left.names, right.names);
        assert_eq!(left.labels, right.labels);
        assert_eq!(left.shapes, right.shapes);
    }
    let open = |spec, scan| Dataset::open(spec, scan).unwrap();
    let (a, b) = (open(a, &left), open(b, &right));
    for split in [Split::Train, Split::Val] {
        for index in 0..a.len(split) {
            let images = [&a, &b].map(|dataset| dataset.image(split, index).unwrap());
            assert_eq!(images[0], images[1]);
        }
    }
}

#[test]
fn shards_equal_the_folder_of_their_images() {
    let dir = both(|c| CLASSES[c].to_owned());
    let spec = web(shards(dir.path()), false);
    let scan = scanned(&spec).unwrap();
    assert_eq!((scan.train.len(), scan.val.len()), (15, 15));
    assert_eq!(&scan.train.names[4], "train/ant/photo.JPG");
    assert_equal(&spec, &folder(dir.path(), None, false));
    let fast = web(shards(dir.path()), true);
    assert_equal(&fast, &folder(dir.path(), None, true));
    assert_ne!(scan.fingerprint, scanned(&fast).unwrap().fingerprint);
}

#[test]
fn a_survey_refuses_what_is_no_archive() {
    let dir = both(|c| CLASSES[c].to_owned());
    let spec = web(shards(dir.path()), false);
    spec.survey().unwrap();
    let other = dir.path().join("shards/val-000001.tar");
    for (bytes, part) in [
        (&b"PK\x03\x04\x14\0 and so on"[..], "ZIP archive"),
        (b"train/ant/photo.jpg 0\n", "not a complete tar archive"),
        (&[7; 2048], "not a complete tar archive"),
    ] {
        fs::write(&other, bytes).unwrap();
        let error = spec.survey().unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("val-000001"),
            "{error}"
        );
    }
}

#[test]
fn train_shards_alone_equal_a_folder_without_val() {
    let dir = both(|c| CLASSES[c].to_owned());
    fs::remove_dir_all(dir.path().join("images/val")).unwrap();
    for held in [None, Some(HoldOut { part: 0.4, seed: 3 })] {
        let spec = WebDataset {
            val: Vec::new(),
            held,
            ..shards(dir.path())
        };
        let images = ImageFolder {
            held,
            ..folder(dir.path(), None, false)
        };
        assert_equal(&spec, &images);
        let val = scanned(&spec).unwrap().val.len();
        assert_eq!(val, if held.is_some() { 6 } else { 0 });
        let known = spec.survey().unwrap().images;
        assert_eq!(known, [None, held.is_none().then_some(0)]);
    }
    let list = dir.path().join("classes.txt");
    fs::write(&list, "ant\nelk\n").unwrap();
    let spec = WebDataset {
        val: Vec::new(),
        classes: Some(list),
        ..shards(dir.path())
    };
    let error = scanned(&spec).unwrap_err().to_string();
    let place = dir.path().join("shards/train-*.tar");
    let said = format!("class `elk` has no image in {}; correct", place.display());
    assert!(error.contains(&said), "{error}");
}

#[test]
fn numeric_labels_are_named_by_class_names_or_by_their_numbers() {
    let dir = both(|c| format!("{c}\n"));
    let scan = scanned(&web(shards(dir.path()), false)).unwrap();
    assert_eq!(scan.classes, ["0", "1", "2"]);
    let names = dir.path().join("names.txt");
    fs::write(&names, "ant\nbee\ncow\nnobody\n").unwrap();
    let named = WebDataset {
        class_names: Some(names.clone()),
        ..shards(dir.path())
    };
    let spec = web(named.clone(), false);
    assert_equal(&spec, &folder(dir.path(), None, false));
    fs::write(&names, "ant\nbee\n").unwrap();
    let error = scanned(&spec).unwrap_err().to_string();
    for part in ["is 2", "0..2", "class_names", "names.txt", "cow/"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn numeric_labels_are_sorted_as_numbers() {
    let dir = both(|c| ["10", "9", "1"][c].to_owned());
    let scan = scanned(&web(shards(dir.path()), false)).unwrap();
    assert_eq!(scan.classes, ["1", "9", "10"]);
    assert!(scan.train.names[0].starts_with("train/cow/"));
}

#[test]
fn a_list_selects_classes_and_orders_them() {
    let dir = both(|c| CLASSES[c].to_owned());
    let list = dir.path().join("list.txt");
    fs::write(&list, "cow\tsome words\nant\n").unwrap();
    let spec = |list: &Path| {
        let listed = WebDataset {
            classes: Some(list.to_owned()),
            ..shards(dir.path())
        };
        web(listed, false)
    };
    assert_equal(&spec(&list), &folder(dir.path(), Some(list.clone()), false));
    fs::write(&list, "cow\nwasp\n").unwrap();
    let error = scanned(&spec(&list)).unwrap_err().to_string();
    assert!(error.contains("class `wasp` has no image in"), "{error}");
    fs::write(&list, "cow\nant\ncow\n").unwrap();
    let error = scanned(&spec(&list)).unwrap_err().to_string();
    assert!(error.contains("`cow` twice"), "{error}");
}

#[test]
fn a_shard_that_changed_at_equal_size_and_time_is_read_again() {
    let dir = both(|c| CLASSES[c].to_owned());
    let cache = tempfile::tempdir().unwrap();
    let spec = web(shards(dir.path()), false);
    let run = || scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap();
    let first = run();
    assert_eq!(run(), first, "cached digests give the same scan");
    let shard = dir.path().join("shards/train-000000.tar");
    let place = (first.train.places.iter().zip(&first.train.shapes))
        .find(|(place, shape)| place.shard == 0 && !shape.jpeg)
        .unwrap();
    let time = fs::metadata(&shard).unwrap().modified().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[place.0.offset as usize + 1] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let reset = |time| {
        let file = fs::File::options().write(true).open(&shard).unwrap();
        file.set_modified(time).unwrap();
    };
    reset(time);
    let error = scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap_err();
    assert!(
        error.to_string().contains("1 of 30 images do not decode"),
        "{error}"
    );
}

/// Scans a train split of one shard with `files` after `change`, and asserts that the error contains `parts`.
fn refused(files: &[File], change: impl FnOnce(&Path), parts: &[&str]) {
    let dir = both(|c| CLASSES[c].to_owned());
    let shard = dir.path().join("shards/odd.tar");
    write_shard(&shard, files);
    change(&shard);
    let odd = WebDataset {
        train: vec![shard],
        ..shards(dir.path())
    };
    let error = scanned(&web(odd, false)).unwrap_err().to_string();
    assert!(error.contains("odd.tar"), "{error}");
    for part in parts {
        assert!(error.contains(part), "expected {part:?} in {error}");
    }
}

fn good() -> Vec<File> {
    vec![file("a/1.png", png(1)), file("a/1.cls", "ant")]
}

#[test]
fn odd_shards_are_refused_with_the_remedy() {
    let more = |files: &[File]| [good(), files.to_vec()].concat();
    let cut = |bytes: u64| {
        move |path: &Path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - bytes)
                .unwrap();
        }
    };
    // An archive ends with two blocks of zeros.
    refused(
        &good(),
        cut(1024 + 100),
        &["truncated", "not complete", "again"],
    );
    refused(
        &good(),
        cut(1024 + 510),
        &["truncated", "`a/1.cls` ends at byte"],
    );
    refused(
        &good(),
        |path| fs::write(path, [7; 2048]).unwrap(),
        &["not a complete tar archive"],
    );
    let zeros = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(17 << 20).unwrap();
    };
    refused(&good(), zeros, &["truncated", "bytes are zeros", "again"]);
    let empty = |path: &Path| fs::write(path, b"").unwrap();
    refused(&good(), empty, &["is empty"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    refused(
        &good(),
        |path| fs::write(path, pointer).unwrap(),
        &["git lfs pull"],
    );
    let gzip = |path: &Path| fs::write(path, b"\x1f\x8b\x08 and so on").unwrap();
    refused(&good(), gzip, &["compressed (gzip)", "gunzip"]);
    let nobody = [file("a/2.jpg", png(2))];
    refused(
        &more(&nobody),
        |_| (),
        &["`a/2.jpg` has no label", "`a/2.cls`", "beside it"],
    );
    let blind = [file("a/2.cls", "ant"), file("a/2.v1.jpg", png(2))];
    refused(
        &more(&blind),
        |_| (),
        &["key `a/2`", "no image", "`.v1.jpg`", "first dot"],
    );
    refused(
        &more(&[file("a/1.jpg", png(3))]),
        |_| (),
        &["key `a/1`", "a/1.jpg", "one image"],
    );
    refused(
        &more(&good()[1..]),
        |_| (),
        &["key `a/1`", "a/1.cls", "one label"],
    );
    for (cls, json) in [("3", "{\"label\": 4}"), ("ant", "{\"label\": \"bee\"}")] {
        let both = [
            file("a/2.png", png(2)),
            file("a/2.cls", cls),
            file("a/2.json", json),
        ];
        let parts = ["`a/2.cls` has the label", "`a/2.json`", "one label"];
        refused(&more(&both), |_| (), &parts);
    }
    let unlabelled = [file("a/2.png", png(2)), file("a/2.json", "{\"id\": 3}")];
    refused(
        &more(&unlabelled),
        |_| (),
        &["`a/2.json`", "found id", "label"],
    );
    refused(
        &[file("README", "text")],
        |_| (),
        &["no image in these shards"],
    );
    refused(
        &good(),
        |path| fs::remove_file(path).unwrap(),
        &["no such shard", "local .tar"],
    );
}

/// Scans a train split of one shard with `good` and `files`, after `change`.
fn accepted(files: &[File], change: impl FnOnce(&Path)) -> Scan {
    let dir = both(|c| CLASSES[c].to_owned());
    let shard = dir.path().join("shards/odd.tar");
    let all = CLASSES.iter().enumerate().flat_map(|(at, class)| {
        [
            file(&format!("g/{at}.png"), png(at)),
            file(&format!("g/{at}.cls"), class),
        ]
    });
    write_shard(&shard, &all.chain(files.to_vec()).collect::<Vec<_>>());
    change(&shard);
    let odd = WebDataset {
        train: vec![shard],
        ..shards(dir.path())
    };
    scanned(&web(odd, false)).unwrap()
}

#[test]
fn everything_that_is_left_out_of_shards_is_counted_and_named() {
    let scan = accepted(
        &[
            file("._a.png", "mac"),
            file("README", "text"),
            file("g/0.seg.png", png(7)),
            file("x.1.png", png(8)),
            file("x.1.cls", "ant"),
            file("y.bmp", "BM"),
        ],
        |_| (),
    );
    assert_eq!(scan.train.len(), 3);
    let images = scan.omitted.images.iter();
    let images: Vec<_> = images
        .map(|i| (i.name.as_str(), i.reason.as_str()))
        .collect();
    assert_eq!(images.len(), 2, "{images:?}");
    assert!(images[0].0 == "odd.tar/x.1.png" && images[0].1.contains("first dot (`x`)"));
    assert!(images[1].0 == "odd.tar/y.bmp" && images[1].1.contains("`.bmp` is not read"));
    let others = scan
        .omitted
        .others
        .iter()
        .map(|group| (group.count, &group.names[0][..]));
    assert_eq!(
        others.collect::<Vec<_>>(),
        [
            (1, "odd.tar/._a.png"),
            (1, "odd.tar/README"),
            (1, "odd.tar/g/0.seg.png"),
            (1, "odd.tar/x.1.cls")
        ]
    );
}

#[test]
fn archives_that_are_concatenated_or_end_without_a_mark_are_read() {
    let second = tempfile::tempdir().unwrap();
    let second = second.path().join("b.tar");
    write_shard(&second, &[file("h/1.png", png(9)), file("h/1.cls", "cow")]);
    let more = fs::read(&second).unwrap();
    let scan = accepted(&[], |path| {
        let whole = [fs::read(path).unwrap(), more].concat();
        fs::write(path, whole).unwrap();
    });
    assert_eq!(scan.train.len(), 4);
    let scan = accepted(&[], |path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1024).unwrap();
    });
    assert_eq!(scan.train.len(), 3);
    assert!(
        scan.omitted.others[0]
            .reason
            .contains("without an end-of-archive mark")
    );
}

#[test]
fn an_image_that_changed_since_the_scan_is_refused() {
    let dir = both(|c| CLASSES[c].to_owned());
    let spec = web(shards(dir.path()), false);
    let scan = scanned(&spec).unwrap();
    let dataset = Dataset::open(&spec, &scan).unwrap();
    let place = scan.val.places[2];
    let shard = &scan.val.shards[place.shard as usize];
    let mut bytes = fs::read(shard).unwrap();
    bytes[place.offset as usize + place.bytes as usize - 1] ^= 1;
    fs::write(shard, bytes).unwrap();
    let error = dataset.image(Split::Val, 2).unwrap_err().to_string();
    assert!(
        error.contains("changed") && error.contains(&scan.val.names[2]),
        "{error}"
    );
    dataset.image(Split::Val, 1).unwrap();
}

#[test]
fn an_image_in_two_shards_is_refused_with_both() {
    let dir = both(|c| CLASSES[c].to_owned());
    let twice = WebDataset {
        train: vec![
            dir.path().join("shards/train-*.tar"),
            dir.path().join("shards/train-000001.tar"),
        ],
        ..shards(dir.path())
    };
    let error = scanned(&web(twice, false)).unwrap_err().to_string();
    for part in ["train-000001.tar", "is in", "once"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

mod left_out;
mod zeros;
