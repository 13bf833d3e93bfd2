//! Parts of types that are not read: none that a plain ViT lacks is dropped.

use super::*;

#[test]
fn a_part_of_any_type_that_a_plain_vit_lacks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, dtype: Dtype, shape: &[usize]| {
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        let path = changed(dir.path(), |tensors| {
            tensors.insert(name.into(), (dtype, shape.to_vec(), bytes));
        });
        import(&path, &small(8), None)
    };
    for (name, dtype) in [
        ("rope.freqs_cis", Dtype::C64),
        ("blocks.0.ls1.gamma", Dtype::I8),
        ("blocks.0.ls1.gamma", Dtype::F8_E4M3),
        ("reg_token", Dtype::U8),
        ("blocks.0.adapter.weight", Dtype::I64),
    ] {
        let error = with(name, dtype, &[16]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")), "{dtype:?}: {error}");
    }
    for name in ["blocks.0.attn.relative_position_index", "position_ids"] {
        assert!(with(name, Dtype::I64, &[16]).is_ok(), "{name}");
    }
}

/// `tests/fixtures/vit/make_training.py`. The blocks were read, and their layer scale was taken for an optimiser's state.
#[test]
fn blocks_whose_keys_are_numbers_keep_all_their_parts() {
    let error = import(&fixture("vit/nested.pth"), &small(8), None).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`blocks.0.ls1.gamma`"), "{error}");
}

/// "Set the checkpoint's size", of a file that has half of the blocks, and "copy it again" of an index.
#[test]
fn one_of_several_files_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let half = changed(dir.path(), |tensors| {
        tensors.retain(|name, _| !name.starts_with("blocks.1."));
    });
    let shard = dir.path().join("model-00001-of-00002.safetensors");
    std::fs::rename(half, &shard).unwrap();
    let error = import(&shard, &small(8), None).unwrap_err().to_string();
    for part in ["lacks `blocks.1.", "one of several", "merge them into one"] {
        assert!(error.contains(part), "{error}");
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"metadata": {}, "weight_map": {}}"#).unwrap();
    let error = import(&index, &small(8), None).unwrap_err().to_string();
    assert!(
        error.contains("is the index of a checkpoint in several files"),
        "{error}"
    );
}
