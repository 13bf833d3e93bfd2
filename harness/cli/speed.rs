//! `bench speed`: measures one part of a run on this machine.

use crate::registry::Registry;

use super::args::SpeedOptions;
use super::failure::Failure;
use super::setup_args::Device;
use super::{running, terminal};
use crate::run::environment;
use crate::speed::{self, CASES, Measured, Options};
use crate::stages::common::machine::{Machine, architecture};
use crate::suite::PrecisionChoice;
use tessera_models::Precision;

/// All images of a step are in memory.
const MOST_IMAGES: usize = 1 << 16;

pub fn speed(options: &SpeedOptions, registry: &Registry) -> Result<(), Failure> {
    let Some(case) = &options.case else {
        for case in CASES {
            tell!(
                "{:<10}  {} ({})",
                case.name,
                case.summary,
                case.presets.join(", ")
            )?;
        }
        return Ok(());
    };
    running::at_most("--batch", options.batch, MOST_IMAGES)?;
    all_read(case, options)?;
    if options.ledger {
        return ledger(case, options);
    }
    let (on_gpu, note) = running::place(options.device, tessera_kernels::device::gpu())?;
    if let (Some(_), false) = (options.residual_stream, on_gpu) {
        let found = "found --residual-stream on the CPU, which keeps the residual stream in f32; leave it out, or use --device cuda or --ledger";
        return Err(Failure::Wrong(found.into()));
    }
    if let Some(note) = note {
        say!("{note}");
    }
    let asked = Options {
        case: case.clone(),
        preset: options.preset.clone(),
        batch: options.batch,
        residual_stream: residual_stream(options),
        data: options.data.clone(),
        compute: running::compute(on_gpu, options.precision.into())?,
    };
    let machine = Machine::new(architecture(), &asked.compute, None);
    if let Some(line) = environment::emulation(machine.dtype, &machine.arch) {
        say!("{line}");
    }
    let pool = running::pool(options.threads)?;
    let show = |measured: &Measured| drop(line(measured, options.json));
    let last = pool.install(|| speed::measure(&asked, registry, &show))?;
    Ok(line(&last, options.json)?)
}

/// Refuses options that a case does not read, because its rate would look like one with them.
fn all_read(case: &str, options: &SpeedOptions) -> Result<(), Failure> {
    let given = [
        ("--batch", options.batch.is_some()),
        ("--data", options.data.is_some()),
        ("--residual-stream", options.residual_stream.is_some()),
    ];
    let found = CASES.iter().find(|known| known.name == case);
    let reads = |option: &str| found.is_none_or(|known| known.options.contains(&option));
    match given
        .iter()
        .find(|(option, given)| *given && !reads(option))
    {
        Some((option, _)) => Err(Failure::Wrong(format!(
            "found {option} with case `{case}`, which does not read it; leave it out"
        ))),
        None => Ok(()),
    }
}

fn residual_stream(options: &SpeedOptions) -> Precision {
    let choice = options.residual_stream.map(PrecisionChoice::from);
    choice.unwrap_or(PrecisionChoice::Bf16).on(true)
}

/// Images of a step on the ledger.
const LEDGER_IMAGES: usize = 4096;

fn ledger(case: &str, options: &SpeedOptions) -> Result<(), Failure> {
    if case != "pretrain" {
        let found = format!("found --ledger with case `{case}`, expected pretrain");
        return Err(Failure::Wrong(found));
    }
    let preset = options
        .preset
        .as_deref()
        .unwrap_or(speed::pretrain::PRESETS[0]);
    let images = options.batch.unwrap_or(LEDGER_IMAGES).max(1);
    let (on_gpu, _) = match options.device {
        Device::Cpu => (false, None),
        chosen => running::place(chosen, tessera_kernels::device::gpu())?,
    };
    let shape = speed::pretrain::shape(residual_stream(options));
    let ledger = match on_gpu {
        true => {
            let compute = running::compute(true, PrecisionChoice::Bf16)?;
            speed::ledger::measured(preset, shape, images, compute)?
        }
        false => speed::ledger::ledger(preset, shape, images)?,
    };
    if options.json {
        let text = serde_json::to_string(&ledger).map_err(anyhow::Error::from)?;
        return Ok(terminal::json(&text)?);
    }
    ledger
        .lines()
        .iter()
        .try_for_each(|line| Ok(tell!("{line}")?))
}

fn line(measured: &Measured, json: bool) -> Result<(), String> {
    match serde_json::to_string(measured) {
        Ok(line) if json => terminal::json(&line),
        _ => put!(
            "{:<18} {:<14} {:>12.4} {}{}",
            measured.case,
            measured.preset,
            measured.value,
            measured.unit,
            where_it_ran(measured)
        ),
    }
}

/// Returns the device and type, or nothing for the CPU in f32.
fn where_it_ran(measured: &Measured) -> String {
    match (measured.device, measured.dtype) {
        ("cpu", "f32") => String::new(),
        (device, dtype) => format!(" on {device} in {dtype}"),
    }
}
