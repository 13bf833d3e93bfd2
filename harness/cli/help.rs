//! `bench completions` and `bench man`: help for the shell, from the definitions of the arguments.

use std::fs;
use std::path::Path;

use anyhow::anyhow;
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
    let written =
        fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Args::command(), folder));
    written.map_err(|error| {
        let folder = folder.display();
        anyhow!("{folder}: {error}; make room, or name a writable folder")
    })?;
    Ok(put!("{}", folder.join("bench.1").display())?)
}
