use std::fs;

use super::*;

/// Returns the bytes of an archive of one image.
fn archive(name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let files = [
        file(&format!("{name}.png"), png(9)),
        file(&format!("{name}.cls"), "cow"),
    ];
    write_shard(&path, &files);
    fs::read(path).unwrap()
}

/// Appends zeros up to a multiple of `unit`.
fn filled(mut bytes: Vec<u8>, unit: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
    bytes
}

/// Writes the parts as one shard and returns its number of images.
fn images(parts: &[Vec<u8>]) -> usize {
    accepted(&[], |path| {
        let first = filled(fs::read(path).unwrap(), 10_240);
        fs::write(path, [vec![first], parts.to_vec()].concat().concat()).unwrap();
    })
    .train
    .len()
}

/// `tar --label=shards.2026` was refused as "a link or a sparse file".
#[test]
fn the_name_of_a_volume_is_no_image() {
    let mut label = tar::Header::new_gnu();
    label.set_path("shards.2026").unwrap();
    label.set_entry_type(tar::EntryType::new(b'V'));
    label.set_size(0);
    label.set_cksum();
    let labelled = [label.as_bytes().to_vec(), archive("h/1")].concat();
    assert_eq!(images(&[labelled]), images(&[archive("h/1")]));
}

/// A lost file between others was left out without a word.
#[test]
fn zeros_between_files_are_accepted_only_where_an_archive_ends() {
    let long = "a-name-that-does-not-fit-into-a-header/".repeat(4);
    let filled_up = [
        filled(archive("h/1"), 10_240),
        archive(&format!("{long}2")),
        archive("h/3"),
    ];
    assert_eq!(images(&filled_up), 3 + 3);
    // `tar -b 64`
    assert_eq!(
        images(&[filled(archive("h/1"), 64 * 512), archive("h/2")]),
        3 + 2
    );
    // An archive without files, and zeros up to its last record.
    assert_eq!(images(&[vec![0; 10_240], archive("h/1")]), 3 + 1);
    let lost = |bytes: usize| {
        let middle = vec![0; bytes];
        let parts = [archive("h/1"), middle, archive("h/2")].concat();
        move |path: &Path| fs::write(path, parts).unwrap()
    };
    // Each archive has its own two blocks.
    refused(
        &good(),
        lost(512),
        &["truncated", "are zeros, expected files", "again"],
    );
    refused(
        &good(),
        lost(4096),
        &["truncated", "are zeros, expected files", "again"],
    );
    refused(
        &good(),
        lost(10_240 * 1700),
        &["truncated", "are zeros, expected files", "again"],
    );
}
