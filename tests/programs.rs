//! `kind: command` and `kind: python`: targets, errors, and the life of the processes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "programs/changes.rs"]
mod changes;
mod common;
#[path = "programs/pictures.rs"]
mod pictures;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::onnx::largest;
use common::programs::{PYTHON, python, tokenizer};
use common::{Bench, HEAD, RECIPE, column, error, metrics};

/// Bytes of a request of 16 images of 16 pixels.
const REQUEST: usize = 8 + 128 + 4 * 16 * 3 * 16 * 16;

/// Returns a suite of rows on mosaics of 16 pixels in a 4x4 grid, with `mine.py` beside it.
fn suite(rows: &[String]) -> Bench {
    let rows: String = rows.iter().map(|row| format!("  - {row}\n")).collect();
    let head = HEAD.replace("seeds: [0, 1]", "seeds: [0]");
    let bench = Bench::new(&format!("{head}tokenizers:\n{rows}{RECIPE}"));
    std::fs::write(bench.path("mine.py"), PYTHON).unwrap();
    std::fs::write(bench.path("short"), frame("<i4", "(15, 16)", &[3; 240])).unwrap();
    for (name, ids) in [("ok", [3; 256]), ("other", [4; 256]), ("nine", [9; 256])] {
        std::fs::write(bench.path(name), frame("<i4", "(16, 16)", &ids)).unwrap();
    }
    bench
}

/// Returns a row `name` of a script of the shell with 8 codes; `more` are further fields.
fn shell(name: &str, script: &str, more: &str) -> String {
    let script = script.replace('\'', "''");
    format!(
        "{{name: {name}, kind: command, with: {{command: [sh, -c, '{script}'], codebook_size: 8{more}}}}}"
    )
}

/// Returns a row that calls a function of `mine.py`.
fn function(name: &str, more: &str) -> String {
    format!("{{name: {name}, kind: python, with: {{callable: \"mine:{name}\"{more}}}}}")
}

/// Returns a script that replies with the file `name` to every request.
fn replies(name: &str) -> String {
    format!("while [ $(head -c {REQUEST} | wc -c) -eq {REQUEST} ]; do cat {name}; done")
}

/// Returns a frame of little-endian numbers.
fn frame(descr: &str, shape: &str, numbers: &[i32]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    array.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    [&(array.len() as u64).to_le_bytes()[..], &array].concat()
}

