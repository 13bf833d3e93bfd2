//! Class folders without splits.

use super::*;

#[test]
fn class_folders_without_val_or_without_splits_have_no_val_images() {
    let names = |root: &Path| {
        let scan = scanned(root).unwrap();
        let survey = spec(root).survey().unwrap().images;
        assert_eq!(
            survey,
            [&scan.train, &scan.val].map(|split| Some(split.len()))
        );
        assert!(scan.val.is_empty() && scan.check_val().is_err());
        let names: Vec<String> = scan.train.names.iter().map(str::to_owned).collect();
        (names, scan.train.labels.clone(), scan.classes.clone())
    };
    let dir = folder(2);
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    let labels = vec![0, 0, 1, 1];
    let classes = vec!["ant".to_owned(), "bee".to_owned()];
    let of = |folder: &str| {
        ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"].map(|name| format!("{folder}{name}"))
    };
    let expected = (of("train/").to_vec(), labels, classes);
    assert_eq!(names(dir.path()), expected);
    fs::rename(dir.path().join("train"), dir.path().join("mine")).unwrap();
    let flat = names(&dir.path().join("mine"));
    assert_eq!(flat, (of("").to_vec(), expected.1, expected.2));
}

/// It was said to lack `train`.
#[test]
fn one_class_folder_without_images_of_its_own_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    image(&place("ant/0.png"), 1);
    fs::create_dir(place("bee")).unwrap();
    let empty = scanned(dir.path()).unwrap_err().to_string();
    assert!(
        empty.contains("bee: no images in this class folder"),
        "{empty}"
    );
    fs::remove_dir(place("bee")).unwrap();
    image(&place("cat/0.png"), 2);
    image(&place("bee/first/0.png"), 3);
    let scan = scanned(dir.path()).unwrap();
    assert_eq!((scan.train.len(), scan.classes.len()), (3, 3));
    image(&place("test/first/0.png"), 3);
    let split = scanned(dir.path()).unwrap_err().to_string();
    assert!(split.contains("class folders alone"), "{split}");
    fs::remove_dir_all(place("test")).unwrap();
    image(&place("dog/first/0.png"), 4);
    assert!(scanned(dir.path()).is_err(), "two of four");
}
