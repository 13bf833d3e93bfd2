//! A byte of a file changes; what was damaged is computed again, to equal bytes, and it is said.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::common::error;
use super::{Numbers, Trial, files, must_not_panic, whole};

/// The suite's name.
const NAME: &[u8] = b"faults";

/// The record is compared as what it says but the time: it ends with its digest.
fn content(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if !path.ends_with("result.json") {
        return bytes;
    }
    let mut record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for field in ["seconds", "peak_bytes", "blake3"] {
        record[field] = serde_json::Value::Null;
    }
    for file in record["files"].as_object_mut().unwrap().values_mut() {
        file["modified_ns"] = serde_json::Value::Null;
    }
    record.to_string().into_bytes()
}

/// Changes one byte, or cuts the file to nothing; `quietly`, the time of the file stays.
fn damage(path: &Path, at: u64, quietly: bool) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    match bytes.get_mut(at as usize) {
        Some(byte) => *byte ^= 0x20,
        None => bytes.clear(),
    }
    fs::write(path, &bytes).unwrap();
    if quietly {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(modified).unwrap();
    }
}

/// The files of finished stages.
fn entries(trial: &Trial) -> Vec<PathBuf> {
    let all = trial.files("store").into_iter();
    let all = all.filter(|path| !path.strip_prefix("store").unwrap().starts_with(".damaged"));
    all.map(|path| trial.bench.dir.path().join(path)).collect()
}

fn finished() -> Trial {
    let trial = Trial::new();
    trial.must_end_well(("out", "store"), "nothing");
    trial
}

fn places(path: &Path, numbers: &mut Numbers) -> Vec<u64> {
    let length = fs::metadata(path).unwrap().len();
    let several = if whole() { 8 } else { 1 };
    let mut places: Vec<u64> = (0..several).map(|_| numbers.below(length)).collect();
    places.extend(whole().then_some(length));
    places
}

#[test]
fn every_damaged_file_of_the_store_is_said_and_made_again() {
    let trial = finished();
    let all = entries(&trial);
    assert!(all.len() > 25, "{}", all.len());
    let mut numbers = Numbers(3);
    // A finished run asks for no kept ids; the next test has them asked for.
    let asked = all
        .iter()
        .filter(|path| !path.starts_with(trial.bench.path("store/tokens")));
    for path in asked {
        let before = content(path);
        for at in places(path, &mut numbers) {
            damage(path, at, false);
            let what = format!("{} at {at}", path.display());
            let said = trial.must_end_well(("out", "store"), &what);
            assert!(said.contains("is damaged"), "{what}: {said}");
            assert!(!said.contains("FAILED"), "{what}: {said}");
            assert!(content(path) == before, "{what} is not what it was");
        }
    }
}

/// A change that size and time do not show is found by whoever reads the file.
#[test]
fn a_file_that_changed_quietly_is_never_used() {
    let trial = finished();
    let mut numbers = Numbers(4);
    for path in &entries(&trial) {
        let before = content(path);
        for at in places(path, &mut numbers) {
            damage(path, at, true);
            let _ = fs::remove_dir_all(trial.bench.path("out"));
            let stage = path.parent().unwrap().parent().unwrap();
            for other in fs::read_dir(trial.bench.path("store")).unwrap().flatten() {
                if other.path() != stage && !other.file_name().to_string_lossy().starts_with('.') {
                    fs::remove_dir_all(other.path()).unwrap();
                }
            }
            let what = format!("{} at {at}, quietly", path.display());
            let said = trial.must_end_well(("out", "store"), &what);
            assert!(said.contains("is damaged"), "{what}: {said}");
            assert!(!said.contains("FAILED"), "{what}: {said}");
            assert!(content(path) == before, "{what} is not what it was");
        }
    }
}

/// Also a file that no finished run reads, such as kept ids.
#[test]
fn verify_finds_every_damaged_file_of_the_store() {
    let trial = finished();
    let verify = || {
        let verify = ["store", "--store", "store", "verify"];
        trial.bench.command(&verify).output().unwrap()
    };
    assert!(verify().status.success());
    let mut numbers = Numbers(7);
    for path in &entries(&trial) {
        let before = fs::read(path).unwrap();
        for at in places(path, &mut numbers) {
            damage(path, at, true);
            let what = format!("{} at {at}", path.display());
            let output = verify();
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{what}: {said}");
            let name = path.file_name().unwrap().to_string_lossy();
            let is_said = said.contains(&*name) && said.contains(", 1 damaged");
            assert!(is_said && !path.exists(), "{what}: {said}");
            // Back, for the next.
            let damaged = trial.bench.path("store/.damaged");
            let moved = fs::read_dir(damaged).unwrap().next().unwrap().unwrap();
            fs::rename(moved.path(), path.parent().unwrap()).unwrap();
            fs::write(path, &before).unwrap();
        }
    }
    assert!(verify().status.success());
}

