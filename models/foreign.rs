//! What the first bytes of a file say about it. A reader asks once it has found that a file is not of its own format, so that the error
//! names what lies there and how to get the right file.

use std::io::Read as _;
use std::path::Path;

use crate::files;

/// Bytes that tell: up to the mark of a tar archive.
const FIRST: u64 = 512;
/// Where a tar archive has its mark.
const TAR: std::ops::Range<usize> = 257..263;
/// Number of zeros at the beginning of a file whose content a crash has lost.
const ZEROS: [u8; 16] = [0; 16];

/// First bytes of what lies where a file was not copied or downloaded, with the remedy.
const LOST: &[(&[u8], &str)] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        "is a Git LFS pointer in place of the file; run `git lfs pull`",
    ),
    (
        b"/annex/objects/",
        "is a git-annex pointer in place of the file; run `git annex get`",
    ),
    (
        b"<?xml",
        "is XML, in which servers report errors; download the file again",
    ),
    (
        b"\0\x05\x16\x07",
        "is an AppleDouble file of macOS, which lies beside the real one; remove it",
    ),
];

/// First bytes of other formats, with the remedy.
const OTHERS: &[(&[u8], &str)] = &[
    (
        b"PK\x03\x04",
        "is a ZIP archive, as .npz and .pth are; unpack it, or write the path of the right file",
    ),
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (b"BZh", "is compressed (bzip2); unpack it"),
    (b"\xfd7zXZ\0", "is compressed (xz); unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
    (b"Rar!", "is a RAR archive; unpack it"),
    (
        b"\x89HDF",
        "is an HDF5 file, as Keras writes it; export it from there",
    ),
    (
        b"\x93NUMPY",
        "is a NumPy array (.npy); write the path of the right file",
    ),
    (b"%PDF", "is a PDF; write the path of the right file"),
    // `torch.save` until version 1.5.
    (
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19",
        "is in PyTorch's format before 1.6; load it by `torch.load` and write it again by `torch.save`",
    ),
];

/// Returns what lies in place of a file of any format, with the remedy: nothing, a pointer to the file, or the page of a server.
pub fn lost(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("is empty (0 bytes); write or copy it again");
    }
    if bytes.starts_with(&ZEROS) {
        return Some("begins with zero bytes, its content is lost; write or copy it again");
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = text.trim_ascii_start();
    let begins = |tag: &[u8]| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
    };
    if begins(b"<!doctype") || begins(b"<html") {
        return Some("is a web page; download the file again");
    }
    found(LOST, bytes)
}

/// Returns what a file is that does not have the expected format, with the remedy; `None` if its first bytes do not tell.
pub fn told(bytes: &[u8]) -> Option<&'static str> {
    // Of POSIX, and of GNU. A text may have the letters there.
    match matches!(bytes.get(TAR), Some(b"ustar\0" | b"ustar ")) {
        true => Some("is a tar archive; unpack it"),
        false => lost(bytes).or_else(|| found(OTHERS, bytes)),
    }
}

/// As [`told`], of a file of bare numbers, which may begin with zeros.
pub fn told_of_numbers(bytes: &[u8]) -> Option<&'static str> {
    told(bytes).filter(|_| !bytes.starts_with(&ZEROS))
}

/// Whether a file is a pointer to the real one, or a text of a server about it.
pub fn is_pointer(bytes: &[u8]) -> bool {
    found(LOST, bytes).is_some()
}

fn found(table: &[(&[u8], &'static str)], bytes: &[u8]) -> Option<&'static str> {
    let known = table.iter().find(|(magic, _)| bytes.starts_with(magic));
    known.map(|(_, what)| *what)
}

/// Names the encoding of a text that is not in UTF-8 and has zero bytes; `None` if it has none.
pub fn encoding(bytes: &[u8]) -> Option<&'static str> {
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0xff, ..] | [1..=0xff, 0, ..] => {
            Some("UTF-16")
        }
        _ => bytes
            .contains(&0)
            .then_some("zero bytes, which are no text"),
    }
}

/// Returns the text of bytes in UTF-8.
///
/// # Errors
/// What is found instead: the encoding, or the first byte that no character begins with and its line.
pub fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    if let Some(found) = encoding(&bytes) {
        return Err(found.into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        format!("the byte 0x{:02x} in line {line} (Latin-1?)", bytes[at])
    })
}

/// As [`told`], of the file at `path`; `None` also if it cannot be read.
pub fn told_of(path: &Path) -> Option<&'static str> {
    told(&beginning(path)?)
}

/// As [`lost`], of the file at `path`; `None` also if it cannot be read.
pub fn lost_of(path: &Path) -> Option<&'static str> {
    lost(&beginning(path)?)
}

fn beginning(path: &Path) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    let file = files::open(path).ok()?;
    file.take(FIRST).read_to_end(&mut first).ok()?;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_place_of_others_are_described() {
        let mut tar = vec![b'a'; 512];
        tar[TAR].copy_from_slice(b"ustar\0");
        for (bytes, part) in [
            (&b""[..], "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "git lfs pull",
            ),
            (b"/annex/objects/SHA256E-s12--ab.pth\n", "git annex get"),
            (b"<!DOCTYPE html>", "web page"),
            (b"\xef\xbb\xbf\r\n <HTML lang=en>", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"PK\x03\x04\x14\0", "ZIP archive"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (&tar, "tar archive"),
            (&[0; 64], "zero bytes"),
        ] {
            assert!(told(bytes).unwrap().contains(part), "{part}");
        }
        assert_eq!(told(b"name: quickstart\n"), None);
        let mut classes = vec![b'\n'; 512];
        classes[256..269].copy_from_slice(b"custard apple");
        assert_eq!(&classes[TAR], b"ustard");
        assert_eq!(told(&classes), None, "a list of classes");
        assert_eq!(told_of_numbers(&[0; 64]), None);
        assert!(told_of_numbers(b"<html>").unwrap().contains("web page"));
        assert_eq!(lost(b"\x1f\x8b\x08\0"), None, "a downloaded archive");
        for (bytes, name) in [
            (&b"\xff\xfen\0"[..], Some("UTF-16")),
            (b"n\0a\0", Some("UTF-16")),
            (b"\xff\xfe\0\0n\0\0\0", Some("UTF-32")),
            (b"name\0", Some("zero bytes, which are no text")),
            (b"name", None),
        ] {
            assert_eq!(encoding(bytes), name);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.pth");
        std::fs::write(&path, &tar).unwrap();
        assert!(told_of(&path).unwrap().contains("tar archive"));
        assert_eq!(told_of(dir.path()), None);
    }
}
