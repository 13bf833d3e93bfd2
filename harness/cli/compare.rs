//! `bench compare`: compares a newer run with an older one. A regression gives exit status 1.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{anyhow, bail};
use tessera_models::files;
use tessera_reports::Record;
use tessera_reports::compare::{Gate, Regression, Side, cannot_tell, regression};
use tessera_tokenizers::config::nearest;

use super::args::CompareOptions;
use super::failure::Failure;
use super::terminal;
use crate::folder::layout::RESULTS;
use crate::folder::read;

pub fn compare(options: &CompareOptions) -> Result<(), Failure> {
    let found = regression_of(options);
    // First and in every case: an earlier comparison must not stay in the file.
    if let Some(path) = &options.markdown {
        let text = match &found {
            Ok(found) => found.markdown(),
            Err(error) => cannot_tell(&format!("{error:#}")),
        };
        files::write_output(path, text.as_bytes(), &terminal::streams()).map_err(|error| {
            let path = path.display();
            anyhow!("{path}: {error}; make room, or name another file with --markdown FILE")
        })?;
    }
    let found = found?;
    if options.json {
        put_json!(found.json())?;
    } else {
        terminal::fold(&found.text(options.all))?;
    }
    if found.refused {
        return Err(Failure::Wrong(
            "the runs differ in the fields above; compare runs of one suite, or use --force".into(),
        ));
    }
    if !options.json {
        put!("{}", found.verdict())?;
    }
    judge(&found)
}

fn regression_of(options: &CompareOptions) -> anyhow::Result<Regression> {
    let gate = gate(options)?;
    let mut found = regression(&side(&options.old)?, &side(&options.new)?, &gate);
    found.refused = !found.differing.is_empty() && !options.force;
    Ok(found)
}

fn judge(found: &Regression) -> Result<(), Failure> {
    if found.regressed() {
        return Err(Failure::Failed);
    }
    let other_fits = found.other_fits();
    if !other_fits.is_empty() {
        return Err(Failure::Wrong(format!(
            "not comparable, because seeds of codebooks differ: {}; run both with the same `fit_seeds`, and the same `seed` of random codebooks",
            other_fits.join(", ")
        )));
    }
    if !found.no_order().is_empty() {
        return Err(Failure::Wrong(
            "TCAS of these rows has no order, see the note above; use --gate pnmi".into(),
        ));
    }
    if !found.compared() {
        return Err(Failure::Wrong(
            "the runs share no finished row with a deciding metric; see the lines above, `bench runs`, and --gate".into(),
        ));
    }
    let unknown: Vec<String> = found
        .unknown()
        .iter()
        .map(|c| format!("{} of {}", c.metric, c.tokenizer))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "{} changed, and neither run has its standard error; put metrics.csv beside results.csv, or use --tolerance",
        unknown.join(", ")
    )))
}

/// Reads a run folder, or a `results.csv` with `metrics.csv` beside it.
fn side(path: &Path) -> anyhow::Result<Side> {
    let results = if path.is_dir() {
        path.join(RESULTS)
    } else {
        path.to_owned()
    };
    let folder = results.parent().map(Path::to_owned).unwrap_or_default();
    let data = read::measured(&folder, &results)?;
    Ok(Side {
        predicted: (data.predicted().into_iter())
            .chain(data.predicted_top5())
            .collect(),
        metrics: data.metric_rows(),
        records: data.records,
    })
}

fn gate(options: &CompareOptions) -> anyhow::Result<Gate> {
    let mut gate = Gate {
        named: options.gate.clone(),
        ..Gate::default()
    };
    options
        .gate
        .iter()
        .try_for_each(|name| known(name, "--gate"))?;
    let mut given = BTreeSet::new();
    for text in &options.tolerance {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (Some(name), value),
            None => (None, text.as_str()),
        };
        let number = value.parse::<f64>().ok();
        let number = number.filter(|v| *v >= 0.0 && v.is_finite());
        let Some(number) = number else {
            bail!(
                "--tolerance {text}: found {value:?}, expected a finite number of at least 0, or NAME=NUMBER; to let some metrics decide \
                 nothing, name the others with --gate"
            );
        };
        if !given.insert(name) {
            let of = name.map_or("all metrics".to_owned(), |name| format!("`{name}`"));
            bail!("--tolerance {text}: found a second tolerance of {of}, expected one");
        }
        match name {
            Some(name) => {
                known(name, "--tolerance")?;
                if !gate.named.is_empty() && !gate.named.iter().any(|named| named == name) {
                    bail!(
                        "--tolerance {text}: `{name}` decides nothing beside --gate {}; expected a metric of --gate; add --gate {name}, \
                         or leave the tolerance out",
                        gate.named.join(" --gate ")
                    );
                }
                gate.tolerances.insert(name.to_owned(), number);
            }
            None => gate.tolerance = Some(number),
        }
    }
    Ok(gate)
}

fn known(name: &str, option: &str) -> anyhow::Result<()> {
    let names = || Record::compared().map(|c| c.name);
    if names().any(|n| n == name) {
        return Ok(());
    }
    let hint = nearest(name, names())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let all: Vec<&str> = names().collect();
    bail!(
        "{option} {name}: no such metric, expected one of {}{hint}",
        all.join(", ")
    )
}