/// The place of the suite's name in the results.
fn place_of_name(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).unwrap();
    let mut windows = bytes.windows(NAME.len());
    let place = windows.position(|name| name == NAME)?;
    path.ends_with("results.csv").then_some(place as u64)
}

#[test]
fn every_damaged_file_of_the_run_folder_is_written_again() {
    let trial = finished();
    let out = trial.bench.path("out");
    let mut numbers = Numbers(5);
    // The log only grows.
    for path in files(&out)
        .into_iter()
        .filter(|path| !path.ends_with("log.txt"))
    {
        let name = place_of_name(&path);
        for at in places(&path, &mut numbers).into_iter().chain(name) {
            // Two runs differ in their times.
            trial.must_end_well(("out", "store"), "the last");
            let (before, bytes) = (undated(&path), fs::read(&path).unwrap());
            let of_name = name.map(|name| name..name + NAME.len() as u64);
            damage(&path, at, false);
            if of_name.is_some_and(|name| name.contains(&at)) {
                // The folder of another suite, as it seems, is left alone.
                let output = trial.command("out", "store").output().unwrap();
                assert_eq!(output.status.code(), Some(2));
                let said = error(&output);
                assert!(said.contains("holds a run of the suite"), "{said}");
                assert!(
                    said.contains("results.csv has changed since the run"),
                    "{said}"
                );
                fs::write(&path, bytes).unwrap();
                continue;
            }
            let what = format!("{} at {at}", path.display());
            let said = trial.must_end_well(("out", "store"), &what);
            assert!(!said.contains("is damaged"), "the store is not: {said}");
            assert!(undated(&path) == before, "{what} is not what it was");
        }
    }
}

/// `bench report` and `bench compare` read no file that has changed since the run, whatever it says now.
#[test]
fn a_damaged_file_of_the_run_folder_is_never_read() {
    let trial = finished();
    let out = trial.bench.path("out");
    let list = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    let listed: Vec<&str> = list.lines().filter_map(|line| line.get(66..)).collect();
    let drawn = ["report.html", "tables", "figures", "comparisons.csv"];
    // Nothing in the folder reads these.
    let others = [
        "log.txt",
        "SHA256SUMS",
        ".safetensors",
        "events.out.tfevents.0.tessera",
    ];
    for path in files(&out) {
        let name = path.strip_prefix(&out).unwrap().to_str().unwrap();
        let is_other = drawn.iter().any(|other| name.starts_with(other))
            || others.iter().any(|other| name.ends_with(other));
        assert_eq!(
            listed.contains(&name),
            !is_other && !name.starts_with('.'),
            "{name}"
        );
    }
    let mut numbers = Numbers(6);
    let read = ["report", "out"];
    let compared = ["compare", "whole", "out"];
    for name in listed.iter().chain(&["SHA256SUMS"]) {
        let path = out.join(name);
        let before = fs::read(&path).unwrap();
        for at in places(&path, &mut numbers) {
            damage(&path, at, true);
            trial.bench.refused(&read, &[name, "bench run"]);
            trial.bench.refused(&compared, &[name, "bench run"]);
            fs::write(&path, &before).unwrap();
        }
        fs::remove_file(&path).unwrap();
        // Without the list nothing is compared; what is in cells may be left out.
        match *name == "SHA256SUMS" || name.starts_with("cells/") {
            true => drop(trial.bench.fine(&read)),
            false => {
                let parts = [name, "no such file", "SHA256SUMS"];
                trial.bench.refused(&read, &parts);
            }
        }
        fs::write(&path, &before).unwrap();
    }
    trial.bench.fine(&read);
    trial.bench.fine(&compared);
}

/// Returns the lines of a file without those that depend on when the run began.
fn undated(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    let is_dated = |line: &Vec<u8>| {
        line.starts_with(b"  \"date\": \"20") || line.ends_with(b"  environment.json")
    };
    lines.filter(|line| !is_dated(line)).collect()
}

