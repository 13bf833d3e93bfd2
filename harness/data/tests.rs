use std::fs;
use std::path::Path;

use serde_json::json;
use tessera_tokenizers::{Config, ConfigError, Split};

use super::{kinds::CifarBinary, *};
use crate::Registry;

fn write_image(path: &Path, seed: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image =
        image::RgbImage::from_fn(20, 16, |x, y| image::Rgb([seed, x as u8 * 9, y as u8 * 11]));
    image.save(path).unwrap();
}

/// Two classes, `count` PNGs per class and split.
fn folder(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        for class in ["ant", "bee"] {
            for i in 0..count {
                write_image(
                    &dir.path().join(format!("{split}/{class}/{i:03}.png")),
                    i as u8,
                );
            }
        }
    }
    dir
}

pub(super) fn spec(root: &Path) -> ImageFolder {
    ImageFolder {
        held: None,
        root: root.to_owned(),
        classes: None,
        decoding: Decoding::default(),
    }
}

fn scanned(spec: &dyn DatasetSpec) -> Result<Scan, DataError> {
    let cache = tempfile::tempdir().unwrap();
    scan(spec, cache.path(), &|_, _, _| (), &|| false)
}

#[test]
fn a_folder_is_scanned_in_class_and_name_order() {
    let dir = folder(2);
    let scan = scanned(&spec(dir.path())).unwrap();
    assert_eq!(
        scan.train.names.iter().collect::<Vec<_>>(),
        [
            "train/ant/000.png",
            "train/ant/001.png",
            "train/bee/000.png",
            "train/bee/001.png"
        ]
    );
    assert_eq!(scan.train.labels, [0, 0, 1, 1]);
    let dataset = Dataset::open(&spec(dir.path()), &scan).unwrap();
    let image = dataset.image(Split::Train, 1).unwrap();
    assert_eq!((image.width, image.height, image.rgb[0]), (20, 16, 1));
}

#[test]
fn the_fingerprint_changes_with_a_pixel_and_not_with_the_cache() {
    let dir = folder(2);
    let cache = tempfile::tempdir().unwrap();
    let run = || scan(&spec(dir.path()), cache.path(), &|_, _, _| (), &|| false).unwrap();
    let first = run();
    assert_eq!(first, run(), "cached digests give the same scan");
    write_image(&dir.path().join("val/bee/001.png"), 77);
    assert_ne!(first.fingerprint, run().fingerprint);
}

#[test]
fn files_of_any_folder_are_opened_and_rendered() {
    let dir = folder(1);
    let files = ["val/bee/000.png", "train/ant/000.png"].map(|name| dir.path().join(name));
    let dataset = Dataset::of_files(&files).unwrap();
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Val)), (0, 2));
    let eval = EvalTransform {
        resize_shorter: 16,
        crop: 16,
    };
    let view = dataset
        .view(Split::Val, &[1, 0], ViewPlan::Eval, eval)
        .unwrap();
    for (sample, path) in view.0.iter().zip([&files[1], &files[0]]) {
        assert_eq!(*sample.image, decode_file(path).unwrap());
    }
    let absent = dir.path().join("absent.png");
    let error = decode_file(&absent).unwrap_err().to_string();
    assert!(error.starts_with(&absent.display().to_string()), "{error}");
}

/// A JPEG of 150 by 101 pixels in each class of both splits.
fn photographs(fast_decode: bool) -> (tempfile::TempDir, ImageFolder) {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        let class = dir.path().join(split).join("ant");
        fs::create_dir_all(&class).unwrap();
        let jpeg = include_bytes!("../../tests/fixtures/jpeg/restarts.jpg");
        fs::write(class.join("0.jpg"), jpeg).unwrap();
        write_image(&class.join("1.png"), 7);
    }
    let spec = ImageFolder {
        decoding: Decoding {
            fast: fast_decode,
            cached: false,
        },
        ..spec(dir.path())
    };
    (dir, spec)
}

#[test]
fn fast_decode_changes_the_fingerprint_and_the_name() {
    let (_dir, fast) = photographs(true);
    let exact = scanned(&spec(&fast.root)).unwrap();
    let fast = scanned(&fast).unwrap();
    assert_ne!(fast.fingerprint, exact.fingerprint);
    assert_eq!(fast.name, format!("{} (fast_decode)", exact.name));
}

