use super::*;

#[test]
fn a_link_to_nothing_is_not_taken_for_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids.labels.npy");
    assert!(open_optional(&path).unwrap().is_none());
    std::os::unix::fs::symlink("/nowhere/else", &path).unwrap();
    let error = open_optional(&path).unwrap_err().to_string();
    assert!(
        error.contains("a link to /nowhere/else, which does not exist"),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    fs::write(&path, "x").unwrap();
    assert!(open_optional(&path).unwrap().is_some());
}

fn link(to: &str, path: &Path) {
    std::os::unix::fs::symlink(to, path).unwrap();
}

#[test]
fn links_stay_and_their_targets_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("big")).unwrap();
    fs::write(at("big/file"), "old").unwrap();
    link("big/file", &at("one"));
    link("one", &at("two"));
    link("big/new", &at("three"));
    link("gone/new", &at("broken"));
    link("round", &at("round"));
    let write = |name: &str| write_output(&at(name), b"new", &[]);
    for (name, target) in [("two", "big/file"), ("three", "big/new")] {
        write(name).unwrap();
        assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink());
        assert!(!fs::symlink_metadata(at(target)).unwrap().is_symlink());
        assert_eq!(fs::read(at(target)).unwrap(), b"new");
        assert_eq!(output_file(&at(name)).unwrap(), at(target));
        fs::remove_file(at(target)).unwrap();
    }
    assert!(write("broken").is_err() && write("round").is_err());
    assert_eq!(fs::read_dir(at("big")).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_open_already_receives_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("printed"), dir.path().join("other"));
    let open = [File::create(&path).unwrap()];
    (&open[0]).write_all(b"a").unwrap();
    write_output(&path, b"b", &open).unwrap();
    (&open[0]).write_all(b"c").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abc");
    write_output(&other, b"x", &open).unwrap();
    assert!(same_file(&other, &open).is_none() && fs::read(&other).unwrap() == b"x");
}

#[test]
fn a_pipe_stays_and_receives_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, to_pipe) = (dir.path().join("pipe"), dir.path().join("link"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    link("pipe", &to_pipe);
    for path in [&pipe, &to_pipe] {
        let error = output_file(path).unwrap_err().to_string();
        assert!(error.contains("found a pipe or a device"), "{error}");
        std::thread::scope(|scope| {
            let read = scope.spawn(|| fs::read(&pipe).unwrap());
            write_output(path, b"through", &[]).unwrap();
            assert_eq!(read.join().unwrap(), b"through");
        });
        let kind = fs::symlink_metadata(&pipe).unwrap().file_type();
        assert!(kind.is_fifo());
    }
}

#[test]
fn a_temporary_name_is_unique_and_names_its_owner() {
    let (first, second) = (temporary("fit-0a"), temporary("fit-0a"));
    assert_ne!(first, second);
    assert_eq!(prefix(&first), "fit-0a");
    assert_eq!(Owner::of(&first), Some(Owner::this()));
    assert!(temporary("").starts_with('.'), "hidden");
    for other in ["results.csv", ".tmp-12", "x.tmp-host-pid-3", "fit-0a"] {
        assert_eq!(Owner::of(other), None, "{other}");
    }
    let elsewhere = Owner::of(".tmp-node-7.1a2b3c4d-12-9.0").unwrap();
    assert_eq!((elsewhere.pid, elsewhere.is_here()), (12, false));
}

#[test]
fn every_change_of_a_byte_or_the_length_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone").join("state");
    write_sealed(&path, b"weights".to_vec()).unwrap();
    assert_eq!(read_sealed(&path).unwrap(), b"weights");
    check_sealed(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let changed = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    });
    let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
    for bytes in changed.chain(cut) {
        fs::write(&path, &bytes).unwrap();
        assert!(read_sealed(&path).is_err() && check_sealed(&path).is_err());
    }
}

#[test]
fn a_failed_write_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    assert!(write_atomic(&path, b"x").is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "12345678").unwrap();
    assert_eq!(read_up_to(&path, 8).unwrap(), b"12345678");
    let refused = |path: &Path, most| read_up_to(path, most).unwrap_err().to_string();
    let told = refused(&path, 7);
    assert_eq!(told, "found 8 bytes, expected at most 7");
    // A size without content: reading it would take a terabyte of memory.
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(refused(&path, 7).contains("found 1099511627776 bytes"));
    // The system says that this file has 0 bytes.
    let told = refused(Path::new("/proc/self/status"), 7);
    assert_eq!(told, "found more than 7 bytes, expected at most 7");
}

/// "File exists", of a store whose disk was moved.
#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("store");
    std::os::unix::fs::symlink("moved", &link).unwrap();
    let told = make_dir(&link).unwrap_err().to_string();
    assert_eq!(told, "found a link to moved, which does not exist");
}
