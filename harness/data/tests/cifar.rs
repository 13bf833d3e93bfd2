use super::*;

fn cifar(dir: &Path, cut: usize) -> CifarBinary {
    let train = (1..6).map(|number| format!("data_batch_{number}"));
    for name in train.chain(["test_batch".to_owned()]) {
        let mut bytes = Vec::new();
        for label in 0..10_u8 {
            bytes.push(label);
            bytes.extend((0..3072).map(|i| (i / 1024) as u8 * 10 + label));
        }
        bytes.truncate(bytes.len() - cut);
        fs::write(dir.join(format!("{name}.bin")), bytes).unwrap();
    }
    CifarBinary {
        root: dir.to_owned(),
        classes: 10,
    }
}

#[test]
fn cifar_planes_become_pixels_and_a_truncated_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = cifar(dir.path(), 0);
    let scan = scanned(&spec).unwrap();
    assert_eq!(
        (scan.train.len(), scan.val.len(), scan.train.labels[4]),
        (50, 10, 4)
    );
    let image = Dataset::open(&spec, &scan)
        .unwrap()
        .image(Split::Val, 2)
        .unwrap();
    assert_eq!(image.rgb[..3], [2, 12, 22]);
    let error = scanned(&cifar(dir.path(), 7)).unwrap_err().to_string();
    assert!(
        error.contains("expected a multiple of 3073 (truncated?)"),
        "{error}"
    );
    // The length is right, the content is lost.
    let spec = cifar(dir.path(), 0);
    fs::write(dir.path().join("data_batch_3.bin"), [0; 6146]).unwrap();
    let error = scanned(&spec).unwrap_err().to_string();
    assert!(error.contains("images 0 and 1 have only"), "{error}");
}

#[test]
fn cifar_images_of_both_splits_are_counted_and_other_files_named() {
    let dir = tempfile::tempdir().unwrap();
    let spec = cifar(dir.path(), 0);
    // Every file of this test has the same images.
    let repeated = scanned(&spec).unwrap().repeated().unwrap();
    assert_eq!(repeated, "10 of 10 val images (test/0, ...)");
    let mut bytes = fs::read(dir.path().join("test_batch.bin")).unwrap();
    bytes[1] = 99;
    // Only pixels count, not the label.
    bytes[3073] = 7;
    fs::write(dir.path().join("test_batch.bin"), bytes).unwrap();
    fs::write(dir.path().join("data_batch_6.bin"), "more").unwrap();
    let scan = scanned(&spec).unwrap();
    assert_eq!(scan.repeated().unwrap(), "9 of 10 val images (test/1, ...)");
    let lines = scan.omitted.lines(9).join("\n");
    assert!(lines.contains("data_batch_6.bin"), "{lines}");
    assert!(!lines.contains("shorter"), "{lines}");
    // A batch that was cut between two images.
    let cut = fs::read(dir.path().join("data_batch_4.bin")).unwrap();
    fs::write(dir.path().join("data_batch_4.bin"), &cut[..9 * 3073]).unwrap();
    let lines = scanned(&spec).unwrap().omitted.lines(9).join("\n");
    let said = "1 files may lack images (shorter than another batch of 30730 bytes; if it was cut between two images, copy it again): \
                data_batch_4.bin (27657 bytes)";
    assert!(lines.contains(said), "{lines}");
}

/// The classes were numbered without a word.
#[test]
fn class_names_that_cannot_be_reached_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = cifar(dir.path(), 0);
    assert!(scanned(&spec).is_ok());
    for to in ["batches.meta.txt", "nothing"] {
        let names = dir.path().join("batches.meta.txt");
        std::os::unix::fs::symlink(to, &names).unwrap();
        let error = scanned(&spec).unwrap_err().to_string();
        assert!(error.contains("batches.meta.txt"), "{to}: {error}");
        fs::remove_file(names).unwrap();
    }
}
