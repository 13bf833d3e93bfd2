//! A scan in a file, so that other machines need not list and inspect every image.
//!
//! Whoever reads it relies on the digests in it: every image is compared with its digest when it is read.

use std::io;
use std::path::Path;

use tessera_models::files;
use tessera_tokenizers::Fingerprint;

use super::left_out::Omitted;
use super::scan::{Scan, SplitScan};

/// Format of the file. It is part of the key of the entry that has the file.
pub const VERSION: u32 = 1;

/// Name, class names, omitted files, train, val.
type Content<'a> = (
    &'a str,
    &'a [String],
    &'a Omitted,
    &'a SplitScan,
    &'a SplitScan,
);
type Owned = (String, Vec<String>, Omitted, SplitScan, SplitScan);

/// Writes a scan without its fingerprint, which names the file.
///
/// # Errors
/// If the file cannot be written.
pub fn write(scan: &Scan, path: &Path) -> io::Result<()> {
    let content: Content<'_> = (
        &scan.name,
        &scan.classes,
        &scan.omitted,
        &scan.train,
        &scan.val,
    );
    let bytes = postcard::to_allocvec(&content).map_err(io::Error::other)?;
    std::fs::write(path, bytes)
}

/// Reads the scan with `fingerprint`.
///
/// # Errors
/// If the file cannot be read, or is not one of [`write()`].
pub fn read(path: &Path, fingerprint: &str) -> io::Result<Scan> {
    let bytes = files::read(path)?;
    let (name, classes, omitted, train, val): Owned = postcard::from_bytes(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(Scan {
        omitted,
        ..Scan::new(name, classes, [train, val], Fingerprint(fingerprint.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::digest::Shape;
    use super::super::scan::Place;
    use super::*;

    #[test]
    fn a_scan_that_is_read_equals_the_written_one() {
        let split = |name: &str| SplitScan {
            names: [name].into_iter().collect(),
            labels: vec![0],
            shapes: vec![Shape {
                width: 3,
                height: 4,
                jpeg: true,
            }],
            digests: vec![[7; 32]],
            places: vec![Place {
                shard: 0,
                offset: 512,
                bytes: 9,
            }],
            shards: vec!["a.tar".into()],
        };
        let splits = [split("train/a/1.jpg"), split("val/a/1.jpg")];
        let fingerprint = Fingerprint("f".into());
        let mut scan = Scan::new("photos", vec!["a".into()], splits, fingerprint);
        scan.omitted.image("train/a/2.jpg", "is empty");
        scan.omitted.other("train/a/notes", "no images");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan");
        write(&scan, &path).unwrap();
        assert_eq!(read(&path, "f").unwrap(), scan);
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read(&path, "f").is_err());
    }
}
