//! `bench completions` and `bench man`: help for the shell, from the definitions of the arguments.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Args;
use super::failure::Failure;
use super::terminal;

/// Prints the completions of the program that is called `name`.
pub fn completions(shell: Shell, name: &str) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), name, &mut text);
    let text = String::from_utf8_lossy(&text);
    Ok(terminal::output(format_args!("{text}"))?)
}

pub fn man(folder: &Path) -> Result<(), Failure> {
    let whole = || folder.display().to_string();
    fs::create_dir_all(folder).with_context(whole)?;
    clap_mangen::generate_to(Args::command(), folder).with_context(whole)?;
    Ok(put!("{}", folder.join("bench.1").display())?)
}
