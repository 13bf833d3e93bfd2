//! Comparison of two runs: which metric changed, by how much, and whether that exceeds its error. CI uses it as a gate.
//!
//! A regression is *worse in the metric's declared direction by more than the larger of the tolerance and twice the standard
//! error of the difference*. Metrics without a direction, and seconds, never gate unless they are named. Numbers that depend on
//! codebooks of different fit seeds are not judged, unless their errors cover the fits.

mod error;
mod show;
mod side;

use std::collections::BTreeMap;

use error::{FITS, Paired, ROUNDING, error};
pub use show::cannot_tell;
pub use side::Side;

use crate::apart::{Difference, differences, one_sided_fits, other_fits, otherwise};
use crate::chance::{Excess, PNMI, TCAS};
use crate::column::{Better, Column, Group};
use crate::columns::Record;
use crate::seeds::names;

/// What counts as a regression.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Smallest change that counts, in the unit of each metric.
    pub tolerance: Option<f64>,
    /// Smallest changes of single metrics.
    pub tolerances: BTreeMap<String, f64>,
    /// Metrics that decide the exit status; empty means all with a direction.
    pub named: Vec<String>,
}

/// Change of one metric of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row.
    pub tokenizer: String,
    /// The metric.
    pub metric: &'static str,
    /// Mean over the seeds that both runs have.
    pub old: f64,
    /// Mean of the same seeds in the new run.
    pub new: f64,
    /// Standard error of the difference.
    pub se: Option<f64>,
    /// Source of the error.
    pub by: &'static str,
    /// Whether it is better or worse.
    pub verdict: Verdict,
    /// Whether it decides the exit status.
    pub gates: bool,
}

/// The meaning of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Equal, or within the error.
    Same,
    /// Better beyond the error.
    Better,
    /// Worse beyond the error.
    Worse,
    /// Changed beyond the error, with no direction.
    Moved,
    /// Changed, but neither error nor tolerance is known.
    Unknown,
    /// Depends on codebooks of different fit seeds, and no error covers that.
    OtherFit,
    /// TCAS, where it and PNMI contradict each other above its null.
    NoOrder,
}

/// The comparison of two runs.
#[derive(Clone, Debug, Default)]
pub struct Regression {
    /// Metric by metric.
    pub changes: Vec<Change>,
    /// Rows and numbers of the old run that are missing or fail in the new run.
    pub lost: Vec<String>,
    /// Cells of the old run without a result.
    pub unfinished: Vec<String>,
    /// Rows and seeds that only the new run has.
    pub added: Vec<String>,
    /// Whether the runs differ so that nothing is judged, because nobody asked for it. [`regression`] leaves it false.
    pub refused: bool,
    /// Why the runs should not be compared: different images, class list, codebook or recipe.
    pub differing: Vec<String>,
    /// What else differs: how the numbers were computed, and images or fit seeds that only one run knows.
    pub otherwise: Vec<String>,
    /// What the numbers do not say.
    pub notes: Vec<String>,
}

/// The column of the pretraining loss, whose targets are codes.
const LOSS: &str = Record::column("pretrain_loss").name;

/// What is said of a row whose TCAS has no order.
const NO_ORDER: &str = "TCAS and PNMI contradict each other, and TCAS is above its null by more than chance, so its order says nothing (two classes, or one \
                        large class); gate by pnmi";

/// The verdict if nothing can be judged.
const CANNOT_TELL: &str = "cannot tell";

/// Compares `new` with `old`.
pub fn regression(old: &Side, new: &Side, gate: &Gate) -> Regression {
    let mut out = Regression::default();
    let (all_before, all_after) = (old.by_tokenizer(), new.by_tokenizer());
    let absent = Side::default();
    for name in names(&old.records) {
        let old = &all_before[name];
        let new = all_after.get(name).unwrap_or(&absent);
        let before: Vec<&Record> = old.records.iter().collect();
        let after: Vec<&Record> = new.records.iter().collect();
        let unfinished = before.iter().filter(|r| r.status != "ok");
        let unfinished =
            unfinished.map(|r| format!("{name}, seed {}: {} in the old run", r.seed, r.status));
        out.unfinished.extend(unfinished);
        let before: Vec<&Record> = before.into_iter().filter(|r| r.status == "ok").collect();
        if before.is_empty() {
            continue;
        }
        if after.is_empty() {
            out.lost.push(format!("{name}: is missing"));
            continue;
        }
        out.lost.extend(lost_seeds(name, &before, &after));
        let told = |all: Vec<Difference>| all.into_iter().map(|d| d.text(name));
        out.differing.extend(told(differences(before[0], after[0])));
        out.otherwise.extend(told(otherwise(before[0], after[0])));
        let fits = one_sided_fits(before[0], after[0]);
        out.otherwise.extend(fits.map(|d| d.text(name)));
        if has_no_order((old, before[0]), (new, after[0])) {
            out.notes.push(format!("{name}: {NO_ORDER}"));
        }
        for column in Record::compared() {
            if gates(column, gate) {
                out.lost.extend(lost_number(column, name, &before, &after));
            }
            out.changes
                .extend(change(column, name, (old, &before), (new, &after), gate));
        }
    }
    let of_new = names(&new.records).into_iter();
    out.added = of_new
        .filter_map(|name| added(name, all_before.get(name), &all_after[name]))
        .collect();
    out
}