#[test]
fn fast_decode_shows_the_same_part_with_fewer_pixels() {
    let (_dir, spec) = photographs(true);
    let scan = scanned(&spec).unwrap();
    let mut dataset = Dataset::open(&spec, &scan).unwrap();
    let eval = EvalTransform {
        resize_shorter: 32,
        crop: 28,
    };
    let view = |dataset: &Dataset| {
        dataset
            .view(Split::Val, &[0, 1], ViewPlan::Eval, eval)
            .unwrap()
    };
    let whole = view(&dataset);
    dataset.decode_for(20);
    let fast = view(&dataset);
    // The box is 88 pixels wide, 22 at 1/4.
    let [jpeg, png] = &fast.0[..] else {
        unreachable!()
    };
    assert_eq!((jpeg.image.width, jpeg.image.height), (38, 26));
    assert_eq!((jpeg.finest, png.finest), (Some(20), None));
    assert_eq!((&png.image, png.crop), (&whole.0[1].image, whole.0[1].crop));
    let input = tessera_tokenizers::InputSpec {
        side: 20,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    let pixels = |view: &tessera_tokenizers::ViewBuf| view.as_view().values(&input).unwrap();
    let (whole, fast) = (pixels(&whole), pixels(&fast));
    let off: f32 = whole.iter().zip(&fast).map(|(a, b)| (a - b).abs()).sum();
    assert!(
        off / (whole.len() as f32) < 0.02,
        "{}",
        off / whole.len() as f32
    );
    assert_ne!(whole, fast);
    dataset.decode_for(28);
    assert_eq!(view(&dataset).0[0].image.width, 75, "28 need 1/2");
}

#[test]
fn the_error_for_a_missing_folder_says_how_to_prepare_it() {
    let error = scanned(&spec(Path::new("nowhere")))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("nowhere/train: no such folder; expected train/<class>/*"),
        "{error}"
    );
}

#[test]
fn an_empty_class_folder_is_named() {
    let dir = folder(1);
    fs::create_dir_all(dir.path().join("train/cat")).unwrap();
    fs::create_dir_all(dir.path().join("val/cat")).unwrap();
    let error = scanned(&spec(dir.path())).unwrap_err().to_string();
    assert!(
        error.contains("train/cat: no images in this class folder"),
        "{error}"
    );
}

