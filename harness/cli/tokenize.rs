//! `bench tokenize`: writes one row's targets of a whole split, for other programs.

use std::path::Path;

use super::args::{SplitName, TokenizeOptions};
use super::failure::Failure;
use super::lookup;
use super::running::{self, Opened};
use super::terminal;
use crate::registry::Registry;
use crate::run::{self, TokenFiles};
use tessera_models::files;
use tessera_tokenizers::Split;

pub fn tokenize(options: &TokenizeOptions, registry: &Registry) -> Result<(), Failure> {
    let setup = &options.setup;
    lookup::check(setup, false)?;
    let [only] = &setup.only[..] else {
        let found = setup.only.len();
        let message = format!("--only: given {found} times, expected the name of one row");
        return Err(Failure::Wrong(message));
    };
    if files::same_file(&options.out, &terminal::streams()).is_some() {
        let message = format!(
            "--out {}: found the standard output or error, expected a file, because labels and names are written beside it",
            options.out.display()
        );
        return Err(Failure::Wrong(message));
    }
    running::within(setup, |on_gpu| {
        let opened = Opened::new(setup, registry, (false, on_gpu), true)?;
        if let [first, second, ..] = &opened.suite.rows[..] {
            return Err(Failure::Wrong(format!(
                "--only {only}: it matches {:?} and {:?}, expected one row",
                first.name, second.name
            )));
        }
        let cx = opened.context(registry)?;
        let split = match options.split {
            SplitName::Train => Split::Train,
            SplitName::Val => Split::Val,
        };
        let written = run::tokenize_split(&cx, split, &options.out);
        tell(
            &written.map_err(|e| running::failure(&cx, e))?,
            &options.out,
        )
    })
}

fn tell(written: &TokenFiles, out: &Path) -> Result<(), Failure> {
    put!(
        "{} images x {} patches -> {}",
        written.images,
        written.patches,
        out.display()
    )?;
    put!("{}", written.labels.display())?;
    put!("{}", written.files.display())?;
    Ok(())
}
