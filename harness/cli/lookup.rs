//! `--arch` and `--gpu`: the machine whose results are looked up.

use tessera_kernels::device::chip::Chip;
use tessera_kernels::device::launcher;
use tessera_models::{Compute, Precision};

use super::failure::Failure;
use super::setup_args::{Device, Setup};
use crate::stages::common::machine::{Machine, architecture};
use crate::suite::PrecisionChoice;

/// Refuses `--arch` and `--gpu` unless the verb only looks results up: this machine would compute under the name of another.
///
/// # Errors
/// Status 2 with the verbs that take them.
pub fn check(setup: &Setup, looks_up: bool) -> Result<(), Failure> {
    let arch = setup.arch.as_ref().map(|arch| format!("--arch {arch}"));
    let gpu = setup.gpu.as_ref().map(|gpu| format!("--gpu \"{gpu}\""));
    if let Some(gpu) = gpu.as_ref().filter(|_| setup.device == Device::Cpu) {
        return Err(Failure::Wrong(format!(
            "--device cpu and {gpu}: expected one of them, because results of a GPU are not those of a CPU"
        )));
    }
    match arch.or(gpu).filter(|_| !looks_up) {
        Some(named) => Err(Failure::Wrong(format!(
            "{named}: this machine would compute results under the name of another; expected it with --dry-run or --collect, or with \
             `bench plan` or `bench submit`"
        ))),
        None => Ok(()),
    }
}

/// What the user names of a machine.
pub struct Lookup {
    arch: Option<String>,
    gpu: Option<(Chip, Precision)>,
}

impl Lookup {
    /// Returns what `setup` names. On a GPU, `precision` has the meaning that it has there.
    pub fn new(setup: &Setup, precision: PrecisionChoice) -> Self {
        let gpu = setup.gpu.clone();
        Self {
            arch: setup.arch.clone(),
            gpu: gpu.map(|chip| (chip, precision.on(true))),
        }
    }

    /// Returns the machine, with what is not named as it is here; `None` if nothing is named.
    pub fn machine(
        &self,
        compute: &Compute,
        launcher: Option<&launcher::Device>,
    ) -> Option<Machine> {
        let arch = || self.arch.clone().unwrap_or_else(architecture);
        match &self.gpu {
            Some((chip, precision)) => Some(Machine::with_gpu(arch(), chip, *precision)),
            None => (self.arch.as_ref()).map(|_| Machine::new(arch(), compute, launcher)),
        }
    }
}