#[test]
fn different_classes_are_named() {
    let dir = folder(1);
    write_image(&dir.path().join("train/cat/0.png"), 0);
    let error = scanned(&spec(dir.path())).unwrap_err().to_string();
    assert!(
        error.contains("different classes (only in train: cat); they must"),
        "{error}"
    );
    for class in ["cow", "dog", "eel", "fox"] {
        write_image(&dir.path().join(format!("train/{class}/0.png")), 0);
    }
    write_image(&dir.path().join("val/gnu/0.png"), 0);
    let error = scanned(&spec(dir.path())).unwrap_err().to_string();
    let expected = "(only in train: cat, cow, dog and 2 more; only in val: gnu)";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_broken_jpeg_among_good_images_is_skipped_and_many_stop_the_scan() {
    let dir = folder(40);
    fs::write(
        dir.path().join("train/ant/broken.jpg"),
        b"\xff\xd8\xff\xe0 not a jpeg",
    )
    .unwrap();
    let scan = scanned(&spec(dir.path())).unwrap();
    assert_eq!(scan.omitted.images.len(), 1);
    assert_eq!(scan.omitted.images[0].name, "train/ant/broken.jpg");
    assert_eq!(scan.train.len(), 80);
    for i in 0..5 {
        fs::write(dir.path().join(format!("train/ant/broken{i}.jpg")), b"no").unwrap();
    }
    let error = scanned(&spec(dir.path())).unwrap_err().to_string();
    assert!(
        error.starts_with("6 of 166 images do not decode"),
        "{error}"
    );
    let last = "train/ant/broken4.jpg: ";
    assert!(error.contains(last) && !error.contains("..."), "{error}");
}

#[test]
fn a_class_of_broken_images_is_told_with_them() {
    let dir = folder(60);
    fs::remove_dir_all(dir.path().join("train/bee")).unwrap();
    fs::create_dir(dir.path().join("train/bee")).unwrap();
    fs::write(dir.path().join("train/bee/0.jpg"), b"\xff\xd8\xff\xe0 no").unwrap();
    let error = scanned(&spec(dir.path())).unwrap_err().to_string();
    let part = "no images of 1 of 2 classes (bee) (skipped, of 1 in all: train/bee/0.jpg: ";
    assert!(error.contains(part), "{error}");
}

#[test]
fn a_class_list_fixes_labels_and_must_exist() {
    let dir = folder(1);
    let list = dir.path().join("list.txt");
    let with_list = ImageFolder {
        classes: Some(list.clone()),
        ..spec(dir.path())
    };
    fs::write(&list, "bee\nant\n").unwrap();
    let scan = scanned(&with_list).unwrap();
    assert_eq!(
        (scan.classes.join(","), &scan.train.names[0]),
        ("bee,ant".into(), "train/bee/000.png")
    );
    assert_ne!(
        scan.class_list_hash,
        scanned(&spec(dir.path())).unwrap().class_list_hash
    );
    fs::write(&list, "bee\nwasp\n").unwrap();
    assert!(
        scanned(&with_list)
            .unwrap_err()
            .to_string()
            .contains("class `wasp` has no folder")
    );
    fs::remove_file(&list).unwrap();
    let absent = scanned(&with_list).unwrap_err().to_string();
    for part in [
        "list.txt: No such file",
        "a class per line",
        "relative to the suite",
    ] {
        assert!(absent.contains(part), "{absent}");
    }
}

#[test]
fn grey_and_alpha_become_rgb() {
    let dir = tempfile::tempdir().unwrap();
    let grey = dir.path().join("g.png");
    image::GrayImage::from_pixel(16, 16, image::Luma([90]))
        .save(&grey)
        .unwrap();
    let alpha = dir.path().join("a.png");
    image::RgbaImage::from_pixel(4, 4, image::Rgba([10, 20, 30, 0]))
        .save(&alpha)
        .unwrap();
    assert_eq!(
        decode::decode(&fs::read(&grey).unwrap()).unwrap().rgb[..3],
        [90, 90, 90]
    );
    assert_eq!(
        decode::decode(&fs::read(&alpha).unwrap()).unwrap().rgb[..3],
        [10, 20, 30]
    );
}

fn parsed(value: serde_json::Value) -> Result<Box<dyn DatasetSpec>, ConfigError> {
    Registry::builtin().dataset(&Config::from_value(value))
}

#[test]
fn the_fields_of_a_dataset_are_checked() {
    let parse = |value| parsed(value).unwrap_err().to_string();
    assert!(parse(json!({"kind": "mosaic"})).contains("did you mean `mosaics`?"));
    assert!(parse(json!({"kind": "image-folder", "rot": "x"})).contains("did you mean `root`?"));
    let number = parse(json!({"kind": "image-folder", "root": "x", "fast_decode": 1}));
    assert!(
        number.contains("fast_decode: found 1, expected true or false"),
        "{number}"
    );
    let drawn = json!({"kind": "mosaics", "train": 10, "val": 1, "size": 8, "fast_decode": true});
    assert!(parse(drawn).contains("fast_decode"));
    for classes in [7, 20, 101] {
        let number = parse(json!({"kind": "cifar-binary", "root": "x", "classes": classes}));
        let expected = format!("found {classes}, expected 10 or 100");
        assert!(number.contains(&expected), "{number}");
    }
}

#[test]
fn crops_lie_inside_and_depend_on_epoch_and_image_only() {
    let spec = mosaics::Mosaics {
        seed: 0,
        train: 40,
        val: 10,
        size: 32,
    };
    let dataset = Dataset::open(&spec, &scanned(&spec).unwrap()).unwrap();
    let eval = EvalTransform {
        resize_shorter: 32,
        crop: 32,
    };
    let plan = |epoch| ViewPlan::RandomResizedCrop {
        seed: 3,
        epoch,
        scale: (0.2, 1.0),
        form: CropForm::Torchvision,
    };
    let all: Vec<usize> = (0..40).collect();
    let crops = |indices: &[usize], epoch| -> Vec<_> {
        let view = dataset
            .view(Split::Train, indices, plan(epoch), eval)
            .unwrap();
        view.0.iter().map(|s| (s.crop, s.flip)).collect()
    };
    let first = crops(&all, 0);
    assert_eq!(first[7..9], crops(&[7, 8], 0), "alone or in a batch");
    assert_ne!(first, crops(&all, 1));
    for (crop, _) in &first {
        assert!(
            crop.left >= 0.0
                && crop.top >= 0.0
                && crop.left + crop.width <= 32.0
                && crop.top + crop.height <= 32.0
        );
        let part = crop.width * crop.height / 1024.0;
        assert!((0.15..=1.0).contains(&part), "{part}");
    }
    let flips = first.iter().filter(|(_, flip)| *flip).count();
    assert!((8..32).contains(&flips), "{flips}");
}

#[test]
fn cached_pixels_equal_decoded_images() {
    let (dir, spec) = photographs(false);
    let scan = scanned(&spec).unwrap();
    let open = || Dataset::open(&spec, &scan).unwrap();
    let (plain, mapped) = (open(), open());
    let bytes = 2 * 3 * (150 * 101 + 20 * 16);
    assert_eq!(mapped.decoded_bytes(), Some(bytes));
    let file = dir.path().join("pixels.u8");
    let write = |dataset: &Dataset| dataset.write_decoded(&file, &|_, _, _| (), &|| false);
    write(&mapped).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), bytes);
    let expected: Vec<_> = [
        (Split::Train, 0),
        (Split::Train, 1),
        (Split::Val, 0),
        (Split::Val, 1),
    ]
    .into_iter()
    .map(|(split, index)| (split, index, plain.image(split, index).unwrap()))
    .collect();
    mapped.use_decoded(&file).unwrap();
    fs::remove_dir_all(dir.path().join("train")).unwrap();
    for (split, index, image) in expected {
        assert_eq!(mapped.image(split, index).unwrap(), image);
    }
    fs::write(&file, b"short").unwrap();
    let error = open().use_decoded(&file).unwrap_err().to_string();
    assert!(
        error.contains("pixels.u8: found 5 bytes, expected"),
        "{error}"
    );
    let gone = write(&open()).unwrap_err();
    assert!(gone.to_string().contains("train/ant"), "{gone}");
}

