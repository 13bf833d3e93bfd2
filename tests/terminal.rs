//! What a person sees at a terminal: folded lines, colours, the log of a run, completions and manual pages.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::{Command, Stdio};

use common::Bench;

/// Returns what the program prints to standard output on a pseudo-terminal of util-linux's `script`, with the environment variable `set`. `None`
/// without it.
fn on_a_terminal(bench: &Bench, args: &str, set: Option<(&str, &str)>) -> Option<String> {
    let line = format!("{} {args} 2>/dev/null", env!("CARGO_BIN_EXE_bench"));
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .current_dir(bench.dir.path())
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(set)
        .stdin(Stdio::null());
    match script.output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).replace('\r', "")),
        Err(_) => {
            common::skipped("no `script` (Debian: util-linux, bsdutils)");
            None
        }
    }
}

#[test]
fn lines_fit_a_terminal_and_stay_whole_in_a_pipe() {
    let bench = Bench::whole();
    for args in [
        "list metrics",
        "list columns",
        "list tokenizers",
        "doctor",
        "theory",
        "run suite.yaml --dry-run",
    ] {
        let Some(text) = on_a_terminal(&bench, args, None) else {
            return;
        };
        let shown = text.lines().filter(|line| !line.contains('\x1b'));
        let long: Vec<&str> = shown.filter(|line| line.chars().count() > 80).collect();
        // A path and an address stay whole.
        let is_one_word = |line: &&str| !line.trim().contains(' ');
        assert!(long.iter().all(is_one_word), "{args}: {long:#?}");
    }
    let piped = bench.fine(&["list", "metrics"]);
    let tcas = piped.lines().find(|line| line.starts_with("tcas "));
    assert!(tcas.unwrap().ends_with("lower is better]"), "{piped}");
}

#[test]
fn help_has_colours_but_with_no_color() {
    let bench = Bench::whole();
    let Some(coloured) = on_a_terminal(&bench, "run --help", None) else {
        return;
    };
    assert!(coloured.contains("\x1b["), "{coloured}");
    let plain = on_a_terminal(&bench, "run --help", Some(("NO_COLOR", "1"))).unwrap();
    assert!(!plain.contains("\x1b["), "{plain}");
}

#[test]
fn completions_and_manual_pages_have_every_verb() {
    let bench = Bench::whole();
    let help = bench.fine(&["--help"]);
    let verbs = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<&str> = verbs.filter_map(|l| l.split_whitespace().next()).collect();
    assert!(verbs.len() > 15, "{verbs:?}");
    let bash = bench.fine(&["completions", "bash"]);
    let of_package = bench.fine(&["completions", "bash", "--name", "tessera-bench"]);
    assert!(of_package.contains("-o default tessera-bench\n") && !of_package.contains(" bench\n"));
    bench.fine(&["man", "pages"]);
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(bash.contains(&format!("bench,{verb})")), "{verb}");
        let page = bench.path(&format!("pages/bench-{verb}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
}

/// The log has what `-q` does not show.
#[test]
fn the_log_of_a_quiet_run_has_its_stages() {
    let bench = Bench::whole();
    bench.fine(&["score", "suite.yaml", "--out", "out", "-q"]);
    let log = std::fs::read_to_string(bench.path("out/log.txt")).unwrap();
    for part in [
        "tessera 0",
        "fit: K-means Pixel, K=4, fit seed 1: done in",
        "metrics: K-means Pixel, K=8: done in",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
    // Every line begins with its time.
    assert!(
        log.lines()
            .all(|line| line.starts_with("20") || line.starts_with("  ")),
        "{log}"
    );
}

/// Such a name could look like a message of its own.
#[test]
fn names_with_line_breaks_stay_in_one_line() {
    let bench = Bench::new("");
    for split in ["train", "val"] {
        for (class, shade) in [("ant", 0), ("bee", 90)] {
            let folder = bench.path(&format!("images/{split}/{class}"));
            std::fs::create_dir_all(&folder).unwrap();
            let image = image::RgbImage::from_fn(20, 20, |x, y| {
                image::Rgb([shade + split.len() as u8, (x * 9) as u8, (y * 7) as u8])
            });
            image.save(folder.join("0.png")).unwrap();
        }
    }
    let bad = bench.path("images/train/ant/a\nerror: fake line.png");
    std::fs::write(bad, "no image").unwrap();
    let folder = bench.path("runs/r\nerror: fake run");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("results.csv"), "").unwrap();
    for args in [&["score", "images", "--out", "out"][..], &["runs", "runs"]] {
        let output = bench.bench(args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("\\nerror: fake"), "{said}");
        assert!(!said.contains("\nerror: fake"), "{said}");
    }
    let log = std::fs::read_to_string(bench.path("out/log.txt")).unwrap_or_default();
    assert!(!log.contains("\nerror: fake"), "{log}");
}
