//! Progress of a run: a bar with the time left on a terminal, plain lines elsewhere.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tessera_reports::printable;

use crate::folder::layout::LOG;
use crate::run::environment::now;
use crate::stages::common::reporter::{Outcome, Reporter};

/// Minimum time between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// How much [`Terminal`] shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Notes only.
    Quiet,
    /// Stages and their progress too.
    #[default]
    Normal,
    /// Stored stages too.
    Verbose,
}

/// Writes progress to standard error.
pub struct Terminal {
    bar: Option<ProgressBar>,
    verbosity: Verbosity,
    log: OnceLock<File>,
    current: Mutex<Current>,
}

struct Current {
    label: String,
    begun: Instant,
    /// Units that were done at the first report, for example by an earlier run.
    before: Option<usize>,
    last_line: Instant,
}

impl Current {
    fn new(label: String) -> Self {
        let now = Instant::now();
        Self {
            label,
            begun: now,
            before: None,
            last_line: now,
        }
    }

    /// Returns the time left after `done` of `total` units, by those since the first report; `None` before there is a second.
    fn left(&mut self, done: usize, total: usize) -> Option<String> {
        let before = *self.before.get_or_insert(done);
        (done > before).then(|| {
            let each = self.begun.elapsed().as_secs_f64() / (done - before) as f64;
            duration(each * total.saturating_sub(done) as f64)
        })
    }
}

impl Terminal {
    /// Shows a bar if standard error is a terminal.
    pub fn new(verbosity: Verbosity) -> Self {
        let has_bar = std::io::stderr().is_terminal() && verbosity > Verbosity::Quiet;
        let bar = has_bar.then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{prefix}\n{wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            verbosity,
            current: Mutex::new(Current::new(String::new())),
            log: OnceLock::new(),
        }
    }

    /// Removes the bar, before results are printed.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Appends everything to the log of the run folder `out` from now on, also what is not shown. A log that cannot be written is left
    /// out, because it ends no run.
    pub fn log_into(&self, out: &Path) {
        if let Ok(file) = File::options()
            .append(true)
            .create(true)
            .open(out.join(LOG))
        {
            let _ = self.log.set(file);
        }
    }

    /// Logs a line, and shows it if the user wishes to see lines of this `kind`.
    fn line(&self, kind: Verbosity, text: &str) {
        if let Some(mut log) = self.log.get() {
            let line = format!("{} {}\n", now(), printable(text).replace('\n', "\n  "));
            let _ = log.write_all(line.as_bytes());
        }
        match &self.bar {
            _ if kind > self.verbosity => {}
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }
}

impl Reporter for Terminal {
    fn begin(&self, label: &str, index: usize, total: usize, seconds_left: Option<f64>) {
        let mut text = match total {
            0 => label.to_owned(),
            _ => format!("[{index}/{total}] {label}"),
        };
        if let Some(seconds) = seconds_left.filter(|s| *s >= 1.0) {
            text.push_str(&format!("  ({} left in all)", duration(seconds)));
        }
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(0);
            bar.set_prefix(printable(&text).into_owned());
            bar.set_message("");
            self.line(Verbosity::Verbose, &text);
        } else {
            self.line(Verbosity::Normal, &text);
        }
        if let Ok(mut current) = self.current.lock() {
            *current = Current::new(text);
        }
    }

    fn progress(&self, done: usize, total: usize, note: &str) {
        let Ok(mut current) = self.current.try_lock() else {
            return;
        };
        let left = current.left(done, total);
        if let Some(bar) = &self.bar {
            let left = left.map_or_else(String::new, |left| format!(", {left} left"));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("{done}/{total} {}{left}", printable(note)));
        } else if let Some(left) = left
            && current.last_line.elapsed() >= LINE_EVERY
        {
            current.last_line = Instant::now();
            let text = format!("  {}: {done}/{total} {note} ({left} left)", current.label);
            self.line(Verbosity::Normal, &text);
        }
    }

    fn end(&self, label: &str, seconds: f64, outcome: Outcome<'_>) {
        let (kind, how) = match outcome {
            Outcome::Done => (Verbosity::Normal, "done in"),
            Outcome::Interrupted => (Verbosity::Quiet, "interrupted after"),
            Outcome::Damaged(_) => (
                Verbosity::Quiet,
                "stopped, because a stored result that it reads is damaged, after",
            ),
            Outcome::Failed(_) => (Verbosity::Quiet, "FAILED after"),
        };
        let mut text = format!("  {label}: {how} {}", duration(seconds));
        if let Outcome::Failed(error) | Outcome::Damaged(error) = outcome {
            text.push_str(&format!(": {error}"));
        }
        self.line(kind, &text);
        if let Some(bar) = &self.bar {
            bar.set_prefix("");
            bar.set_length(0);
        }
    }

    fn note(&self, line: &str) {
        self.line(Verbosity::Quiet, line);
    }

    fn detail(&self, line: &str) {
        self.line(Verbosity::Verbose, line);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Formats seconds: "4.2 s", "3 min 05 s", "2 h 10 min", "3 d 04 h".
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        172_800.. => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resumed stage begins where the earlier run ended.
    #[test]
    fn the_time_left_counts_what_this_run_has_done() {
        let mut current = Current::new("pretrain".into());
        current.begun -= Duration::from_secs(10);
        assert_eq!(current.left(1000, 2000), None);
        let left = current.left(1010, 2000).unwrap();
        assert!(left.starts_with("16 min"), "{left}");
    }

    #[test]
    fn durations_have_readable_units() {
        assert_eq!(duration(4.21), "4.2 s");
        assert_eq!(duration(185.0), "3 min 05 s");
        assert_eq!(duration(7800.0), "2 h 10 min");
        assert_eq!(duration(273_600.0), "3 d 04 h");
    }
}