#[test]
fn an_image_that_changed_since_the_scan_is_not_cached() {
    let (dir, spec) = photographs(false);
    let dataset = Dataset::open(&spec, &scanned(&spec).unwrap()).unwrap();
    let wide = image::RgbImage::new(21, 16);
    wide.save(dir.path().join("val/ant/1.png")).unwrap();
    let file = dir.path().join("pixels.u8");
    let error = dataset.write_decoded(&file, &|_, _, _| (), &|| false);
    let error = error.unwrap_err().to_string();
    for part in ["val/ant/1.png", "changed", "run the same command again"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let stopped = dataset.write_decoded(&file, &|_, _, _| (), &|| true);
    assert!(matches!(stopped, Err(DataError::Interrupted)));
}

#[test]
fn fast_decode_does_not_read_what_is_in_memory() {
    let (dir, spec) = photographs(true);
    let scan = scanned(&spec).unwrap();
    let mut dataset = Dataset::open(&spec, &scan).unwrap();
    dataset.keep_for_training();
    let eval = EvalTransform {
        resize_shorter: 32,
        crop: 28,
    };
    let view = |dataset: &Dataset| dataset.view(Split::Val, &[0, 1], ViewPlan::Eval, eval);
    // First at 1/4, then at the full size.
    for side in [20, 100] {
        dataset.decode_for(side);
        view(&dataset).unwrap();
    }
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    for (side, width) in [(20, 38), (100, 150)] {
        dataset.decode_for(side);
        let reduced = view(&dataset).unwrap();
        assert_eq!(reduced.0[0].image.width, width);
        assert_eq!(reduced.0[1].image.width, 20);
    }
}

#[test]
fn the_patterns_of_shards_are_checked() {
    let wrong = |value| parsed(value).unwrap_err().to_string();
    let two =
        |train: serde_json::Value| json!({"kind": "webdataset", "train": train, "val": "v.tar"});
    let spec = parsed(two(json!(["a-{00..01}.tar", "b.tar"]))).unwrap();
    let about = format!("{spec:?}");
    assert!(
        about.contains(r#"train: ["a-00.tar", "a-01.tar", "b.tar"]"#),
        "{about}"
    );
    for (train, parts) in [
        (json!("t-{0..3.tar"), ["train", "has no `}`"]),
        (json!("https://x.org/t.tar"), ["train", "local files"]),
        (json!("pipe:cat t.tar"), ["train", "local files"]),
        (json!(7), ["train", "found 7"]),
        (json!([]), ["train", "found 0 items, expected at least 1"]),
        (json!(["a.tar", 3]), ["train[1]", "found 3, expected text"]),
    ] {
        let error = wrong(two(train));
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let beside = |kind: &str, more: serde_json::Value| {
        let mut all = json!({"kind": kind, "root": "x"});
        let fields = all.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        fields.retain(|key, _| kind != "webdataset" || key != "root");
        wrong(all)
    };
    let held = json!({"train": "t.tar", "val": "v.tar", "hold_out": 0.1});
    let fast = json!({"decoded_cache": "u8", "fast_decode": true});
    let unknown = json!({"decoded_cache": "f32"});
    for (kind, more, field, part) in [
        ("webdataset", held, "hold_out", "beside `val`"),
        ("image-folder", unknown, "decoded_cache", "u8"),
        ("image-folder", fast, "decoded_cache", "leave one out"),
    ] {
        let error = beside(kind, more);
        assert!(error.contains(field) && error.contains(part), "{error}");
    }
}

mod cifar;
