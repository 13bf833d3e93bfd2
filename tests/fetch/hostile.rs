//! Archives that are not what they should be.

use super::server::{gzip, header, tgz, zip};
use super::{Trial, cifar, has};

#[test]
fn hostile_and_broken_archives_leave_nothing() {
    let file = |name: &str| tgz(&[(name, b"x".to_vec())]);
    let link = |kind| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = header("cifar-10-batches-bin/data_batch_1.bin", kind);
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        archive.append(&header, &b""[..]).unwrap();
        gzip(&archive.into_inner().unwrap())
    };
    let mut cut = cifar();
    cut.truncate(cut.len() / 2);
    let huge = {
        let mut header = header(
            "cifar-10-batches-bin/data_batch_1.bin",
            tar::EntryType::Regular,
        );
        header.set_size(1 << 32);
        header.set_cksum();
        gzip(header.as_bytes())
    };
    let long = |kind: u8| {
        let bytes = match kind {
            b'x' => [&b"33554432 path="[..], &vec![b'a'; (32 << 20) - 15], b"\n"].concat(),
            _ => vec![b'a'; 32 << 20],
        };
        let mut header = header("cifar-10-batches-bin/x", tar::EntryType::new(kind));
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        let file = super::server::header("x", tar::EntryType::Regular);
        gzip(&[header.as_bytes(), &bytes[..], file.as_bytes()].concat())
    };
    let lengthy = {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = header("", tar::EntryType::Regular);
        let name = "b/".repeat(2000);
        archive
            .append_data(&mut header, name + "c", &b""[..])
            .unwrap();
        gzip(&archive.into_inner().unwrap())
    };
    let twice = ("cifar-10-batches-bin/data_batch_1.bin", Vec::new());
    for (archive, expected) in [
        (file("../escaped"), "leads out of the folder"),
        (file("cifar-10-batches-bin/../../escaped"), "leads out"),
        (file("/tmp/tessera-escaped"), "leads out"),
        (link(tar::EntryType::Symlink), "is no file or folder"),
        (link(tar::EntryType::Link), "is no file or folder"),
        (link(tar::EntryType::Fifo), "is no file or folder"),
        (tgz(&[twice.clone(), twice]), "File exists"),
        (huge, "more than 1073741824 bytes"),
        (long(b'L'), "more than 1048576 bytes of headers and names"),
        (long(b'x'), "more than 1048576 bytes of headers and names"),
        (lengthy, "a name of 4001 bytes, expected at most 1024"),
        (file("README"), "the archive has no data_batch_1.bin"),
        (b"<html>not here</html>".to_vec(), "archive.tgz"),
        (cut, "archive.tgz"),
    ] {
        let trial = Trial::cifar();
        std::fs::write(trial.0.path("archive.tgz"), &archive).unwrap();
        let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
        assert_eq!(status, Some(2), "{said}");
        has(&said, &[expected]);
        assert!(said.len() < 2000, "{}", said.len());
        assert_eq!(trial.cached(), Vec::<String>::new(), "{said}");
        assert!(!trial.0.path("escaped").exists());
    }
}

#[test]
fn hostile_tables_and_zip_archives_leave_nothing() {
    let table = |table: &str| {
        let files = [
            (
                "tiny-imagenet-200/val/val_annotations.txt",
                table.as_bytes().to_vec(),
            ),
            ("tiny-imagenet-200/train/n01/images/a.png", Vec::new()),
            ("tiny-imagenet-200/val/images/v.png", Vec::new()),
        ];
        zip(&files)
    };
    let escaping = zip(&[
        ("tiny-imagenet-200/val/val_annotations.txt", Vec::new()),
        ("tiny-imagenet-200/train/../../../../escaped", b"x".to_vec()),
    ]);
    for (archive, expected) in [
        (
            table("v.png\t../../../escaped\t0\n"),
            "leads out of the folder",
        ),
        (
            table("v.png\t/tmp/tessera-escaped\t0\n"),
            "leads out of the folder",
        ),
        (
            table("w.png\tn01\t0\n"),
            "has no line in val/val_annotations.txt",
        ),
        (escaping, "leads out of the folder"),
        (zip(&[("x", Vec::new())]), "no val/val_annotations.txt"),
    ] {
        let trial = Trial::cifar();
        std::fs::write(trial.0.path("archive.zip"), &archive).unwrap();
        let (status, said) = trial.fetch("tiny-imagenet", "archive.zip", &archive);
        assert_eq!(status, Some(2), "{said}");
        has(&said, &[expected]);
        assert_eq!(trial.cached(), Vec::<String>::new(), "{said}");
        assert!(!trial.0.path("escaped").exists());
    }
}
