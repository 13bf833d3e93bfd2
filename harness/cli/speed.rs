//! `bench speed`: measures one part of a run on this machine.

use tessera_tokenizers::Registry;

use super::args::SpeedOptions;
use super::{Failure, running};
use crate::speed::{self, CASES, Options};

pub fn speed(options: &SpeedOptions, registry: &Registry) -> Result<(), Failure> {
    let Some(case) = &options.case else {
        for case in CASES {
            println!(
                "{:<10} {} ({})",
                case.name,
                case.summary,
                case.presets.join(", ")
            );
        }
        return Ok(());
    };
    let asked = Options {
        case: case.clone(),
        preset: options.preset.clone(),
        batch: options.batch,
        data: options.data.clone(),
    };
    let measured = running::pool(options.threads)?.install(|| speed::measure(&asked, registry))?;
    if options.json {
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    println!(
        "{} {}: {:.4} {}",
        measured.case, measured.preset, measured.value, measured.unit
    );
    Ok(())
}
