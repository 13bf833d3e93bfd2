//! Targets that change: between runs, in a run, and with the other images of a batch.

use super::*;

#[test]
fn the_key_changes_with_the_targets_and_the_version() {
    let row = |more: &str| shell("T", &replies("weights"), more);
    let bench = suite(&[row("")]);
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let score = |name: &str| {
        std::fs::copy(bench.path(name), bench.path("weights")).unwrap();
        bench.fine(&["score", "suite.yaml", "--out", "out"]);
        bench.fine(&["store", "ls"]).lines().count()
    };
    let first = score("ok");
    assert_eq!(score("ok"), first);
    let second = score("other");
    assert!(second > first);
    for same in ["workers: 2", "timeout: 9"] {
        std::fs::write(
            bench.path("suite.yaml"),
            text.replace(&row(""), &row(&format!(", {same}"))),
        )
        .unwrap();
        assert_eq!(score("other"), second, "{same}");
    }
    std::fs::write(
        bench.path("suite.yaml"),
        text.replace(&row(""), &row(", version: 2")),
    )
    .unwrap();
    assert!(score("other") > second);
}

/// It kept the old numbers where the targets of the drawn images stayed as they were.
#[test]
fn the_key_changes_with_the_file_of_a_function() {
    if !python() {
        return;
    }
    let bench = suite(&[function("tokenize", ", codebook_size: 8")]);
    let score = |source: &str| {
        std::fs::write(bench.path("mine.py"), source).unwrap();
        bench.fine(&["score", "suite.yaml", "--out", "out"]);
        bench.fine(&["store", "ls"]).lines().count()
    };
    let first = score(PYTHON);
    assert_eq!(score(PYTHON), first);
    assert!(score(&format!("{PYTHON}\n")) > first);
}

/// The key had the new text, and the numbers were those of the bytecode of the old one.
#[test]
fn a_function_whose_file_keeps_its_length_and_time_is_computed_from_its_text() {
    if !python() {
        return;
    }
    let bench = suite(&[function("tokenize", ", codebook_size: 8")]);
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let score = |bench: &Bench, source: &str| {
        std::fs::write(bench.path("mine.py"), source).unwrap();
        let file = std::fs::File::options()
            .append(true)
            .open(bench.path("mine.py"))
            .unwrap();
        file.set_modified(time).unwrap();
        let mut command = bench.command(&["score", "suite.yaml", "--out", "out"]);
        command.env_remove("PYTHONDONTWRITEBYTECODE");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", error(&output));
        metrics(bench, "tokenize")
    };
    let other = PYTHON.replace("np.float32(codes - 1)", "np.float32(codes - 6)");
    let first = score(&bench, PYTHON);
    assert!(bench.path("__pycache__").exists());
    let second = score(&bench, &other);
    assert_ne!(second, first);
    let fresh = suite(&[function("tokenize", ", codebook_size: 8")]);
    assert_eq!(second, score(&fresh, &other));
}

/// Their targets were taken for one another's.
#[test]
fn replies_in_another_order_than_the_requests_end_their_row() {
    if !python() {
        return;
    }
    // Two threads; every second request takes longer, at once or after the start.
    let rows = [0, 4].map(|from| {
        let row = format!(
            "{{name: from-{from}, kind: command, with: {{command: [python3, pool.py, \"{from}\"], codebook_size: 8}}}}"
        );
        let said: &[&str] = match from {
            0 => &["at another place", "in the order of the requests"],
            _ => &["than at its start", "in the order of the requests"],
        };
        (row, said)
    });
    let mut all: Vec<String> = rows.iter().map(|(row, _)| row.clone()).collect();
    all.push(shell("fine", &replies("ok"), ""));
    let bench = suite(&all);
    std::fs::write(bench.path("pool.py"), POOL).unwrap();
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let errors = column(&bench.path("out"), "error");
    for ((row, said), error) in rows.iter().zip(&errors) {
        for part in *said {
            assert!(error.contains(part), "{row}: expected {part:?} in: {error}");
        }
    }
}

const POOL: &str = "
import io, sys, threading, time
import numpy as np
from concurrent.futures import ThreadPoolExecutor

replies, sys.stdout = sys.stdout.buffer, sys.stderr
from mine import largest

lock = threading.Lock()

def answer(images, at):
    out = io.BytesIO()
    np.save(out, largest(images, 4, 8))
    time.sleep(0.5 if at % 2 == 0 and at > int(sys.argv[1]) else 0)
    with lock:
        replies.write(len(out.getvalue()).to_bytes(8, 'little') + out.getvalue())
        replies.flush()

pool = ThreadPoolExecutor(2)
at = 0
while head := sys.stdin.buffer.read(8):
    images = np.load(io.BytesIO(sys.stdin.buffer.read(int.from_bytes(head, 'little'))))
    at += 1
    pool.submit(answer, images, at)
";

/// It ended with status 0.
#[test]
fn targets_that_change_during_a_run_end_its_row() {
    // The checks of a start take four requests. Another four requests later the drawn images come again.
    let script = format!(
        "for at in 1 2 3 4 5 6; do head -c {REQUEST} > /dev/null; cat ok; done; {}",
        replies("other")
    );
    fail(&[(
        shell("drifts", &script, ""),
        &[
            "other targets after",
            "than at its start",
            "nothing between calls",
        ],
    )]);
}

/// Only drift before the last check of its requests was seen.
#[test]
fn targets_that_change_after_the_last_check_of_a_pass_end_its_row() {
    // Four requests of the start, four of the pass, three of a check and the last two of the pass.
    let reply = |name: &str| format!("head -c {REQUEST} > /dev/null; cat {name}");
    let rows = [11, 13].map(|same| {
        let script = format!(
            "at=0; while [ $at -lt {same} ]; do {}; at=$((at + 1)); done; {}",
            reply("ok"),
            replies("other")
        );
        (
            shell(&format!("drifts-{same}"), &script, ""),
            &["other targets after", "than at its start"][..],
        )
    });
    fail(&rows);
}

/// The next run went on from the state of the wrong targets, had too few requests left for a check, and ended well.
#[test]
fn a_pretraining_with_targets_that_change_leaves_no_state() {
    let reply = |name: &str| format!("head -c {REQUEST} > /dev/null; cat {name}");
    let script = format!(
        "at=0; while [ $at -lt 19 ]; do {}; at=$((at + 1)); done; while true; do if [ -e drift ]; then {}; else {}; fi; done",
        reply("ok"),
        reply("other"),
        reply("ok")
    );
    let bench = suite(&[shell("drifts", &script, "")]);
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    std::fs::write(bench.path("drift"), "").unwrap();
    let run = [
        "run",
        "suite.yaml",
        "--out",
        "out",
        "--checkpoint-every",
        "0",
    ];
    for _ in 0..2 {
        let output = bench.bench(&run);
        let said = error(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("continues after step"), "{said}");
        assert!(column(&bench.path("out"), "error")[0].contains("other targets after"));
    }
}

/// Only another mean was seen.
#[test]
fn functions_that_depend_on_their_batch_end_their_rows() {
    if !python() {
        return;
    }
    let names = ["largest_of", "smallest_of", "spread_of", "quantile_of"];
    let said: &[&str] = &[
        "other targets at another place",
        "largest or smallest value",
    ];
    fail(&names.map(|name| (function(name, ", codebook_size: 8"), said)));
}
