//! A call fails while a dataset is read: the run ends, or has all images.

use std::fs::{self, File};

use super::common::{Bench, error};
use super::inject::Faults;
use super::{SUITE, Trial, use_pictures};

/// Returns a suite that scores a row on `dataset`.
fn scoring(dataset: &str) -> Bench {
    let mut lines: Vec<&str> = SUITE.lines().take(10).collect();
    lines[3] = dataset;
    Bench::new(&(lines.join("\n") + "\n"))
}

fn pictures() -> Bench {
    let bench = scoring("dataset: {kind: image-folder, root: images}");
    let suite = fs::read(bench.path("suite.yaml")).unwrap();
    use_pictures(&bench, 3, "");
    fs::write(bench.path("suite.yaml"), suite).unwrap();
    bench
}

/// Two shards of each split, in a folder of their own.
fn shards() -> Bench {
    let bench =
        scoring("dataset: {kind: webdataset, train: shards/train, val: \"shards/val/*.tar\"}");
    let images = pictures();
    for split in ["train", "val"] {
        let folder = bench.path("shards").join(split);
        fs::create_dir_all(&folder).unwrap();
        for (shard, class) in ["ant", "bee"].into_iter().enumerate() {
            let file = File::create(folder.join(format!("{shard}.tar"))).unwrap();
            let mut shard = tar::Builder::new(file);
            for number in 0..3 {
                let path = format!("images/{split}/{class}/{number}.png");
                let key = format!("{class}{number}");
                let mut image = File::open(images.path(&path)).unwrap();
                shard.append_file(format!("{key}.png"), &mut image).unwrap();
                let mut header = tar::Header::new_gnu();
                header.set_size(class.len() as u64);
                header.set_mode(0o644);
                let name = format!("{key}.cls");
                shard
                    .append_data(&mut header, name, class.as_bytes())
                    .unwrap();
            }
            shard.into_inner().unwrap();
        }
    }
    bench
}

fn cifar() -> Bench {
    let bench = scoring("dataset: {kind: cifar-binary, root: cifar, classes: 10}");
    fs::create_dir(bench.path("cifar")).unwrap();
    let train = (1..6).map(|number| format!("data_batch_{number}"));
    for (number, name) in (0..).zip(train.chain(["test_batch".to_owned()])) {
        let image = |label: u8| {
            let pixels = (0..3072)
                .map(move |at| (at / 7) as u8 ^ label.wrapping_mul(31).wrapping_add(5 * number));
            std::iter::once(label).chain(pixels)
        };
        let bytes: Vec<u8> = (0..10).flat_map(image).collect();
        fs::write(bench.path("cifar").join(format!("{name}.bin")), bytes).unwrap();
    }
    let names = "plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    fs::write(bench.path("cifar/batches.meta.txt"), names).unwrap();
    bench
}

/// A folder that cannot be listed to its end was taken for a shorter one. All runs end well or say what they cannot read. A read that a signal
/// interrupts is made again; an archive's was not.
fn must_be_whole(bench: Bench, folder: &str, kinds: &[&str]) {
    let Some(faults) = Faults::of(Trial::of(bench)) else {
        return;
    };
    let faults = faults.below(folder);
    for calls in kinds {
        let failed = faults.each("eio", calls, 5).into_iter();
        let failed: Vec<_> = failed.filter(|output| !output.status.success()).collect();
        assert!(!failed.is_empty(), "{calls} of {folder}: no run failed");
        for output in failed {
            let said = error(&output);
            assert!(said.contains(folder), "{calls}: {said}");
        }
    }
    for output in faults.each("eintr", "read", 5) {
        assert!(output.status.success(), "{}", error(&output));
    }
}

#[test]
fn an_image_folder_that_cannot_be_looked_at_is_no_smaller_one() {
    must_be_whole(pictures(), "images", &["look", "list", "read"]);
}

#[test]
fn shards_that_cannot_be_looked_at_are_not_fewer() {
    must_be_whole(shards(), "shards", &["look", "list", "read"]);
}

#[test]
fn files_of_cifar_that_cannot_be_looked_at_are_not_fewer() {
    must_be_whole(cifar(), "cifar", &["look", "read"]);
}
