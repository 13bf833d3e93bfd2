//! Progress of a run: a bar with the time left on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tessera_reports::printable;

use crate::stages::common::reporter::{Outcome, Reporter};

/// Minimum time between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Writes progress to standard error.
pub struct Terminal {
    bar: Option<ProgressBar>,
    current: Mutex<Current>,
}

struct Current {
    label: String,
    begun: Instant,
    last_line: Instant,
}

impl Terminal {
    /// Shows a bar if standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta} left {msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            current: Mutex::new(Current {
                label: String::new(),
                begun: now,
                last_line: now,
            }),
        }
    }

    /// Removes the bar, before results are printed.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
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
        } else {
            say!("{text}");
        }
        if let Ok(mut current) = self.current.lock() {
            let now = Instant::now();
            *current = Current {
                label: text,
                begun: now,
                last_line: now,
            };
        }
    }

    fn progress(&self, done: usize, total: usize, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(printable(note).into_owned());
            return;
        }
        let Ok(mut current) = self.current.try_lock() else {
            return;
        };
        if current.last_line.elapsed() >= LINE_EVERY && done > 0 {
            current.last_line = Instant::now();
            let left = current.begun.elapsed().as_secs_f64() * (total.saturating_sub(done)) as f64
                / done as f64;
            say!(
                "  {}: {done}/{total} {note} ({} left)",
                current.label,
                duration(left)
            );
        }
    }

    fn end(&self, label: &str, seconds: f64, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Done => self.line(&format!("  {label}: done in {}", duration(seconds))),
            Outcome::Failed(error) => self.line(&format!(
                "  {label}: FAILED after {}: {error}",
                duration(seconds)
            )),
        }
        if let Some(bar) = &self.bar {
            bar.set_prefix("");
            bar.set_length(0);
        }
    }

    fn note(&self, line: &str) {
        self.line(line);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Formats seconds: "4.2 s", "3 min 05 s", "2 h 10 min".
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_readable_units() {
        assert_eq!(duration(4.21), "4.2 s");
        assert_eq!(duration(185.0), "3 min 05 s");
        assert_eq!(duration(7800.0), "2 h 10 min");
    }
}
