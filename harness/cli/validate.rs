//! `bench validate`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::failure::{Failure, is_interruption};
use super::running::{allowed, check, check_images, started};
use super::terminal;
use super::validate_args::ValidateOptions;
use crate::data::{Survey, check_two_classes, said_of_single};
use crate::registry::Registry;
use crate::suite::{Suite, SuiteError};

/// Images and files that are named on the terminal.
pub const NAMED: usize = 5;
/// Why `validate` does not know the targets of a program.
const LEFT: &str = "programs are not started here";

pub fn validate(wish: &ValidateOptions, registry: &Registry) -> Result<(), Failure> {
    let checked = checked(wish, registry);
    let path = &wish.suite;
    let (suite, found) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            // A signal says nothing about the suite.
            if wish.json && !is_interruption(&format!("{error:#}")) {
                put_json!(refusal(&error))?;
            }
            return Err(error.into());
        }
    };
    match (wish.resolved, wish.json) {
        (true, false) => {
            let text = suite.resolved_text(registry)?;
            terminal::output(format_args!("{text}"))?;
        }
        (true, true) => put_json!(suite.resolved_value(registry))?,
        (false, true) => put_json!(document(path, &suite, &found, registry))?,
        (false, false) => print(path, &suite, &found, registry)?,
    }
    Ok(())
}

/// Reads and checks the suite, and looks for its images unless only the resolved suite is wanted.
fn checked(wish: &ValidateOptions, registry: &Registry) -> anyhow::Result<(Suite, Survey)> {
    let mut suite = Suite::load(&wish.suite, &wish.set, registry)?;
    let train = suite.file.pretrain.is_some();
    if !train {
        suite.score_only();
    }
    let programs = allowed(wish.no_programs, false);
    check(&mut suite, registry, train, (false, programs))?;
    if wish.resolved {
        return Ok((suite, Survey::default()));
    }
    let found = suite.dataset.survey()?;
    let [images, val] = found.images;
    if let Some(images) = images {
        check_images(&mut suite, registry, images)?;
        if train {
            suite.check_train_size(images)?;
        }
    }
    let has_accuracies = suite.has_accuracies(train);
    if has_accuracies {
        check_two_classes(found.single_class.as_deref())?;
    }
    anyhow::ensure!(
        val != Some(0) || !(train || has_accuracies),
        "training and accuracies need val images; write `dataset: {{hold_out: 0.1}}`, add some, or use `bench score` without `bag_of_tokens`"
    );
    Ok((suite, found))
}

fn print(path: &Path, suite: &Suite, found: &Survey, registry: &Registry) -> Result<(), String> {
    if let [Some(images), Some(val)] = found.images {
        let root = suite.root.as_ref();
        let root = root.map(|root| format!(" in {}", root.display()));
        put!(
            "dataset: {images} train and {val} val images{}",
            root.unwrap_or_default()
        )?;
    }
    for line in found.omitted.lines(NAMED) {
        put!("{line}")?;
    }
    if let [Some(train), _] = found.images {
        for note in suite.cut_batches(train) {
            put!("{note}")?;
        }
    }
    if let Some(class) = &found.single_class {
        put!("{}", said_of_single(class))?;
    }
    let programs: BTreeSet<&str> = started(suite, registry).collect();
    for row in &suite.rows {
        let (name, kind) = (&row.name, row.kind());
        match row.left_out() {
            Some(reason) => put!("{name:<40} {reason}")?,
            None if programs.contains(&name[..]) => {
                put!("{name:<40} {kind}; its targets are not checked: {LEFT}")?;
            }
            None => put!("{name:<40} {kind}")?,
        }
    }
    put!(
        "{}: {} rows x {} seeds, fine",
        path.display(),
        suite.rows.len(),
        suite.file.seeds.len()
    )
}

/// Returns the same as one document.
fn document(path: &Path, suite: &Suite, found: &Survey, registry: &Registry) -> Value {
    let programs: BTreeSet<&str> = started(suite, registry).collect();
    let rows = suite.rows.iter().map(|row| {
        let starts = programs.contains(&row.name[..]);
        let left_out = row.left_out();
        json!({
            "name": row.name,
            "kind": row.kind(),
            "targets_checked": left_out.is_none() && !starts,
            "left_out": left_out,
        })
    });
    json!({
        "valid": true,
        "file": path.display().to_string(),
        "suite": suite.file.name,
        "root": suite.root.as_ref().map(|root| root.display().to_string()),
        "seeds": suite.file.seeds,
        "images": match found.images {
            [Some(train), Some(val)] => json!({"train": train, "val": val}),
            _ => Value::Null,
        },
        "left_out": found.omitted,
        "rows": rows.collect::<Vec<_>>(),
    })
}

/// Returns the document of a suite that is refused.
fn refusal(error: &anyhow::Error) -> Value {
    let at = error
        .downcast_ref::<SuiteError>()
        .and_then(SuiteError::field);
    json!({
        "valid": false,
        "error": {
            "file": at.map(|at| at.file.display().to_string()),
            "line": at.and_then(|at| at.line),
            "field": at.map(|at| &at.field),
            "message": format!("{error:#}"),
        },
    })
}