#[test]
fn damaged_resume_state_is_said_and_the_stage_begins_anew() {
    let trial = Trial::new();
    let mut numbers = Numbers(6);
    let mut found = 0;
    for _ in 0..if whole() { 60 } else { 12 } {
        let _ = fs::remove_dir_all(trial.bench.path("out"));
        let _ = fs::remove_dir_all(trial.bench.path("store"));
        let mut child = trial.command("out", "store");
        child
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let mut child = child.spawn().unwrap();
        let state = trial.bench.path("store/.state");
        let is_state = |path: &PathBuf| path.ends_with("state.safetensors");
        while child.try_wait().unwrap().is_none() && !files(&state).iter().any(is_state) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let states = files(&state);
        let Some(path) = states.iter().find(|path| is_state(path)) else {
            continue;
        };
        found += 1;
        let length = fs::metadata(path).unwrap().len();
        damage(path, numbers.below(length + 9), false);
        let said = trial.must_end_well(("out", "store"), "a damaged state");
        assert!(said.contains("the stage restarts"), "{said}");
    }
    assert!(found > 3, "only {found} states were there");
}

#[test]
fn a_store_of_another_version_is_computed_again_once() {
    let trial = finished();
    for path in entries(&trial)
        .iter()
        .filter(|path| path.ends_with("result.json"))
    {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let old = ["seconds", "peak_bytes", "result"].map(|f| (f.to_owned(), record[f].clone()));
        let old = serde_json::Value::Object(old.into_iter().collect());
        fs::write(path, format!("{old:#}\n")).unwrap();
    }
    let output = trial.command("out", "store").output().unwrap();
    must_not_panic(&output, "old entries");
    let said = super::error(&output);
    assert_eq!(said.matches("earlier format").count(), 1, "{said}");
    let said = trial.must_end_well(("out", "store"), "old entries");
    assert!(
        !said.contains("earlier format") && !said.contains("fit: K"),
        "{said}"
    );
}

/// The decoded pixels of a data set are mapped by whatever stage needs images.
#[test]
fn damaged_pixels_are_decoded_again() {
    let trial = Trial::new();
    super::use_pictures(&trial.bench, 8, ", decoded_cache: u8");
    let run = |fit_seed: &str| {
        let set = format!("fit_seed={fit_seed}");
        let output = trial
            .bench
            .bench(&["score", "suite.yaml", "--store", "store", "--set", &set]);
        let said = super::error(&output);
        assert!(output.status.success(), "{said}");
        said
    };
    assert!(run("1").contains("decoded"));
    let pixels = files(&trial.bench.path("store/decoded"));
    let pixels = pixels
        .iter()
        .find(|path| path.ends_with("pixels.u8"))
        .unwrap();
    let before = fs::read(pixels).unwrap();
    damage(pixels, 700, true);
    let said = run("2");
    assert!(said.contains("is damaged"), "{said}");
    assert!(fs::read(pixels).unwrap() == before);
    // The scan writes its cache again, too.
    let cached = files(&trial.bench.path("store/scan"));
    assert!(!cached.is_empty());
    let contents = || Vec::from_iter(cached.iter().map(|path| fs::read(path).unwrap()));
    let before = contents();
    for path in &cached {
        damage(path, 40, false);
    }
    assert!(
        !run("2").contains("count:"),
        "the same images, so nothing is missing"
    );
    assert!(contents() == before);
}

/// Pixels and ids are mapped, and verified before training reads them, for hours.
#[test]
fn training_on_bytes_that_changed_meanwhile_is_not_stored() {
    for file in ["pixels.u8", "ids.npy"] {
        let bench = super::Bench::new(super::SUITE);
        if file == "pixels.u8" {
            super::use_pictures(&bench, 8, ", decoded_cache: u8");
        }
        let suite = fs::read_to_string(bench.path("suite.yaml")).unwrap();
        let long = suite.replace("pretrain: {epochs: 3,", "pretrain: {epochs: 60,");
        fs::write(bench.path("suite.yaml"), long).unwrap();
        let trial = Trial::of(bench);
        let mut child = trial.command("out", "store");
        let child = child.stdout(std::process::Stdio::null());
        let mut child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let trains = trial.bench.path("store/.state/pretrain");
        while files(&trains).is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        super::common::signal(&child, "STOP");
        let stored = files(&trial.bench.path("store"));
        let ended = files(&trial.bench.path("store/pretrain"));
        assert!(ended.is_empty(), "pretraining ended before it was stopped");
        let mapped: Vec<_> = stored.iter().filter(|path| path.ends_with(file)).collect();
        assert!(!mapped.is_empty(), "{stored:?}");
        for path in mapped {
            let mut bytes = fs::read(path).unwrap();
            let half = bytes.len() / 2;
            let changed: Vec<u8> = bytes[half..].iter().map(|byte| byte ^ 1).collect();
            bytes.splice(half.., changed);
            fs::write(path, bytes).unwrap();
        }
        super::common::signal(&child, "CONT");
        let output = child.wait_with_output().unwrap();
        let said = super::error(&output);
        assert!(output.status.success(), "{file}: {said}");
        assert!(said.contains("is damaged"), "{file}: {said}");
        trial.must_be_right("out", file);
    }
}
