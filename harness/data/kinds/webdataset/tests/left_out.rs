use std::fs;

use super::*;

/// A shard that is gone was left out without a word; hidden folders counted as images.
#[test]
fn nothing_in_or_beside_shards_is_left_out_in_silence() {
    let dir = both(|c| CLASSES[c].to_owned());
    let spec = WebDataset {
        train: vec![dir.path().join("shards")],
        val: Vec::new(),
        ..WebDataset::default()
    };
    fs::remove_file(dir.path().join("shards/val-000000.tar")).unwrap();
    fs::remove_file(dir.path().join("shards/val-000001.tar")).unwrap();
    let shards = dir.path().join("shards");
    let hidden = ["ant/.ipynb_checkpoints/1", "__MACOSX/ant/1"].map(|key| {
        [
            file(&format!("{key}.png"), png(1)),
            file(&format!("{key}.cls"), "ant"),
        ]
    });
    write_shard(&shards.join("x.tar"), &hidden.concat());
    fs::create_dir(shards.join("more")).unwrap();
    for other in ["UPPER.TAR", "packed.tar.gz", "more/below.tar"] {
        fs::write(shards.join(other), "").unwrap();
    }
    let scan = scanned(&spec).unwrap();
    assert_eq!(scan.train.len(), 15);
    let said = scan.omitted.lines(9).join("\n");
    for part in [
        "4 files (hidden",
        "3 files (archives beside the shards",
        "UPPER.TAR",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    std::os::unix::fs::symlink("annex/key", shards.join("gone.tar")).unwrap();
    for train in ["shards", "shards/*.tar"] {
        let train = vec![dir.path().join(train)];
        let spec = WebDataset {
            train,
            ..spec.clone()
        };
        for error in [scanned(&spec).unwrap_err(), spec.survey().unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.contains("gone.tar") && error.contains("selects it"),
                "{error}"
            );
        }
    }
}
