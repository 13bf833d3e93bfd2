//! The resume state's file: its content, and the handling of an invalid file.

use super::*;
use crate::params::{self, read_state};

/// Pretrains for `steps` steps; returns the notes too.
fn until(folder: &std::path::Path, steps: usize) -> (Result<Pretrained>, Vec<String>) {
    let (polls, notes) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let interrupted = || polls.fetch_add(1, Ordering::SeqCst) >= steps;
    let note = |line: &str| notes.lock().unwrap().push(line.to_owned());
    let cx = RunContext {
        note: &note,
        ..context(Some(folder), &interrupted)
    };
    let data = Random { ids: true };
    let done = pretrain(&tiny(), spec(true), &config(), &data, &cx);
    (done, notes.into_inner().unwrap())
}

#[test]
fn a_state_contains_tensors_of_the_variables_shapes_and_a_position() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(until(folder.path(), 3).0, Err(Error::Interrupted)));
    let (tensors, about) = read_state(&folder.path().join("state.safetensors")).unwrap();
    let params = vit::decoder(vit::encoder(&tiny(), 0).unwrap(), &tiny(), 5, 0).unwrap();
    for (name, var) in params.variables() {
        assert_eq!(tensors[&format!("param.{name}")].0, var.dims(), "{name}");
    }
    let trainable: Vec<_> = params.trainable().collect();
    for (name, var) in &trainable {
        for kind in ["first", "second"] {
            let (shape, values) = &tensors[&format!("{kind}.{name}")];
            assert_eq!(shape, var.dims(), "{name}");
            assert!(values.iter().all(|v| v.is_finite()));
        }
    }
    let all = params.names().len() + 2 * trainable.len();
    assert_eq!(tensors.len(), all, "there are other tensors");
    let about: serde_json::Value = serde_json::from_str(&about["position"]).unwrap();
    // An epoch has two steps.
    assert_eq!(
        (&about[0]["epoch"], &about[0]["step"]),
        (&1.into(), &1.into())
    );
    assert_eq!(about[1], 3);
}

#[test]
fn an_invalid_state_is_reported_and_training_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    until(folder.path(), 3).0.map(drop).unwrap_err();
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (expected, notes) = until(folder.path(), 100);
    let expected = expected.unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let (mut tensors, about) = {
        std::fs::write(&path, &whole).unwrap();
        read_state(&path).unwrap()
    };
    let named = |tensors: &std::collections::HashMap<String, params::Array>| {
        let all = tensors.iter();
        all.map(|(name, (shape, values))| (name.clone(), shape.clone(), values.clone()))
            .collect::<Vec<_>>()
    };
    // States without a position, with a tensor of another shape, and without a moment.
    let other = folder.path().join("other");
    params::write_state(&other, named(&tensors), Default::default()).unwrap();
    let mut broken = vec![std::fs::read(&other).unwrap()];
    tensors.insert("second.norm.bias".into(), (vec![1], vec![0.0]));
    params::write_state(&other, named(&tensors), about.clone()).unwrap();
    broken.push(std::fs::read(&other).unwrap());
    tensors.remove("second.norm.bias");
    params::write_state(&other, named(&tensors), about).unwrap();
    broken.push(std::fs::read(&other).unwrap());
    // Truncated files, and text.
    broken.extend([0, 7, 100, whole.len() / 2, whole.len() - 1].map(|len| whole[..len].to_vec()));
    broken.push(b"no state".to_vec());
    for bytes_of_state in broken {
        std::fs::write(&path, &bytes_of_state).unwrap();
        // The interrupted run must delete the invalid state, so the next run does not find it again.
        let (ended, notes) = until(folder.path(), 1);
        assert!(matches!(ended, Err(Error::Interrupted)));
        assert!(
            notes.len() == 1
                && notes[0].contains("starts anew")
                && notes[0].contains("state.safetensors"),
            "{notes:?}"
        );
        let (done, notes) = until(folder.path(), 100);
        assert_eq!(notes, ["  continues after step 1 of 6"]);
        let done = done.unwrap();
        assert_eq!(done.history, expected.history);
        assert_eq!(bytes(&done.params), bytes(&expected.params));
    }
}
