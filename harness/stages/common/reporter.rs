//! Progress and notes of a run; the command line decides how they are shown.

/// Receives stages and their progress, from worker threads too.
pub trait Reporter: Sync {
    /// Stage `index` (from 1) of `total` begins. `seconds_left` is an estimate for the whole run, when there is one.
    fn begin(&self, label: &str, index: usize, total: usize, seconds_left: Option<f64>);
    /// `done` of `total` of the current stage.
    fn progress(&self, done: usize, total: usize, note: &str);
    /// The current stage ended after `seconds`.
    fn end(&self, label: &str, seconds: f64, outcome: Outcome<'_>);
    /// Something the user should read.
    fn note(&self, line: &str);
}

/// How a stage ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With a result.
    Done,
    /// With an error.
    Failed(&'a str),
}

/// Says nothing: for programs and tests.
pub struct Silent;

impl Reporter for Silent {
    fn begin(&self, _: &str, _: usize, _: usize, _: Option<f64>) {}
    fn progress(&self, _: usize, _: usize, _: &str) {}
    fn end(&self, _: &str, _: f64, _: Outcome<'_>) {}
    fn note(&self, _: &str) {}
}
