//! `bench tokenize`: writes one row's targets of a whole split, for other programs.

use std::path::Path;
use std::sync::Arc;

use super::args::{SplitName, TokenizeOptions};
use super::failure::{Failure, STOP};
use super::progress::{Terminal, Verbosity};
use super::running::{self, pool};
use crate::registry::Registry;
use crate::run::{self, TokenFiles};
use crate::stages::common::context::Context;
use crate::suite::Suite;
use tessera_tokenizers::Split;

pub fn tokenize(options: &TokenizeOptions, registry: &Registry) -> Result<(), Failure> {
    let pool = pool(options.threads)?;
    pool.install(|| {
        let mut suite = Suite::load(&options.suite, &options.set, registry)?;
        suite.select(std::slice::from_ref(&options.only))?;
        if let [first, second, ..] = &suite.rows[..] {
            return Err(Failure::Wrong(format!(
                "--only {}: it matches {:?} and {:?}, expected one row",
                options.only, first.name, second.name
            )));
        }
        let terminal = Arc::new(Terminal::new(Verbosity::Normal));
        let store = running::open_store(options.store.as_deref(), &terminal)?;
        let programs = running::allowed(options.no_programs, true);
        running::check(&mut suite, registry, false, (true, programs))?;
        let cx = Context::new(
            &suite,
            registry,
            &store,
            &*terminal,
            &STOP,
            rayon::current_num_threads(),
        );
        let split = match options.split {
            SplitName::Train => Split::Train,
            SplitName::Val => Split::Val,
        };
        let written =
            run::tokenize_split(&cx, split, &options.out).map_err(|e| running::failure(&cx, e))?;
        tell(&written, &options.out)
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
