//! `bench fetch`: downloads from a server on the loopback, archives that are not what they should be, and suites that find the images.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "hub")]

#[path = "../common/mod.rs"]
mod common;
mod folders;
mod hostile;
mod server;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, error};
use server::{Answer, Server, sha256, tgz, zip};

const SUITE: &str = "version: 1
name: tiny
dataset: {kind: KIND, root: nowhere, fetch: NAME}
image_size: 32
patch_size: 8
eval_transform: {resize_shorter: 32, crop: 32}
tokenizers: [{name: P, kind: kmeans, with: {features: {kind: pixels}, k: 2, epochs: 1}}]
";

/// Two images in every file of CIFAR-10's archive.
fn cifar() -> Vec<u8> {
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    let names: Vec<String> = names.chain(["test_batch.bin".into()]).collect();
    // Bytes that hardly compress, so that a part of the archive is a part of the images.
    let noise =
        |seed: usize| (0..3072).map(move |i| (((i * i + seed) * 2_654_435_761) >> 13) as u8);
    let images = |file: usize| {
        let image = |label: u8| std::iter::once(label).chain(noise(file));
        image(3).chain(image(7)).collect::<Vec<u8>>()
    };
    let paths: Vec<String> = names
        .iter()
        .map(|name| format!("cifar-10-batches-bin/{name}"))
        .collect();
    let files = paths.iter().enumerate();
    let files: Vec<(&str, Vec<u8>)> = files.map(|(at, path)| (&path[..], images(at))).collect();
    tgz(&files)
}

