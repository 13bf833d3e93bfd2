//! Progress and notes of a run. The command line decides how to show them.

/// Receives stages and their progress, also from worker threads.
pub trait Reporter: Sync {
    /// Stage `index` (from 1) of `total` begins. `seconds_left` is an estimate for the whole run, if available.
    fn begin(&self, label: &str, index: usize, total: usize, seconds_left: Option<f64>);
    /// `done` of `total` units of the current stage are finished.
    fn progress(&self, done: usize, total: usize, note: &str);
    /// The current stage ended after `seconds`.
    fn end(&self, label: &str, seconds: f64, outcome: Outcome<'_>);
    /// Shows a line to the user.
    fn note(&self, line: &str);
    /// Shows a line to a user who asks for details.
    fn detail(&self, _: &str) {}
}

/// How a stage ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With a result.
    Done,
    /// By the user; the next run continues it.
    Interrupted,
    /// With an error, after a stored result that it reads turned out to be damaged.
    Damaged(&'a str),
    /// With an error.
    Failed(&'a str),
}

/// Ignores everything, for other programs and tests.
pub struct Silent;

impl Reporter for Silent {
    fn begin(&self, _: &str, _: usize, _: usize, _: Option<f64>) {}
    fn progress(&self, _: usize, _: usize, _: &str) {}
    fn end(&self, _: &str, _: f64, _: Outcome<'_>) {}
    fn note(&self, _: &str) {}
}
