use super::*;

#[test]
fn a_digest_that_looks_like_a_number_is_text() {
    for digest in [
        "1".repeat(64),
        format!("{}e{}", "1".repeat(30), "2".repeat(33)),
        "0".repeat(64),
    ] {
        let manifest = parsed(&format!("sha256: {digest}\n")).unwrap().unwrap();
        assert_eq!(manifest.sha256, digest);
    }
}

#[test]
fn the_exporters_manifest_is_read_and_notes_are_ignored() {
    let text = "sha256: ab\nsource: \"DALL-E\"\nlicence: \"MIT\"\nweights: \"encoder.pkl\"\ninput: {side: 112, scale: dvae}\n\
                kind: onnx-ids\ngrid: [14, 14]\ncodebook_size: 8192\nsaw_labels: false\nagreement: \"all\"\nnote: mine\n";
    let manifest = parsed(text).unwrap().unwrap();
    assert_eq!(manifest.input.side, Some(112));
    assert_eq!(manifest.input.scale, Some(Scale::Dvae));
    assert_eq!(
        (manifest.codebook_size, manifest.saw_labels),
        (Some(8192), Some(false))
    );
    assert_eq!(manifest.grid, Some([14, 14]));
    assert_eq!(manifest.provenance()["licence"], "MIT");
    let custom = parsed(
        "sha256: ab\ninput: {side: 8, scale: {custom: {mean: [0, 0.5, 1], std: [1, 1, 1]}}}\n",
    );
    let scale = custom.unwrap().unwrap().input.scale;
    assert_eq!(
        scale,
        Some(Scale::Custom {
            mean: [0.0, 0.5, 1.0],
            std: [1.0; 3]
        })
    );
}

#[test]
fn a_misspelt_key_is_no_note() {
    for (text, said) in [
        ("saw_label: true", "did you mean `saw_labels`?"),
        ("codebok_size: 8", "did you mean `codebook_size`?"),
        ("codebook-size: 8", "did you mean `codebook_size`?"),
        ("Grid: [4, 4]", "did you mean `grid`?"),
        ("input: {side: 8, scael: dvae}", "scael"),
        (
            "input: {scale: {mean: [0], std: [1]}}",
            "input.scale: missing field `custom`",
        ),
    ] {
        let error = parsed(&format!("sha256: ab\n{text}\n")).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    let notes = "id: 3\ninputs: 3\ngroup: x\nlicense: MIT\ncodebook_dim: 3\nnum_labels: 10\n";
    parsed(&format!("sha256: ab\n{notes}")).unwrap();
}

#[test]
fn groups_are_read_and_those_that_no_head_predicts_are_refused() {
    let groups = |text: &str| parsed(&format!("sha256: ab\n{text}\n"));
    let manifest = groups("groups: [8, 5, 5]").unwrap().unwrap();
    assert_eq!(manifest.groups, Some(vec![8, 5, 5]));
    for (text, expected) in [
        ("groups: [8, 0]", "at least 1 in each"),
        ("groups: []", "expected 1 to 16"),
        ("groups: [8]\ncodebook_size: 8", "beside codebook_size"),
    ] {
        let error = groups(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_scale_that_does_not_divide_is_refused() {
    for (mean, std, expected) in [
        ("[0, 0, 0]", "[1, 0, 1]", "above 0"),
        ("[0, 0, 0]", "[-1, 1, 1]", "above 0"),
        ("[0, 0, 0]", "[1, 1, 1e39]", "above 0 and at most 1000"),
        (
            "[0, 1e39, 0]",
            "[1, 1, 1]",
            "at least -1000 and at most 1000",
        ),
    ] {
        let scale = format!("{{custom: {{mean: {mean}, std: {std}}}}}");
        let error = parsed(&format!("sha256: ab\ninput: {{scale: {scale}}}\n")).unwrap_err();
        assert!(
            error.contains("input.scale") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_suite_of_the_same_name_is_not_a_manifest() {
    assert!(
        parsed("version: 1\nname: x\ntokenizers: []\n")
            .unwrap()
            .is_none()
    );
    assert!(parsed("- a\n").unwrap().is_none());
    assert!(parsed("sha256: [").is_err());
    assert!(
        parsed("sha256: ab\ngrid: 5\n")
            .unwrap_err()
            .contains("grid")
    );
}

#[test]
fn a_manifest_without_its_digest_is_refused() {
    for (text, expected) in [
        ("", "is empty"),
        (" \n", "is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "git lfs pull",
        ),
        ("sha_256: ab\nnote: x\n", "`sha_256`"),
        ("SHA256: ab\n", "`SHA256`"),
        ("sha256sum: ab\n", "`sha256sum`"),
        ("saw_labels: true\n", "no `sha256`"),
        ("dim: 8\nnote: x\n", "has `dim`"),
    ] {
        let error = parsed(text).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

/// "More than one document is not supported", and "invalid utf-8 sequence".
#[test]
fn a_byte_order_mark_is_left_out_and_another_encoding_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.yaml");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        text(&path).map_err(|error| error.to_string())
    };
    assert_eq!(
        read(b"\xef\xbb\xbfsha256: ab\n"),
        Ok(Some("sha256: ab\n".into()))
    );
    let utf16: Vec<u8> = "\u{feff}sha256: ab\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (bytes, found) in [
        (&utf16[..], "found UTF-16"),
        (b"a: 1\nb: \xe9\n", "byte 0xe9 in line 2"),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(
            error.contains(found) && error.contains("expected UTF-8"),
            "{error}"
        );
    }
}
