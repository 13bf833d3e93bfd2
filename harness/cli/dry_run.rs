//! What `bench run --dry-run` prints, as text and as JSON.

use serde_json::{Value, json};

use super::failure::Failure;
use super::progress::duration;
use crate::run::nodes::PlannedCost;
use crate::run::{DryRun, Planned};
use crate::stages::common::rates::Cost;

/// Prints a line per row and seed, how sure the estimates are, and the total.
pub fn text(plan: &DryRun) -> Result<(), Failure> {
    let rows = &plan.all;
    let mut all = Cost::default();
    for row in rows {
        if let Some(reason) = &row.skipped {
            tell!("{:<40} {reason}", row.name)?;
            continue;
        }
        let stage = |(stage, cost): &(&str, Option<Cost>)| match cost {
            None => format!("{stage} stored"),
            Some(cost) => format!("{stage} to compute ({})", duration(cost.seconds)),
        };
        let stages: Vec<String> = row.stages.iter().map(stage).collect();
        tell!("{:<40} {}", row.name, stages.join(", "))?;
        let cost = sum(row);
        if cost != Cost::default() {
            tell!("{:<40}   in all {}", "", amount(cost))?;
        }
        all = all.then(cost);
    }
    for (stage, count, cost) in by_stage(rows) {
        tell!(
            "{:<40} {}",
            format!("all of {stage} ({count})"),
            amount(cost)
        )?;
    }
    for limit in &plan.limits {
        tell!("{}", limit.line())?;
    }
    for (row, reason) in &plan.guessed {
        tell!("{row:<40}   its costs are guesses: {reason}")?;
    }
    if all != Cost::default() {
        tell!("{SURE}")?;
    }
    tell!(
        "estimate of the whole run on this machine, alone: {}",
        amount(all)
    )?;
    Ok(())
}

/// Returns the stages that are to compute, how often, and their costs in all.
fn by_stage(rows: &[Planned]) -> Vec<(&'static str, usize, Cost)> {
    let mut sums: Vec<(&str, usize, Cost)> = Vec::new();
    for (stage, cost) in rows.iter().flat_map(|row| &row.stages) {
        let Some(cost) = *cost else { continue };
        match sums.iter_mut().find(|sum| sum.0 == *stage) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, sum.then(cost)),
            None => sums.push((stage, 1, cost)),
        }
    }
    sums
}

/// What `--dry-run` says about its errors.
const SURE: &str = "memory and disk were within 30 % of the measured ones on three suites (BENCHMARKS.md); seconds are those of an idle machine, \
                    measured now on a few images and steps, so another program that runs now makes them too high";

fn amount(cost: Cost) -> String {
    let [memory, disk] = [cost.memory, cost.disk].map(|bytes| match bytes {
        ..1e8 => format!("{:.1} MB", bytes / 1e6),
        ..1e9 => format!("{:.0} MB", bytes / 1e6),
        _ => format!("{:.1} GB", bytes / 1e9),
    });
    let seconds = duration(cost.seconds);
    format!("{seconds}, {memory} of memory, {disk} of disk")
}

/// Prints the same as one document.
pub fn json(plan: &DryRun, suite: &str) -> Result<(), Failure> {
    let rows = &plan.all;
    let stage = |(stage, cost): &(&str, Option<Cost>)| json!({"stage": stage, "stored": cost.is_none(), "cost": cost.map(PlannedCost::from)});
    let row = |row: &Planned| {
        json!({
            "name": row.name,
            "row": row.row,
            "seed": row.seed,
            "left_out": row.skipped,
            "stages": row.stages.iter().map(stage).collect::<Vec<_>>(),
            "cost": total(row),
        })
    };
    let stages = by_stage(rows).into_iter().map(|(stage, count, cost)| {
        json!({"stage": stage, "count": count, "cost": PlannedCost::from(cost)})
    });
    let guessed = (plan.guessed.iter()).map(|(row, reason)| json!({"row": row, "reason": reason}));
    let sum = rows.iter().map(sum).fold(Cost::default(), Cost::then);
    let text = json!({
        "suite": suite,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
        "guessed": guessed.collect::<Vec<Value>>(),
        "limits": plan.limits,
        "cost": PlannedCost::from(sum),
    });
    Ok(put_json!(text)?)
}

/// Returns the cost of the stages of a row that are not stored.
fn sum(row: &Planned) -> Cost {
    let costs = row.stages.iter().filter_map(|(_, cost)| *cost);
    costs.fold(Cost::default(), Cost::then)
}

/// Returns the cost of a row; `None` if nothing is to compute.
fn total(row: &Planned) -> Option<PlannedCost> {
    Some(sum(row))
        .filter(|cost| *cost != Cost::default())
        .map(PlannedCost::from)
}