/// The archive of Tiny ImageNet with two classes.
fn tiny_imagenet() -> Vec<u8> {
    let image = |shade: u8| {
        let image = image::RgbImage::from_pixel(32, 32, image::Rgb([shade, 9, 9]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let table = "v0.png\tn02\t0\t32\t44\t62\nv1.png\tn01\t0\t0\t9\t9\n";
    let files = [
        ("wnids.txt", b"n01\nn02\n".to_vec()),
        ("train/", Vec::new()),
        ("train/n01/images/a.png", image(1)),
        ("train/n01/n01_boxes.txt", b"a.png\t0\t0\t1\t1\n".to_vec()),
        ("train/n02/images/b.png", image(2)),
        ("val/images/v0.png", image(3)),
        ("val/images/v1.png", image(4)),
        ("val/val_annotations.txt", table.as_bytes().to_vec()),
        ("test/images/t.png", image(5)),
    ];
    let files = files.map(|(name, bytes)| (format!("tiny-imagenet-200/{name}"), bytes));
    zip(&files
        .iter()
        .map(|(name, bytes)| (&name[..], bytes.clone()))
        .collect::<Vec<_>>())
}

/// A folder with a suite and a cache.
struct Trial(Bench);

impl Trial {
    fn new(kind: &str, name: &str) -> Self {
        Self(Bench::new(
            &SUITE.replace("KIND", kind).replace("NAME", name),
        ))
    }

    fn cifar() -> Self {
        Self::new("cifar-binary", "cifar10")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command(args);
        command.env("TESSERA_DATA", self.0.path("data"));
        command
    }

    fn bench(&self, args: &[&str]) -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().unwrap();
        let said = [stdout, stderr].concat();
        (status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn fetch(&self, name: &str, from: &str, archive: &[u8]) -> (Option<i32>, String) {
        self.bench(&["fetch", name, "--from", from, "--sha256", &sha256(archive)])
    }

    /// Returns everything in the cache, relative to it.
    fn cached(&self) -> Vec<String> {
        let data = self.0.path("data");
        let (mut found, mut folders) = (Vec::new(), vec![data.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&data).unwrap();
                found.push(name.display().to_string());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The fetched CIFAR-10 is whole, nothing else is there, and the suite finds it.
    fn has_cifar(&self) {
        let cached = self.cached();
        assert_eq!(cached.len(), 8, "{cached:?}");
        assert!(cached.contains(&"cifar10/test_batch.bin".to_owned()));
        let (status, said) = self.bench(&["validate", "suite.yaml"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("10 train and 2 val images in "), "{said}");
        assert!(said.contains("data/cifar10\n"), "{said}");
        let (_, said) = self.bench(&["validate", "suite.yaml", "--json"]);
        assert!(said.contains("data/cifar10\","), "{said}");
    }

    /// Returns the download of CIFAR-10's archive with this SHA-256.
    fn part(&self, digest: &str) -> PathBuf {
        self.0
            .path(&format!("data/cifar10-{}.tgz.part", &digest[..8]))
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

#[test]
fn an_archive_is_downloaded_once_and_the_suite_finds_it() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let server = Server::start(&archive, &[Answer::Whole]);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    has(&said, &["data/cifar10 is complete", "citation"]);
    trial.has_cifar();
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    has(&said, &["is there"]);
    assert_eq!(server.asked(), [None]);
    let (_, said) = trial.bench(&["validate", "suite.yaml", "--resolved"]);
    has(&said, &["data/cifar10\n"]);
    let (_, said) = trial.bench(&["fetch"]);
    has(
        &said,
        &[
            "cifar10        ",
            "from another archive",
            "tiny-imagenet",
            "not fetched",
        ],
    );
}

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let (a, b) = (archive.len() / 3, archive.len() / 4);
    let answers = [Answer::Cut(a), Answer::Cut(b), Answer::Whole];
    let server = Server::start(&archive, &answers);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(server.asked(), [None, Some(a), Some(a + b)]);
    trial.has_cifar();
}

#[test]
fn what_came_is_kept_for_the_next_call() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let half = archive.len() / 2;
    let answers = [Answer::Cut(half), Answer::Status(503)];
    let server = Server::start(&archive, &answers);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &["503", "the same command goes on", ".part", "--from"],
    );
    assert_eq!(
        std::fs::metadata(trial.part(&sha256(&archive)))
            .unwrap()
            .len(),
        half as u64
    );
    let server = Server::start(&archive, &[Answer::Whole]);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(
        (status, server.asked()),
        (Some(0), vec![Some(half)]),
        "{said}"
    );
    trial.has_cifar();
}

#[test]
fn a_whole_part_is_not_downloaded_again() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let dead = Server::start(&archive, &[Answer::Status(404)]);
    let (status, said) = trial.fetch("cifar10", &dead.url, &archive);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["404", "--from"]);
    assert_eq!(dead.asked().len(), 1, "a refusal is final");
    assert_eq!(
        trial.cached(),
        Vec::<String>::new(),
        "an empty part is removed"
    );
    std::fs::write(trial.part(&sha256(&archive)), &archive).unwrap();
    let server = Server::start(&archive, &[Answer::Whole]);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(server.asked(), [Some(archive.len())]);
    trial.has_cifar();
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let answers = [Answer::Cut(archive.len() / 2), Answer::IgnoringRange];
    let server = Server::start(&archive, &answers);
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(server.asked().len(), 2);
    trial.has_cifar();
}

#[test]
fn another_checksum_is_refused_with_both_digests() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let server = Server::start(&archive, &[Answer::Whole]);
    let (status, said) = trial.fetch("cifar10", &server.url, b"other");
    assert_eq!(status, Some(2), "{said}");
    has(&said, &[&sha256(&archive), &sha256(b"other"), "--from"]);
    assert_eq!(trial.cached(), Vec::<String>::new());
    // A file that the user names stays.
    let path = trial.0.path("archive.tgz");
    std::fs::write(&path, &archive).unwrap();
    let (status, said) = trial.bench(&["fetch", "cifar10", "--from", "archive.tgz"]);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &[&sha256(&archive), "c4a38c50a1bc5f3a"]);
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(0), "{said}");
    assert!(path.exists());
    trial.has_cifar();
}

