use std::fs;

use super::*;

#[test]
fn two_classes_with_one_look_are_found() {
    let names = |all: &[&str]| {
        all.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    for (a, b) in [
        ("caf\u{e9}", "cafe\u{301}"),
        ("cat", "cat\u{200b}"),
        ("cat", "cat "),
        ("\u{feff}1", "1"),
        ("a b", "a\u{a0}b"),
        ("a b", "a  b"),
        ("a-b", "a\u{2010}b"),
    ] {
        let all = names(&[a, "other", b]);
        assert_eq!(look_alike(&all), Some((a, b)));
    }
    assert_eq!(look_alike(&names(&["cat", "Cat", "c at", "cats"])), None);
}

#[test]
fn names_that_look_alike_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let told = |train: &str, val: &str| {
        let (train, val) = ([train.to_owned()], [val.to_owned()]);
        let found = Found {
            train: &train,
            val: &val,
            places: "train and val".into(),
            lacks: "has no folder in",
        };
        choose(&found, None, dir.path()).unwrap_err().to_string()
    };
    assert!(told("caf\u{e9}", "cafe\u{301}").contains("NFC and NFD"));
    assert!(told("cat", "cat\u{200b}").contains("\\u{200b}\" look the same"));
    assert!(told("ant", "Ant").contains("`ant` and `Ant` differ in case"));
    assert!(!told("ant", "bee").contains("rename one"));
}

/// All but the first were taken for a remark.
#[test]
fn classes_in_one_line_are_refused_and_what_is_not_seen_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.txt");
    let classes = ["ant", "bee", "polar bear"].map(str::to_owned);
    let chosen = |text: &str| {
        fs::write(&list, text).unwrap();
        let found = Found {
            train: &classes,
            val: &classes,
            places: "train and val".into(),
            lacks: "has no folder in",
        };
        choose(&found, Some(&list), dir.path()).map_err(|e| e.to_string())
    };
    let names = chosen("polar bear\nbee\tan insect, no ant\nant\n").unwrap();
    assert_eq!(names, ["polar bear", "bee", "ant"]);
    // `great white` chose the class `great`.
    for line in ["bee an insect, no ant", "ant ant"] {
        let error = chosen(line).unwrap_err();
        let word = &line[..3];
        let part = format!("class `{line}` has no folder in train and val, but `{word}` has");
        assert!(error.contains(&part), "{error}");
    }
    let error = chosen("ant bee\n").unwrap_err();
    assert!(
        error.contains("the classes `ant` and `bee` in one line"),
        "{error}"
    );
    let error = chosen("an\u{200b}t\n").unwrap_err();
    assert!(
        error.contains(r#"class "an\u{200b}t" has no folder"#),
        "{error}"
    );
    let error = chosen(&"x".repeat(1 << 20)).unwrap_err();
    assert!(
        error.contains("x` ... has no folder") && error.len() < 400,
        "{error}"
    );
}

#[test]
fn names_in_a_list_keep_their_spaces_and_labels_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("names.txt");
    let read = |text: &str, numbered| {
        fs::write(&list, text).unwrap();
        read_names(&list, numbered)
    };
    for (text, names) in [
        (
            "\u{feff}polar bear\npolar fox\n",
            ["polar bear", "polar fox"],
        ),
        ("  ant \r\nbee\tan insect\r\n\r\n", ["ant", "bee"]),
        ("crane\ncrane\n", ["crane", "crane (1)"]),
        (
            "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
            ["n01440764", "n01443537"],
        ),
    ] {
        assert_eq!(read(text, true).unwrap(), names, "{text:?}");
    }
    assert_eq!(read("# two\nant\n\nbee\n", false).unwrap(), ["ant", "bee"]);
    let remark = read("# two\nant\nbee\n", true).unwrap_err();
    let remark = remark.to_string();
    assert!(
        remark.contains("line 1 begins with #, but it stands for label 0"),
        "{remark}"
    );
    // The second line had the name of the third, and one of both labels no images.
    let cranes = read("crane\ncrane\ncrane (1)\n", true).unwrap();
    assert_eq!(cranes, ["crane", "crane (1) (1)", "crane (1)"]);
    assert!(read("crane\ncrane\n", false).is_err());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n";
    let pointer = read(pointer, true).unwrap_err().to_string();
    assert!(pointer.contains("git lfs pull"), "{pointer}");
    fs::write(&list, b"\xff\xfea\0n\0t\0").unwrap();
    let wide = read_names(&list, false).unwrap_err().to_string();
    assert!(wide.contains("found UTF-16, expected UTF-8"), "{wide}");
    let unnamed = read("ant\n\tan insect\nbee\n", false).unwrap_err();
    assert!(unnamed.to_string().contains("line 2 has no name"));
    for (text, part) in [
        ("class\nant\nbee\n", "line 1 looks like the header"),
        (
            "Label,Class name\n0,ant\n1,bee\n",
            "line 1 looks like the header",
        ),
        ("[\n\"ant\",\n\"bee\"\n]\n", "found JSON"),
        ("{\"0\": \"ant\",\n\"1\": \"bee\"}\n", "found JSON"),
        ("1 ant\n0 bee\n", "another order"),
    ] {
        let error = read(text, true).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(
        read("0: ant\n1: bee\n", true).unwrap(),
        ["0: ant", "1: bee"]
    );
    assert_eq!(read("7\n3\n", true).unwrap(), ["7", "3"]);
    for text in [
        "5 euro\n10 euro\n",
        "[unk]\nant\n",
        "18446744073709551615 a\n0 b\n",
    ] {
        assert_eq!(read(text, true).unwrap().len(), 2, "{text}");
    }
    for end in ["\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}"] {
        for numbered in [false, true] {
            let error = read(&format!("ant{end}bee\ncow\n"), numbered).unwrap_err();
            assert!(error.to_string().contains("lines that end with"), "{error}");
        }
    }
    let shifted = read("ant\n\nbee\n", true).unwrap_err().to_string();
    assert!(
        shifted.contains("names.txt: line 2 has no name, but it stands for label 1"),
        "{shifted}"
    );
    let classes = ["ant", "polar bear"].map(String::from);
    let found = Found {
        train: &classes,
        val: &classes,
        places: "train and val".into(),
        lacks: "has no folder in",
    };
    fs::write(&list, "polar bear\nant, an insect\n").unwrap();
    assert!(
        listed(&found, &list)
            .unwrap_err()
            .to_string()
            .contains("class `ant, an insect`")
    );
    fs::write(&list, "polar bear\nant\tan insect\n").unwrap();
    assert_eq!(listed(&found, &list).unwrap(), ["polar bear", "ant"]);
    // It was taken for a remark, and the class was lost.
    let marked = ["#bee", "ant"].map(String::from);
    let found = Found {
        train: &marked,
        val: &marked,
        ..found
    };
    for text in ["ant\n#bee\n", "\u{feff}#bee\tan insect\nant\n"] {
        fs::write(&list, text).unwrap();
        let error = listed(&found, &list).unwrap_err().to_string();
        assert!(error.contains("found `#bee`, which is a class"), "{error}");
    }
    fs::write(&list, "ant\n# bees are absent\n").unwrap();
    assert_eq!(listed(&found, &list).unwrap(), ["ant"]);
}
