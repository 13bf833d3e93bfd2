//! The command line: turns arguments into calls and errors into exit statuses. No other module knows either.

#[macro_use]
mod terminal;

mod args;
mod compare;
mod doctor;
mod dry_run;
mod failure;
mod fetch;
mod fetch_args;
mod help;
mod list;
mod lookup;
mod node;
mod plan;
mod process;
mod progress;
mod reports;
mod running;
mod runs;
mod setup_args;
mod speed;
mod start;
mod store;
mod submit;
mod theory;
mod tokenize;
mod validate;
mod validate_args;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::registry::Registry;
use clap::Parser;

use args::{Args, Verb};

use failure::{Failure, STOP};

/// Signals within this time count as one.
const ONE_SIGNAL: Duration = Duration::from_millis(200);

/// The whole `bench` program over `registry`: parses the arguments, runs, returns the exit status.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     tessera::bench(tessera::Registry::builtin())
/// }
/// ```
///
/// Call it first in `main`, before any thread is started.
pub fn bench(registry: Registry) -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let program = std::env::current_exe();
    let program = program.unwrap_or_else(|_| words.first().map(PathBuf::from).unwrap_or_default());
    #[cfg(feature = "onnx")]
    crate::onnx::guard_with(vec![program.clone().into()]);
    ExitCode::from(bench_as(&program, words, registry))
}

/// [`bench()`] for a process that an interpreter started: `words` is the command line, `program` the file that nodes of a submitted suite start in
/// place of the interpreter. Returns the exit status.
pub fn bench_as(program: &Path, words: Vec<OsString>, registry: Registry) -> u8 {
    let start = Instant::now();
    process::prepare();
    #[cfg(feature = "onnx")]
    if words.get(1).is_some_and(|word| word == crate::onnx::GUARD) {
        return u8::from(put!("{}", crate::onnx::guarded()).is_err());
    }
    let args = match Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => {
            if let Err(message) = terminal::is_written(error.print()) {
                say!("error: {message}");
                return 2;
            }
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    process::called(program, words);
    // Other verbs have no state: a signal ends them immediately.
    if let Verb::Run(_)
    | Verb::Score(_)
    | Verb::Plan(_)
    | Verb::Submit(_)
    | Verb::Node(_)
    | Verb::Tokenize(_)
    | Verb::Fetch(_)
    | Verb::Validate(_) = args.verb
    {
        stop_on_signals();
    }
    let failure = match dispatch(args, &registry) {
        Ok(()) => return 0,
        // A row's check.
        Err(Failure::Wrong(message)) if failure::is_interruption(&message) => {
            Failure::Interrupted { kept: false }
        }
        Err(failure) => failure,
    };
    match &failure {
        Failure::Wrong(message) => say!("error: {message}"),
        Failure::Interrupted { .. } => {
            let seconds = progress::duration(start.elapsed().as_secs_f64());
            say!("interrupted after {seconds}; run the same command again to resume");
        }
        Failure::Failed | Failure::Waits => {}
    }
    failure.status()
}

/// Sets [`STOP`] at the first signal and ends the process at the second.
fn stop_on_signals() {
    let mut first_signal: Option<Instant> = None;
    process::on_signals(move || match first_signal {
        // A closing terminal sends its signal more than once.
        Some(first) if first.elapsed() < ONE_SIGNAL => {}
        Some(_) => std::process::exit(130),
        None => {
            first_signal = Some(Instant::now());
            STOP.store(true, Ordering::SeqCst);
            say!(
                "stopping after the current step and keeping its state; interrupt again to stop at once"
            );
        }
    });
}

fn dispatch(args: Args, registry: &Registry) -> Result<(), Failure> {
    // Completions and pages of the manual are made where the program is built.
    if !matches!(args.verb, Verb::Completions { .. } | Verb::Man { .. }) {
        tessera_kernels::variables::check()?;
    }
    match args.verb {
        Verb::Run(options) => running::run(&options, registry, true),
        Verb::Score(options) => start::score(options, registry),
        Verb::Fetch(options) => fetch::fetch(&options),
        Verb::Init(options) => start::init(options, registry),
        Verb::Plan(options) => plan::plan(&options, registry),
        Verb::Submit(options) => submit::submit(&options, registry),
        Verb::Node(options) => node::node(&options, registry),
        Verb::Report {
            run,
            tables,
            with,
            paper,
        } => match (run, paper) {
            (Some(run), _) => reports::report(&run, &tables, &with),
            (None, paper) => reports::paper(&paper.unwrap_or_default()),
        },
        Verb::Compare(options) => compare::compare(&options),
        Verb::Validate(options) => validate::validate(&options, registry),
        Verb::Schema => list::schema(registry),
        Verb::List { what, json } => list::list(what, json, registry),
        Verb::Tokenize(options) => tokenize::tokenize(&options, registry),
        Verb::Runs { folder, json } => runs::runs(&folder, json),
        Verb::Theory(options) => theory::theory(&options),
        Verb::Speed(options) => speed::speed(&options, registry),
        Verb::Completions { shell, name } => help::completions(shell, &name),
        Verb::Man { folder } => help::man(&folder),
        Verb::Doctor { store, data, json } => {
            doctor::doctor(store.as_deref(), data.as_deref(), json)
        }
        Verb::Store { store, what } => store::store(store.as_deref(), &what),
    }
}
