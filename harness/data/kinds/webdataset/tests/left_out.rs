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

/// `1,` was a class of its own beside `1`, and of two labels of an image one was taken.
#[test]
fn labels_that_contradict_each_other_are_refused() {
    let sample = |key: &str, cls: &str, json: &str| {
        let named = format!("{{\"label\": {json}}}");
        [
            file(&format!("{key}.png"), png(key.len())),
            file(&format!("{key}.cls"), cls),
            file(&format!("{key}.json"), named),
        ]
    };
    for odd in ["1,", "\"1\"", "tensor(1)", "[1]", "1_0", "b'1'", "٣", "ant"] {
        let files = [file("a.png", png(1)), file("a.cls", "1")];
        let more = [file("bb.png", png(2)), file("bb.cls", odd)];
        let parts = ["label of `bb.png`", "a name, but others are numbers (1)"];
        refused(&[files, more].concat(), |_| (), &parts);
    }
    let dir = both(|c| c.to_string());
    let names = dir.path().join("names.txt");
    fs::write(&names, "ant\nbee\ncow\n").unwrap();
    let shard = dir.path().join("shards/odd.tar");
    let scan_of = |files: &[File]| {
        write_shard(&shard, files);
        let spec = WebDataset {
            train: vec![shard.clone()],
            val: Vec::new(),
            class_names: Some(names.clone()),
            ..WebDataset::default()
        };
        scanned(&web(spec, false))
    };
    let right = [sample("a", "0", "\"ant\""), sample("bb", "1", "\"bee\"")].concat();
    assert_eq!(scan_of(&right).unwrap().classes, ["ant", "bee"]);
    // What names no class of the list may be a caption.
    let captions = [
        sample("ccc", "1", "\"a bee\""),
        sample("dddd", "1", "\"two bees\""),
    ];
    scan_of(&[right.clone(), captions.concat()].concat()).unwrap();
    // Of two classes with one name, either may be meant.
    fs::write(&names, "ant\nbee\ncow\nbee\n").unwrap();
    let second = sample("ccc", "3", "\"bee\"");
    scan_of(&[right.clone(), second.to_vec()].concat()).unwrap();
    let wrong = [right, sample("ccc", "1", "\"ant\"").to_vec()].concat();
    let error = scan_of(&wrong).unwrap_err().to_string();
    for part in [
        "odd.tar",
        "key `ccc`",
        "labels 1 and \"ant\"",
        "label 0 in class_names",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
