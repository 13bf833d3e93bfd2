//! `hold_out`.

use super::*;
use crate::data::HoldOut;

#[test]
fn a_part_of_every_class_is_held_out() {
    let dir = folder(10);
    let held = |part, seed| ImageFolder {
        held: Some(HoldOut { part, seed }),
        ..spec(dir.path())
    };
    let refused = held(0.2, 0).survey().unwrap_err().to_string();
    assert!(refused.contains("leave `hold_out` out"), "{refused}");
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let of = |part, seed| {
        let spec = held(part, seed);
        let scan = scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap();
        let survey = spec.survey().unwrap().images;
        assert_eq!(
            survey,
            [&scan.train, &scan.val].map(|split| Some(split.len()))
        );
        scan
    };
    let first = of(0.2, 0);
    assert_eq!((first.train.len(), first.val.len()), (16, 4));
    assert_eq!(first.val.labels, [0, 0, 1, 1]);
    let both = first.train.names.iter().chain(first.val.names.iter());
    let both: std::collections::BTreeSet<&str> = both.collect();
    assert_eq!(both.len(), 20);
    assert_eq!(of(0.2, 0), first);
    // A stored scan of another draw must not stand for this one.
    let about = |part, seed| held(part, seed).snapshot().unwrap();
    assert_eq!(about(0.2, 0), about(0.2, 0));
    assert_ne!(about(0.2, 0), about(0.2, 1));
    assert_ne!(about(0.2, 0), about(0.3, 0));
    for other in [of(0.2, 1), of(0.3, 0), of(0.01, 0)] {
        assert_ne!(other.fingerprint, first.fingerprint);
        assert_ne!(other.val.names, first.val.names);
        assert!(other.check_val().is_ok());
    }
}

/// A broken image takes part in the draw. Two splits had one fingerprint, and results of one stood for those of the other.
#[test]
fn a_split_that_a_removed_broken_image_changed_has_another_fingerprint() {
    let dir = folder(60);
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    let spec = ImageFolder {
        held: Some(HoldOut { part: 0.2, seed: 0 }),
        ..spec(dir.path())
    };
    let of = || {
        let cache = tempfile::tempdir().unwrap();
        scan(&spec, cache.path(), &|_, _, _| (), &|| false).unwrap()
    };
    let without = of();
    let broken = dir.path().join("train/ant/00.png");
    fs::write(&broken, "no image").unwrap();
    let with = of();
    fs::remove_file(broken).unwrap();
    assert_eq!(with.omitted.images.len(), 1);
    let both = |scan: &Scan| {
        let names = scan.train.names.iter().chain(scan.val.names.iter());
        names
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(both(&with), both(&without));
    assert_ne!(with.val.names, without.val.names);
    assert_ne!(with.fingerprint, without.fingerprint);
    assert_eq!(of(), without);
    // It takes no part in the draw.
    fs::write(dir.path().join("train/ant/00.gif"), "no image").unwrap();
    assert_eq!(of().fingerprint, without.fingerprint);
}