/// Returns the loop of PROTOCOL.md, for programs in Python without the driver, with the function of [`tokenizer`].
fn the_documented_loop() -> String {
    let text = include_str!("../tokenizers/program/PROTOCOL.md");
    let blocks = text.split("```python\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let shown = blocks.find(|block| block.contains("sys.stdin")).unwrap();
    format!(
        "def ids_of(images):
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // 4, 4, width // 4, 4)
    return (patches.max((1, 3, 5)) * np.float32(7)).astype(np.int32)

{shown}"
    )
}

#[test]
fn a_program_a_function_a_graph_and_a_file_give_the_same_ids_and_numbers() {
    let program = tokenizer().display();
    let mut rows = vec![
        format!(
            "{{name: program, kind: command, with: {{command: [{program}, \"4\", \"8\"], codebook_size: 8, workers: 2}}}}"
        ),
        "{name: graph, kind: onnx-ids, with: {model: g.onnx, codebook_size: 8, input: {scale: zero-one}}}".into(),
        "{name: file, kind: token-file, with: {train: program.npy, codebook_size: 8}}".into(),
    ];
    if python() {
        rows.push(function("tokenize", ", codebook_size: 8, workers: 2"));
        rows.push(function("flat", ", codebook_size: 8, batch: 7"));
        rows.push(function("tensor", ", codebook_size: 8"));
        rows.push(function("listed", ", codebook_size: 8"));
        rows.push(
            "{name: loop, kind: command, with: {command: [python3, loop.py], codebook_size: 8}}"
                .into(),
        );
    }
    let bench = suite(&rows);
    std::fs::write(bench.path("loop.py"), the_documented_loop()).unwrap();
    std::fs::write(bench.path("g.onnx"), largest()).unwrap();
    let written = |row: &str| {
        let out = format!("{row}.npy");
        bench.fine(&[
            "tokenize",
            "suite.yaml",
            "--only",
            row,
            "--split",
            "train",
            "--out",
            &out,
        ]);
        std::fs::read(bench.path(&out)).unwrap()
    };
    let ids = written("program");
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    let expected = metrics(&bench, "program");
    assert!(expected.len() > 5);
    let names = [
        "graph", "file", "tokenize", "flat", "tensor", "listed", "loop",
    ];
    for row in &names[..rows.len() - 1] {
        assert_eq!(written(row), ids, "{row}");
        assert_eq!(metrics(&bench, row), expected, "{row}");
    }
}

#[test]
fn a_model_learns_the_targets_of_random_crops() {
    let program = tokenizer().display();
    let mut rows = vec![format!(
        "{{name: program, kind: command, with: {{command: [{program}, \"4\", \"8\"], codebook_size: 8}}}}"
    )];
    if python() {
        rows.push(function("tokenize", ", codebook_size: 8"));
        rows.push(function("means", ", dim: 3, input: {scale: imagenet}"));
    }
    let bench = suite(&rows);
    let output = bench.bench(&["run", "suite.yaml", "--out", "out"]);
    assert!(output.status.success(), "{}", error(&output));
    let losses = column(&bench.path("out"), "pretrain_loss");
    assert!(losses.iter().all(|loss| loss.parse::<f64>().unwrap() > 0.0));
    if rows.len() > 1 {
        assert_eq!(losses[0], losses[1], "the same targets");
    }
}

/// A row and the parts of its error.
type Wrong<'a> = (String, &'a [&'a str]);

/// Scores rows, each of which must fail with its error, beside one that must not.
fn fail(wrong: &[Wrong<'_>]) {
    let mut rows: Vec<String> = wrong.iter().map(|(row, _)| row.clone()).collect();
    rows.push(shell("fine", &replies("ok"), ""));
    let bench = suite(&rows);
    let output = bench.bench(&["score", "suite.yaml", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let errors = column(&bench.path("out"), "error");
    for (at, (row, parts)) in wrong.iter().enumerate() {
        for part in *parts {
            assert!(
                errors[at].contains(part),
                "{row}: expected {part:?} in: {}",
                errors[at]
            );
        }
    }
    assert_eq!(errors[wrong.len()], "");
}

#[test]
fn what_a_program_does_wrong_ends_its_row_with_an_error() {
    let alternating =
        "for name in ok other ok other; do head -c REQUEST > /dev/null; cat $name; done"
            .replace("REQUEST", &REQUEST.to_string());
    fail(&[
        (
            shell("dies", "echo early >&2; echo no weights >&2; exit 3", ""),
            &[
                "suite.yaml:10: tokenizers[0].with.command",
                "ended (exit status: 3)",
                "early | no weights",
            ],
        ),
        (
            shell("killed", "kill -9 $$", ""),
            &["signal: 9", "nothing to standard error"],
        ),
        (
            shell(
                "hangs",
                "echo thinking >&2; sleep 600; true",
                ", timeout: 1",
            ),
            &["within 1 s (`timeout`)", "thinking"],
        ),
        (
            shell("whispers", "echo hi; sleep 600; true", ", timeout: 1"),
            &["within 1 s", "\"hi\\n\"", "no frame"],
        ),
        (
            shell("prints", "echo a long line of text; cat > /dev/null", ""),
            &["wrote \"a long line of text\\n\" to standard output"],
        ),
        (
            shell(
                "cut",
                &format!("head -c {REQUEST} > /dev/null; head -c 50 ok"),
                "",
            ),
            &["after", "bytes of a reply"],
        ),
        (
            shell("deaf", "exec 0<&- 1>&-; sleep 600; true", ""),
            &["closed its standard input or output"],
        ),
        (
            shell("shape", &replies("short"), ""),
            &["shape [15, 16]", "every image of the batch"],
        ),
        (
            shell("nine", &replies("nine"), ""),
            &["the id 9 for image 0", "0..8", "codebook_size"],
        ),
        (
            shell("type", &replies("ok"), "").replace("codebook_size: 8", "dim: 1"),
            &["shape [16, 16]", "[16, 16, 1]"],
        ),
        (
            shell("moody", &alternating, ""),
            &["other targets at another place", "batch: 1"],
        ),
        (
            "{name: text, kind: command, with: {command: [./mine.py], codebook_size: 8}}".into(),
            &["cannot be started"],
        ),
    ]);
}

#[test]
fn what_a_function_does_wrong_ends_its_row_with_an_error() {
    if !python() {
        return;
    }
    let ids = ", codebook_size: 8";
    let of = |name: &str| function(name, ids);
    fail(&[
        (
            of("fails"),
            &[
                "tokenizers[0].with.callable",
                "exit status: 1",
                "ValueError: no such code",
            ],
        ),
        (of("absent"), &["has no attribute 'absent'"]),
        (
            of("tokenize").replace("mine:", "nobody:"),
            &["No module named 'nobody'"],
        ),
        (
            function("hangs", ", codebook_size: 8, timeout: 1"),
            &["within 1 s"],
        ),
        (of("above"), &["the id 8 for image", "0..8"]),
        (of("masked"), &["found an array with masked values"]),
        (
            function("means", ids),
            &["shape [16, 4, 4, 3]", "expected [16, 16] or [16, 4, 4]"],
        ),
        (
            function("random", ids),
            &["other targets at another place", "random"],
        ),
        (
            function("beside", ids),
            &["sums over the batch", "model.eval()"],
        ),
    ]);
    // A second child is another process.
    let bench = suite(&[function("of_process", ", codebook_size: 8, workers: 2")]);
    let output = bench.bench(&["score", "suite.yaml", "--threads", "2", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let said = &column(&bench.path("out"), "error")[0];
    assert!(said.contains("when it was started again"), "{said}");
    // Alone, no image depends on others.
    let bench = suite(&[function("alone", ", codebook_size: 8, batch: 1")]);
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
}

#[test]
fn a_program_that_is_absent_is_refused_and_an_optional_row_is_skipped() {
    let row = "{name: T, kind: command, with: {command: [PROGRAM], codebook_size: 8}}";
    for (program, said) in [
        ("no-such-program", "in no folder of PATH"),
        ("./nothing", "nothing does not exist"),
    ] {
        let row = row.replace("PROGRAM", program);
        let bench = suite(std::slice::from_ref(&row));
        bench.refused(
            &["validate", "suite.yaml"],
            &["suite.yaml:10", "with.command", said],
        );
        let optional = row.replace("kind:", "optional: true, kind:");
        let bench = suite(&[optional, shell("fine", &replies("ok"), "")]);
        let said = bench.fine(&["validate", "suite.yaml"]);
        assert!(said.contains("skipped:"), "{said}");
    }
}

#[test]
fn wrong_fields_of_a_program_are_refused() {
    let python = |fields: &str| format!("{{name: T, kind: python, with: {{{fields}}}}}");
    for (row, parts) in [
        (
            python("callable: \"mine:f\", python: sh"),
            ["codebook_size: missing", "`dim`"],
        ),
        (
            python("callable: \"mine:f\", python: sh, codebook_size: 8, dim: 3"),
            ["with.dim: found 3", "one of the two"],
        ),
        (
            python("callable: mine, python: sh, dim: 3"),
            ["callable: found \"mine\"", "package.module:function"],
        ),
        (
            python("callable: \"mine.py:f\", python: sh, dim: 3, timeout: 0"),
            ["timeout: found 0", "at least 1"],
        ),
        (
            python("callable: \"a-b:f\", python: sh, dim: 3"),
            ["callable: found \"a-b:f\"", "package.module:function"],
        ),
        (
            "{name: T, kind: command, with: {command: [], dim: 3}}".into(),
            ["command: found 0 items", "1 to 1000"],
        ),
    ] {
        suite(&[row]).refused(&["validate", "suite.yaml"], &parts);
    }
}

#[test]
fn only_runs_start_programs_and_only_if_they_may() {
    let row = shell("T", &format!("touch started; {}", replies("ok")), "");
    let bench = suite(&[row]);
    let started = || bench.path("started").exists();
    let said = bench.fine(&["validate", "suite.yaml"]);
    assert!(said.contains("targets are not checked"), "{said}");
    for args in [
        &["run", "suite.yaml", "--dry-run"][..],
        &["score", "suite.yaml", "--dry-run"],
        &["plan", "suite.yaml"],
    ] {
        let output = bench.bench(args);
        assert!(output.status.success(), "{args:?}: {}", error(&output));
        assert!(
            error(&output).contains("T: its program is not started"),
            "{}",
            error(&output)
        );
    }
    let dry = bench.fine(&["run", "suite.yaml", "--dry-run"]);
    assert!(dry.contains("is not started here"), "{dry}");
    for args in [
        &["validate", "suite.yaml", "--no-programs"][..],
        &["run", "suite.yaml", "--no-programs"],
        &["score", "suite.yaml", "--no-programs"],
        &["plan", "suite.yaml", "--no-programs"],
        &[
            "tokenize",
            "suite.yaml",
            "--no-programs",
            "--only",
            "T",
            "--split",
            "train",
            "--out",
            "x.npy",
        ],
    ] {
        bench.refused(
            args,
            &[
                "suite.yaml:10",
                "tokenizers[0].kind",
                "`command`",
                "--no-programs",
            ],
        );
    }
    assert!(!started());
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
    assert!(started());
}

#[test]
fn standard_error_may_be_long() {
    let flood = "head -c 3000000 /dev/zero | tr '\\0' x >&2";
    let script = replies("ok").replace("cat ok", &format!("{flood}; cat ok"));
    let bench = suite(&[shell("T", &script, "")]);
    bench.fine(&["score", "suite.yaml", "--out", "out"]);
}

/// Returns the numbers in the file `pids`, one a line.
fn pids(bench: &Bench) -> Vec<String> {
    let text = std::fs::read_to_string(bench.path("pids")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until `holds`.
fn wait(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_running(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended, and its new parent will wait for it.
    !state.is_empty() && !state.contains(") Z ")
}

fn ended(bench: &Bench) {
    for pid in pids(bench) {
        wait("a child lives on", || !is_running(&pid));
    }
}

fn started(bench: &Bench) -> Child {
    let mut command = bench.command(&["score", "suite.yaml", "--threads", "3", "--out", "out"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn children_end_with_a_run() {
    if !Path::new("/proc/self/stat").exists() {
        return common::skipped("no /proc to look for processes in");
    }
    let script = format!("echo $$ >> pids; {}", replies("ok"));
    let bench = suite(&[shell("T", &script, ", workers: 3")]);
    assert!(started(&bench).wait().unwrap().success());
    // Two passes build the tokenizer.
    let count = pids(&bench).len();
    assert!((2..=4).contains(&count), "{count}");
    ended(&bench);
}

#[test]
fn children_end_when_the_run_is_killed() {
    if !Path::new("/proc/self/stat").exists() {
        return common::skipped("no /proc to look for processes in");
    }
    let slow = replies("ok").replace("cat ok", "sleep 1; cat ok");
    let mut rows = vec![shell("T", &format!("echo $$ >> pids; {slow}"), "")];
    if python() {
        rows.push(function("hangs", ", codebook_size: 8"));
    }
    for row in rows {
        let bench = suite(&[row]);
        let text =
            format!("{PYTHON}\nwith open('pids', 'a') as pids: print(os.getpid(), file=pids)\n");
        std::fs::write(bench.path("mine.py"), text).unwrap();
        let mut run = started(&bench);
        wait("no child was started", || !pids(&bench).is_empty());
        run.kill().unwrap();
        run.wait().unwrap();
        ended(&bench);
    }
}