/// Says if only the new run has a row, or seeds of it.
fn added(name: &str, old: Option<&Side>, new: &Side) -> Option<String> {
    let Some(old) = old else {
        return Some(format!("{name}: is only in the new run"));
    };
    let is_new = |r: &&Record| old.records.iter().all(|old| old.seed != r.seed);
    let seeds = new.records.iter().filter(is_new);
    let seeds = Vec::from_iter(seeds.map(|r| r.seed.to_string())).join(", ");
    (!seeds.is_empty()).then(|| format!("{name}, seed {seeds}: only in the new run"))
}

/// Returns whether a column decides the exit status.
fn gates(column: &'static Column, gate: &Gate) -> bool {
    match gate.named.is_empty() {
        true => column.better != Better::Undirected,
        false => gate.named.iter().any(|n| n == column.name),
    }
}

/// Lists seeds that are missing or fail in the new run.
fn lost_seeds(name: &str, before: &[&Record], after: &[&Record]) -> Vec<String> {
    let lost = |old: &&Record| match after.iter().find(|r| r.seed == old.seed) {
        None => Some(format!("{name}, seed {}: is missing", old.seed)),
        Some(new) if new.status != "ok" => {
            let state = format!("{} {}", new.status, new.error);
            Some(format!("{name}, seed {}: {}", old.seed, state.trim()))
        }
        Some(_) => None,
    };
    before.iter().filter_map(lost).collect()
}

/// Returns a note if a number of the old run is missing in the new run, for a seed that did not fail.
fn lost_number(
    column: &'static Column,
    name: &str,
    before: &[&Record],
    after: &[&Record],
) -> Option<String> {
    let lost = |old: &&&Record| {
        let new = after
            .iter()
            .find(|r| r.seed == old.seed && r.status == "ok");
        old.number(column).is_some() && new.is_some_and(|new| new.number(column).is_none())
    };
    let old = before.iter().find(lost)?;
    Some(format!(
        "{name}, seed {}: has no {} any more",
        old.seed, column.name
    ))
}

/// Returns whether a column depends on the codebook.
fn is_of_codebook(column: &Column) -> bool {
    let depends = matches!(
        column.group,
        Group::Metric | Group::Encoder | Group::Accuracy
    );
    depends || column.name == LOSS
}

fn change(
    column: &'static Column,
    name: &str,
    (old, before): (&Side, &[&Record]),
    (new, after): (&Side, &[&Record]),
    gate: &Gate,
) -> Option<Change> {
    let shared = Vec::from_iter(before.iter().filter_map(|b| {
        let a = after.iter().find(|a| a.seed == b.seed)?;
        Some((b.seed, (b.number(column)?, a.number(column)?)))
    }));
    if shared.is_empty() {
        return None;
    }
    let (seeds, pairs): (Vec<u64>, Vec<(f64, f64)>) = shared.into_iter().unzip();
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
    let (was, is) = (mean(|p| p.0), mean(|p| p.1));
    let paired = Paired {
        seeds,
        pairs,
        n_val: (before[0].n_val, after[0].n_val),
        same_images: before[0].has_images_of(after[0]),
    };
    let (se, by) = error(column, name, (old, new), &paired);
    let named = gate.named.iter().any(|n| n == column.name);
    let tolerance = gate.tolerances.get(column.name).copied().or(gate.tolerance);
    let other_fits = is_of_codebook(column) && other_fits(before[0], after[0]) && by != FITS;
    let has_no_order = is_alignment(column) && has_no_order((old, before[0]), (new, after[0]));
    let verdict = match other_fits && is != was {
        true => Verdict::OtherFit,
        false if has_no_order => Verdict::NoOrder,
        false => verdict(column.better, named, (was, is), se, tolerance),
    };
    Some(Change {
        tokenizer: name.to_owned(),
        metric: column.name,
        old: was,
        new: is,
        se: se.filter(|_| !other_fits),
        by: if other_fits { "" } else { by },
        verdict,
        gates: gates(column, gate) && (named || verdict != Verdict::NoOrder),
    })
}

