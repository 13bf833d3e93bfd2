use super::*;
use crate::testing::fixture;

/// Returns all bytes of all tensors of a file.
fn read(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut pth = Pth::open(file.path())?;
    let names: Vec<String> = pth.tensors.keys().cloned().collect();
    let all = names.iter().map(|name| pth.bytes(name));
    Ok(all.collect::<Result<Vec<_>>>()?.concat())
}

#[test]
fn damage_of_a_pth_file_is_an_error_or_changes_nothing() {
    let whole = std::fs::read(fixture("vit/layouts.pth")).unwrap();
    let expected = read(&whole).unwrap();
    assert!(expected.len() > 50_000);
    // All over the archive, densely in its first header and in its directory.
    let dense = (0..60).chain(whole.len() - 200..whole.len());
    for at in dense.chain((0..whole.len()).step_by(101)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        assert!(
            read(&damaged).is_ok_and(|b| b == expected) || read(&damaged).is_err(),
            "byte {at}"
        );
        assert!(read(&whole[..at]).is_err(), "cut at {at}");
    }
    // The pickle, past the archive's checksum: every seventh byte becomes every code that the parser knows.
    let mut archive = ZipArchive::new(std::io::Cursor::new(whole)).unwrap();
    let mut pickle = Vec::new();
    let mut entry = archive.by_name("layouts/data.pkl").unwrap();
    entry.read_to_end(&mut pickle).unwrap();
    let codes = b"0123().qrhjNGKMJXUTBCcQtldaebsuR]}\x00\x7f\xff";
    for at in (0..pickle.len()).step_by(7) {
        for code in codes.iter().copied().chain(0x80..=0x97) {
            let mut damaged = pickle.clone();
            damaged[at] = code;
            if let Ok((nodes, root)) = Parser::parse(&damaged) {
                let _ = Nodes(nodes).tensors(root);
            }
        }
    }
}

/// A tensor that claims 2^62 elements, a pickle that contains itself, and one nested a million times.
#[test]
fn a_hostile_pickle_needs_little() {
    let own = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01h\x00s.";
    let (nodes, root) = Parser::parse(own).unwrap();
    assert!(Nodes(nodes).tensors(root).is_empty());
    let deep = [b"N".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
    let (nodes, root) = Parser::parse(&deep).unwrap();
    assert!(Nodes(nodes).tensors(root).is_empty());
    let mut pth = Pth::open(&fixture("vit/layouts.pth")).unwrap();
    let name = "teacher.backbone.pos_embed";
    let tensor = pth.tensors.get_mut(name).unwrap();
    (tensor.shape, tensor.strides) = (vec![1 << 31, 1 << 31], vec![0, 0]);
    assert!(pth.bytes(name).unwrap_err().contains("elements"));
}