#[test]
fn an_archive_of_another_size_is_refused_before_its_bytes() {
    let trial = Trial::cifar();
    let server = Server::start(&cifar(), &[Answer::Whole]);
    let (status, said) = trial.bench(&["fetch", "cifar10", "--from", &server.url]);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &[&format!("found {} bytes", cifar().len()), "170052171"],
    );
    assert_eq!(server.asked().len(), 1);
    // What an earlier call downloaded stays.
    let part = trial.part("c4a38c50");
    std::fs::write(&part, "some bytes").unwrap();
    let server = Server::start(&cifar(), &[Answer::IgnoringRange]);
    let (status, said) = trial.bench(&["fetch", "cifar10", "--from", &server.url]);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["the server has another file"]);
    assert_eq!(std::fs::read(part).unwrap(), b"some bytes");
}

#[test]
fn an_encoded_body_is_refused() {
    let (archive, trial) = (cifar(), Trial::cifar());
    for encoding in ["gzip", "br"] {
        let server = Server::start(&archive, &[Answer::Encoded(encoding)]);
        let (status, said) = trial.fetch("cifar10", &server.url, &archive);
        assert_eq!(status, Some(2), "{said}");
        has(&said, &["Content-Encoding", encoding, "--from"]);
        assert_eq!(trial.cached(), Vec::<String>::new());
    }
}

#[test]
fn an_interrupted_download_goes_on() {
    let (archive, trial) = (cifar(), Trial::cifar());
    let server = Server::start(&archive, &[Answer::Slow, Answer::Whole]);
    let digest = sha256(&archive);
    let args = [
        "fetch",
        "cifar10",
        "--from",
        &server.url,
        "--sha256",
        &digest,
    ];
    let mut command = trial.command(&args);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let has_bytes = || {
        let files = std::fs::read_dir(trial.0.path("data"));
        let files = files.into_iter().flatten().flatten();
        let lengths = files.map(|file| file.metadata().map_or(0, |about| about.len()));
        lengths.max().unwrap_or(0) > 2000
    };
    while !has_bytes() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", error(&output));
    let kept = std::fs::metadata(trial.part(&digest)).unwrap().len() as usize;
    assert!((1..archive.len()).contains(&kept), "{kept}");
    let (status, said) = trial.fetch("cifar10", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(server.asked(), [None, Some(kept)]);
    trial.has_cifar();
}

#[test]
fn the_classes_of_tiny_imagenets_val_images_come_from_its_table() {
    let (archive, trial) = (tiny_imagenet(), Trial::new("image-folder", "tiny-imagenet"));
    let server = Server::start(&archive, &[Answer::Whole]);
    let (status, said) = trial.fetch("tiny-imagenet", &server.url, &archive);
    assert_eq!(status, Some(0), "{said}");
    let files = [
        ".fetched",
        "train/n01/a.png",
        "train/n02/b.png",
        "val/n01/v1.png",
        "val/n02/v0.png",
        "wnids.txt",
    ];
    let cached = trial.cached();
    let found: Vec<&String> = cached.iter().filter(|name| name.contains('.')).collect();
    assert_eq!(
        found,
        files
            .map(|name| format!("tiny-imagenet/{name}"))
            .iter()
            .collect::<Vec<_>>()
    );
    let (status, said) = trial.bench(&["validate", "suite.yaml"]);
    assert_eq!(status, Some(0), "{said}");
    has(&said, &["2 train and 2 val images"]);
}

#[test]
fn suites_say_how_to_get_absent_images() {
    let trial = Trial::cifar();
    for (suite, name) in [
        ("cifar10", "cifar10"),
        ("cifar100", "cifar100"),
        ("imagenette160", "imagenette160"),
        ("imagenette160-k", "imagenette160"),
        ("tiny-imagenet", "tiny-imagenet"),
    ] {
        let path = format!("{}/suites/{suite}.yaml", env!("CARGO_MANIFEST_DIR"));
        for args in [["validate", &path], ["score", &path]] {
            let (status, said) = trial.bench(&args);
            assert_eq!(status, Some(2), "{said}");
            has(
                &said,
                &[&format!("`bench fetch {name}`"), &format!("data/{name}")],
            );
        }
    }
    let (status, said) = trial.bench(&["fetch", "cifar"]);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["cifar10", "tiny-imagenet"]);
}