/// Returns whether a column is TCAS in one of its forms.
fn is_alignment(column: &Column) -> bool {
    column.name.starts_with(TCAS.name)
}

/// Returns whether TCAS and PNMI of a row say opposite things, and TCAS of one side is above its null although its codes tell classes.
fn has_no_order(old: (&Side, &Record), new: (&Side, &Record)) -> bool {
    let change = |column: &Column| Some(new.1.number(column)? - old.1.number(column)?);
    let both = change(TCAS).zip(change(PNMI));
    let above =
        |(side, record): (&Side, &Record)| Excess::without_order(record, &side.metrics).is_some();
    both.is_some_and(|(tcas, pnmi)| tcas * pnmi > 0.0) && (above(old) || above(new))
}

fn verdict(
    better: Better,
    named: bool,
    (old, new): (f64, f64),
    se: Option<f64>,
    tolerance: Option<f64>,
) -> Verdict {
    let difference = new - old;
    let rounding = ROUNDING * old.abs().max(new.abs());
    if difference.abs() <= rounding {
        return Verdict::Same;
    }
    let limit = match (tolerance, se) {
        (None, None) => return Verdict::Unknown,
        (tolerance, se) => tolerance.unwrap_or(0.0).max(2.0 * se.unwrap_or(0.0)),
    };
    // Where the limit equals the difference, the last bit must not decide.
    if difference.abs() <= limit + rounding {
        return Verdict::Same;
    }
    let worse = match better {
        Better::Higher => difference < 0.0,
        Better::Lower => difference > 0.0,
        Better::Undirected if named => difference > 0.0,
        Better::Undirected => return Verdict::Moved,
    };
    if worse {
        Verdict::Worse
    } else {
        Verdict::Better
    }
}

impl Regression {
    /// Returns whether a gating column got worse or a row was lost, if the runs are judged.
    pub fn regressed(&self) -> bool {
        let worse = |c: &Change| c.gates && c.verdict == Verdict::Worse;
        !self.refused && (!self.lost.is_empty() || self.changes.iter().any(worse))
    }

    /// Returns whether any gating metric was compared.
    pub fn compared(&self) -> bool {
        let not_judged = [Verdict::OtherFit, Verdict::NoOrder];
        let judged = |c: &Change| c.gates && !not_judged.contains(&c.verdict);
        self.changes.iter().any(judged)
    }

    /// Returns the rows with a gating column that depends on codebooks of different fit seeds.
    pub fn other_fits(&self) -> Vec<&str> {
        let other = |c: &&Change| c.gates && c.verdict == Verdict::OtherFit;
        let mut names: Vec<&str> = Vec::new();
        for change in self.changes.iter().filter(other) {
            if !names.contains(&change.tokenizer.as_str()) {
                names.push(&change.tokenizer);
            }
        }
        names
    }

    /// Returns the gating columns without an order.
    pub fn no_order(&self) -> Vec<&Change> {
        let no_order = |c: &&Change| c.gates && c.verdict == Verdict::NoOrder;
        self.changes.iter().filter(no_order).collect()
    }

    /// Returns the gating columns that changed without a known error or tolerance.
    pub fn unknown(&self) -> Vec<&Change> {
        let unknown = |c: &&Change| c.gates && c.verdict == Verdict::Unknown;
        self.changes.iter().filter(unknown).collect()
    }

    /// Returns the verdict in a few words.
    pub fn verdict(&self) -> &'static str {
        if self.refused {
            return CANNOT_TELL;
        }
        let known = self.unknown().is_empty() && self.no_order().is_empty();
        let told = known && self.other_fits().is_empty();
        let judged = self.compared() && told;
        match (self.regressed(), judged) {
            (true, _) => "regression",
            (false, false) => CANNOT_TELL,
            (false, true) => "no regression",
        }
    }
}

#[cfg(test)]
mod tests;
