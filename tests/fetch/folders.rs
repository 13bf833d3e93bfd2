//! The folder of a fetched dataset: whose it is, and what else lies beside it.

use std::process::Command;

use super::common::error;
use super::server::sha256;
use super::{SUITE, Trial, cifar, has};

#[test]
fn a_folder_of_another_origin_is_not_the_dataset() {
    let (archive, trial) = (cifar(), Trial::cifar());
    std::fs::write(trial.0.path("archive.tgz"), &archive).unwrap();
    let folder = trial.0.path("data/cifar10");
    std::fs::create_dir_all(&folder).unwrap();
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["was not fetched by this program", "move it away"]);
    std::fs::remove_dir(&folder).unwrap();
    std::os::unix::fs::symlink("nowhere", &folder).unwrap();
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["link to nothing"]);
    std::fs::remove_file(&folder).unwrap();
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = trial.bench(&["fetch", "cifar10"]);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &[
            "comes from another archive",
            &sha256(&archive),
            "c4a38c50a1bc5f3a",
            "move it away",
        ],
    );
    std::fs::remove_file(folder.join("test_batch.bin")).unwrap();
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["test_batch.bin is missing"]);
}

#[test]
fn what_dead_processes_left_is_removed_and_of_living_ones_kept() {
    use tessera_models::files::temporary;
    let (archive, trial) = (cifar(), Trial::cifar());
    std::fs::write(trial.0.path("archive.tgz"), &archive).unwrap();
    // This process lives.
    let alive = temporary(".cifar10.unpacking");
    let pid = format!("-{}-", std::process::id());
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = alive.replace(&pid, &format!("-{}-", child.id()));
    for name in [&alive, &dead] {
        std::fs::create_dir_all(trial.0.path("data").join(name)).unwrap();
        std::fs::write(trial.0.path("data").join(name).join("x"), "x").unwrap();
    }
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(0), "{said}");
    let cached = trial.cached();
    assert!(
        cached.contains(&alive) && !cached.contains(&dead),
        "{cached:?}"
    );
    assert!(
        cached.contains(&"cifar10/.fetched".to_owned()),
        "{cached:?}"
    );
}

#[test]
fn a_folder_for_datasets_is_an_absolute_path_in_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let trial = Trial::cifar();
    for (data, expected) in [(&b"data"[..], "absolute path"), (b"/tmp/\xff", "UTF-8")] {
        let data = std::ffi::OsStr::from_bytes(data);
        let mut command = trial.command(&["fetch", "cifar10"]);
        let output = command.env("TESSERA_DATA", data).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        has(&error(&output), &["TESSERA_DATA", expected]);
    }
    let suite = SUITE.replace("nowhere", "\"${TESSERA_DATA:-x}\"");
    std::fs::write(
        trial.0.path("suite.yaml"),
        suite
            .replace("KIND", "cifar-binary")
            .replace("NAME", "cifar10"),
    )
    .unwrap();
    let mut command = trial.command(&["validate", "suite.yaml"]);
    let data = std::ffi::OsStr::from_bytes(b"/tmp/\xff");
    let output = command.env("TESSERA_DATA", data).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    has(&error(&output), &["TESSERA_DATA", "UTF-8"]);
}

#[test]
fn two_processes_do_not_fetch_the_same_dataset() {
    let (archive, trial) = (cifar(), Trial::cifar());
    std::fs::create_dir(trial.0.path("data")).unwrap();
    let lock = std::fs::File::create(trial.0.path("data/.cifar10.lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(trial.0.path("archive.tgz"), &archive).unwrap();
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["another process fetches cifar10"]);
    drop(lock);
    let (status, said) = trial.fetch("cifar10", "archive.tgz", &archive);
    assert_eq!(status, Some(0), "{said}");
    trial.has_cifar();
}

#[test]
fn images_of_the_suites_own_root_come_first() {
    let trial = Trial::cifar();
    let (a, b) = (trial.0.path("data/cifar10"), trial.0.path("nowhere"));
    std::fs::create_dir_all(&a).unwrap();
    std::fs::create_dir_all(&b).unwrap();
    let (status, said) = trial.bench(&["validate", "suite.yaml"]);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &[
            "nowhere/data_batch_1.bin",
            "exists and is used; the fetched cifar10 is not",
        ],
    );
}
