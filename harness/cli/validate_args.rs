//! The arguments of `bench validate`.

use std::path::PathBuf;

use clap::Args;

/// Options of `validate`.
#[derive(Debug, Args)]
pub struct ValidateOptions {
    /// The suite file
    pub suite: PathBuf,
    /// Set a field: pretrain.epochs=5
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Refuse rows that start programs (`kind: command`, `kind: python`); without it they are checked but not started
    #[arg(long)]
    pub no_programs: bool,
    /// Print the suite with variables, sweeps and defaults filled in
    #[arg(long)]
    pub resolved: bool,
    /// Print JSON, also of an error: file, line, field and message
    #[arg(long)]
    pub json: bool,
}
