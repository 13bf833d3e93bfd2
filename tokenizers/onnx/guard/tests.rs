use super::*;
use crate::onnx::embedded;
use crate::onnx::limits::MEMORY;

/// Calls `work` with a trial of an embedded model.
fn trial<R>(name: &str, work: impl FnOnce(&Trial<'_>) -> R) -> R {
    let graph = embedded::model("mosaic_vq").unwrap().bytes.to_vec();
    work(&Trial {
        file: "m.onnx".as_ref(),
        checked: &Checked::of(&graph, None).unwrap(),
        files: &Files {
            graph,
            external: vec![("w".into(), vec![7; 1 << 20])],
        },
        calls: Calls {
            batch: 2,
            threads: 1,
        },
        side: 32,
        fingerprint: &Fingerprint::of(&[name.as_bytes()]),
    })
}

/// Returns the command of a process that runs a script of the shell.
fn shell(script: &str) -> Vec<OsString> {
    ["sh", "-c", script].map(OsString::from).to_vec()
}

#[test]
fn a_graph_is_tried_once_and_its_answer_is_the_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let answer = r#"echo hello; echo '{"Fine":{"shape":[1,8,8],"ids":true}}'"#;
    // It does not read everything, which is no error.
    let script = format!("echo start >> '{}'; read line; {answer}", starts.display());
    for _ in 0..3 {
        let found = trial("once", |trial| trial.tried(&shell(&script), &|| false));
        let expected = Probed {
            shape: vec![1, 8, 8],
            ids: true,
        };
        assert_eq!(found.unwrap(), expected);
    }
    assert_eq!(std::fs::read_to_string(starts).unwrap(), "start\n");
}

#[test]
fn whatever_ends_the_process_is_an_error_that_names_the_limit_if_it_is_the_reason() {
    for (script, part, limit) in [
        ("echo why >&2; exit 3", "exit status: 3): why", None),
        ("kill -9 $$", "signal: 9", Some(MEMORY)),
        ("kill -SEGV $$", "signal: 11", Some(MEMORY)),
        ("kill -XCPU $$", "processor time", Some(SECONDS)),
        ("true", "exit status: 0", None),
        (
            "echo memory allocation of 9 bytes failed >&2; exit 134",
            "of 9 bytes failed; ",
            Some(MEMORY),
        ),
        (
            "echo Resource temporarily unavailable >&2; exit 101",
            "temporarily unavailable; ",
            Some(MEMORY),
        ),
        (
            r#"echo '{"Engine":["rten","failed to allocate 9 bytes"]}'"#,
            "rten: failed to allocate 9 bytes; ",
            Some(MEMORY),
        ),
        (
            r#"echo '{"File":"is damaged"}'"#,
            "m.onnx: is damaged",
            None,
        ),
    ] {
        let found = trial(script, |trial| trial.tried(&shell(script), &|| false));
        let said = found.unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
        for variable in [MEMORY, SECONDS] {
            assert_eq!(said.contains(variable), limit == Some(variable), "{said}");
        }
    }
    let absent = [OsString::from("/no/such/program")];
    let said = trial("absent", |trial| trial.tried(&absent, &|| false)).unwrap_err();
    let said = said.to_string();
    assert!(
        said.contains("m.onnx") && said.contains("(/no/such/program)"),
        "{said}"
    );
}

/// An answer that never came is not kept.
#[test]
fn an_interruption_ends_the_process() {
    let found = trial("stop", |trial| {
        trial.tried(&shell("exec sleep 600"), &|| true)
    });
    assert!(matches!(found, Err(Error::Interrupted)));
    let answer = shell(r#"echo '{"Fine":{"shape":[1],"ids":false}}'"#);
    let found = trial("stop", |trial| trial.tried(&answer, &|| false));
    assert!(found.is_ok_and(|found| !found.ids));
}
