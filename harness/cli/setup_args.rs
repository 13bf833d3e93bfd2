//! The arguments that say what is computed, and where.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use tessera_kernels::device::chip::Chip;

use super::failure::Failure;
use super::progress::Verbosity;
use crate::registry::Registry;
use crate::stages::common::machine::named_architecture;
use crate::suite::Suite;

/// Refuses a path that the shell did not expand: `--out=~/runs` would create a folder that is called `~`.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.starts_with("~") {
        true => Err("the shell expands `~` only after a space: write --OPTION ~/PATH, or ./~ for a folder of that name"),
        false => Ok(path),
    })
}

/// Options of `run`, `score`, `plan` and `submit`: what is computed, and where.
#[derive(Debug, ClapArgs)]
pub struct Setup {
    /// The suite file; `score` also takes a folder of images
    pub suite: PathBuf,
    /// The store of finished stages [default: $TESSERA_STORE or runs/.store]
    #[arg(long, value_parser = path())]
    pub store: Option<PathBuf>,
    /// Set a field: pretrain.epochs=5; `tokenizers[]={name: ..}` adds an item (repeatable)
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Only the row of this name, or rows that match a pattern: "K-means *" (repeatable); the run folder keeps its other rows
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// The device to compute on
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Type of matrix products in training and evaluation [default: the suite's, or bf16 on a GPU and f32 on the CPU]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Threads to use [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Show notes and errors, but no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Show also what is taken from the store, with the folder of each entry
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Refuse rows that start programs (`kind: command`, `kind: python`), for suites that you do not trust
    #[arg(long)]
    pub no_programs: bool,
    /// Look up results of machines with this instruction set, which their `bench doctor` prints; computes nothing, so for `plan`, `submit`,
    /// `--dry-run` and `--collect`
    #[arg(long, value_parser = named_architecture)]
    pub arch: Option<String>,
    /// Look up results of machines with this GPU, "NAME, compute capability M.m", which their `bench doctor` prints; for the same verbs as --arch
    #[arg(long, value_name = "GPU")]
    pub gpu: Option<Chip>,
    /// The suite's name and text, if it differs from the file
    #[arg(skip)]
    pub text: Option<(PathBuf, String)>,
    /// The file that has the text, if the suite was copied when it was submitted
    #[arg(skip)]
    pub copy: Option<PathBuf>,
}

impl Setup {
    /// Loads the suite.
    ///
    /// # Errors
    /// Status 2 if it is wrong.
    pub fn load(&self, registry: &Registry) -> Result<Suite, Failure> {
        let Some((name, text)) = &self.text else {
            return Ok(Suite::load(&self.suite, &self.set, registry)?);
        };
        let suite = Suite::of(name, text, &self.set, registry);
        match &self.copy {
            None => Ok(suite?),
            Some(copy) => suite.map_err(|error| {
                let (copy, name) = (copy.display(), name.display());
                Failure::Wrong(format!(
                    "{copy}, read in place of {name}: {error}; this copy was made at the submission: if it is damaged, submit the suite again"
                ))
            }),
        }
    }

    /// Returns how much progress is shown.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// CUDA if the program has it and finds a GPU, else the CPU
    Auto,
    /// The CPU
    Cpu,
    /// A CUDA device
    Cuda,
}

/// A type of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// bf16 on a GPU, f32 on the CPU
    Auto,
    /// f32
    F32,
    /// bf16 with f32 sums; slow on a CPU without AVX-512 BF16
    Bf16,
}
