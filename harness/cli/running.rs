//! `bench run` and `bench score`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::registry::Registry;
use tessera_models::Compute;
use tessera_tokenizers::{BuildContext, Programs};

use super::args::RunOptions;
use super::dry_run;
use super::failure::{Failure, STOP};
use super::lookup::{self, Lookup};
use super::process;
use super::progress::{Terminal, duration};
use super::setup_args::{Device, Precision, Setup};
use super::store;
use crate::folder::earlier::Earlier;
use crate::folder::held::RunFolder;
use crate::folder::layout::RESULTS;
use crate::run::live::Announcer;
use crate::run::nodes::{self, NodeEnd};
use crate::run::{self, Depth, Finished};
use crate::stages::common::context::Context;
use crate::stages::common::reporter::Reporter;
use crate::store::Store;
use crate::suite::{PrecisionChoice, Row, Suite, SuiteError, names};

pub fn run(options: &RunOptions, registry: &Registry, train: bool) -> Result<(), Failure> {
    at_most("--workers", options.workers, MOST_THREADS)?;
    lookup::check(&options.setup, options.dry_run || options.collects())?;
    within(&options.setup, |on_gpu| {
        let mut opened = Opened::new(&options.setup, registry, (train, on_gpu), !options.dry_run)?;
        match &options.node {
            Some(id) if !options.collects() => opened.node(options, registry, id),
            _ if options.dry_run => opened.dry_run(options, registry),
            _ => opened.run(options, registry),
        }
    })
}

/// Calls `work` in the thread pool, and passes whether to compute on a GPU. None is opened to look results of a named one up.
pub fn within(
    setup: &Setup,
    work: impl FnOnce(bool) -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    let (on_gpu, note) = match setup.gpu {
        Some(_) => (false, None),
        None => place(setup.device, tessera_kernels::device::gpu())?,
    };
    if let Some(note) = note {
        say!("{note}");
    }
    pool(setup.threads)?.install(|| work(on_gpu))
}

/// Returns whether to compute on a GPU, and a note for the user.
///
/// # Errors
/// Status 2 if a GPU is requested but unavailable, with the reason.
pub fn place(
    chosen: Device,
    gpu: Result<String, String>,
) -> Result<(bool, Option<String>), Failure> {
    let has_cuda = tessera_kernels::device::has_cuda();
    let reason = match (chosen, gpu) {
        (Device::Cpu, _) => return Ok((false, None)),
        (_, Ok(_)) => return Ok((true, None)),
        (_, Err(reason)) if has_cuda => reason,
        (_, Err(reason)) => format!("{reason}: {}", tessera_kernels::device::BUILD),
    };
    match chosen {
        Device::Cuda => Err(Failure::Wrong(format!(
            "--device cuda: {reason}; use --device cpu"
        ))),
        _ => Ok((false, has_cuda.then(|| format!("on the CPU: {reason}")))),
    }
}

/// Opens the device with the type of its products.
///
/// # Errors
/// Status 2 if the device cannot be opened.
pub fn compute(on_gpu: bool, precision: PrecisionChoice) -> Result<Compute, Failure> {
    let precision = precision.on(on_gpu);
    match on_gpu {
        true => Compute::cuda(precision)
            .map_err(|e| Failure::Wrong(format!("--device cuda: {e}; use --device cpu"))),
        false => Ok(Compute::cpu(precision)),
    }
}

impl From<Precision> for PrecisionChoice {
    fn from(chosen: Precision) -> Self {
        match chosen {
            Precision::Auto => Self::Auto,
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// A checked suite with its store and device.
pub struct Opened {
    /// The suite.
    pub suite: Suite,
    store: Store,
    terminal: Arc<Terminal>,
    compute: Compute,
    programs: Programs,
    lookup: Lookup,
    /// Whether the store was made now.
    is_new: bool,
    /// Extent of the run.
    pub depth: Depth,
}

impl Opened {
    /// Loads and checks a suite. `fetch` allows downloads of models and programs.
    ///
    /// # Errors
    /// Status 2 if the suite is wrong, or if store or device cannot be opened.
    pub fn new(
        setup: &Setup,
        registry: &Registry,
        (train, on_gpu): (bool, bool),
        fetch: bool,
    ) -> Result<Self, Failure> {
        let mut suite = setup.load(registry)?;
        suite.select(&setup.only)?;
        let precision = setup.precision.map(PrecisionChoice::from);
        let precision = precision.unwrap_or(suite.file.precision);
        suite.set_precision(precision);
        let compute = compute(on_gpu, precision)?;
        let train = train && suite.file.pretrain.is_some();
        if !train {
            suite.score_only();
        }
        let programs = allowed(setup.no_programs, fetch);
        check(&mut suite, registry, train, (fetch, programs))?;
        let folder = store::folder(setup.store.as_deref());
        suite.check_outside("--store", &folder)?;
        let terminal = Arc::new(Terminal::new(setup.verbosity()));
        if programs == Programs::Leave {
            for row in started(&suite, registry) {
                terminal.note(&format!("{row}: {UNKNOWN}"));
            }
        }
        Ok(Self {
            lookup: Lookup::new(setup, precision),
            is_new: !folder.exists(),
            store: open_store(setup.store.as_deref(), &terminal)?,
            suite,
            terminal,
            compute,
            programs,
            depth: if train { Depth::All } else { Depth::Score },
        })
    }

    /// Returns the context of a computation.
    ///
    /// # Errors
    /// Status 2 if the device has no launcher.
    pub fn context<'a>(&'a self, registry: &'a Registry) -> Result<Context<'a>, Failure> {
        let threads = rayon::current_num_threads();
        let (suite, store, terminal) = (&self.suite, &self.store, &*self.terminal);
        let mut cx = Context::new(suite, registry, store, terminal, &STOP, threads);
        cx.launcher = tessera_kernels::device::beside(self.compute.device())
            .map_err(|e| Failure::Wrong(format!("--device cuda: {e}; use --device cpu")))?;
        cx.compute = self.compute.clone();
        cx.programs = self.programs;
        cx.looked_up = self.lookup.machine(&cx.compute, cx.launcher.as_ref());
        cx.command = Some(process::command_line());
        Ok(cx)
    }

    /// Returns the context of a run.
    fn of_run<'a>(
        &'a self,
        options: &RunOptions,
        registry: &'a Registry,
    ) -> Result<Context<'a>, Failure> {
        let mut cx = self.context(registry)?;
        cx.checkpoint_every = checkpoint_every(options.checkpoint_every)?;
        cx.scan.clone_from(&options.scan);
        // Loader threads keep a GPU busy. On a CPU they would only compete with the training threads.
        let on_gpu = self.compute.device().is_cuda();
        cx.workers = options
            .workers
            .unwrap_or(if on_gpu { cx.threads } else { 0 });
        Ok(cx)
    }

    /// Returns the context of a command that computes no result; a plan only stores the scan. Says if the store is new.
    ///
    /// # Errors
    /// As for [`context`](Self::context).
    pub fn planner<'a>(&'a self, registry: &'a Registry) -> Result<Context<'a>, Failure> {
        self.note_new_store();
        let mut cx = self.context(registry)?;
        cx.fetch = false;
        Ok(cx)
    }

    /// Says that the store was made now: a mistyped path looks like a suite without results.
    fn note_new_store(&self) {
        if self.is_new {
            let store = self.store.root().display();
            self.terminal.note(&format!(
                "the store {store} is new and has no results; if you expected some, check --store and TESSERA_STORE"
            ));
        }
    }

    /// Says on the terminal if the models' products are emulated.
    pub fn warn_of_emulation(&self, cx: &Context<'_>) {
        let machine = cx.machine();
        let line = run::environment::emulation(machine.dtype, &machine.arch);
        if let Some(line) = line.filter(|_| self.depth == Depth::All) {
            self.terminal.note(&line);
        }
    }

    fn dry_run(&self, options: &RunOptions, registry: &Registry) -> Result<(), Failure> {
        self.note_new_store();
        let mut cx = self.of_run(options, registry)?;
        cx.fetch = false;
        self.warn_of_emulation(&cx);
        let plan = run::dry_run(&cx, self.depth).map_err(|e| failure(&cx, e))?;
        self.terminal.clear();
        match options.json {
            true => dry_run::json(&plan, &self.suite.file.name),
            false => dry_run::text(&plan),
        }
    }

    fn node(&self, options: &RunOptions, registry: &Registry, id: &str) -> Result<(), Failure> {
        let cx = self.of_run(options, registry)?;
        self.warn_of_emulation(&cx);
        match nodes::run_node(&cx, self.depth, id).map_err(|e| failure(&cx, e))? {
            NodeEnd::Stored => Ok(put!("{id}: stored")?),
            NodeEnd::Waits(ids) => {
                say!("{id} waits for {}", ids.join(", "));
                Err(Failure::Waits)
            }
            NodeEnd::Failed(error) => {
                say!("{id}: {error}");
                Err(Failure::Failed)
            }
        }
    }

    /// Returns the run folder.
    ///
    /// # Errors
    /// Status 2 if it lies among the images.
    pub fn out(&self, given: Option<&Path>) -> Result<PathBuf, Failure> {
        let default = || Path::new("runs").join(&self.suite.file.name);
        let out = given.map_or_else(default, Path::to_owned);
        self.suite.check_outside("--out", &out)?;
        Ok(out)
    }

    fn run(&mut self, options: &RunOptions, registry: &Registry) -> Result<(), Failure> {
        let start = std::time::Instant::now();
        let out = self.out(options.out.as_deref())?;
        checkpoint_every(options.checkpoint_every)?;
        let with = (&options.setup.only[..], self.programs);
        let is_again = out.join(RESULTS).exists();
        let folder = prepare(&mut self.suite, &out, registry, with)?;
        let mut cx = self.of_run(options, registry)?;
        let announcer = Announcer::new(&*self.terminal, &folder);
        cx.reporter = &announcer;
        self.terminal.log_into(&out);
        let rows = self.suite.shown().into_iter().map(|row| &row.name[..]);
        let baseline = self.suite.file.baseline.as_deref();
        if let Some(note) = names::without_baseline(baseline, rows) {
            self.terminal.note(&note);
        }
        for line in run::environment::greeting(&cx) {
            self.terminal.note(&line);
        }
        if options.collects() || is_again {
            self.note_new_store();
        }
        if !options.collects() {
            self.warn_of_emulation(&cx);
        }
        let ended = match options.collects() {
            true => nodes::collect(&cx, self.depth, (&folder, options.awaits)),
            false => run::run(&cx, self.depth, &folder).map(|finished| (finished, Vec::new())),
        };
        let (finished, missing) = ended.map_err(|e| failure(&cx, e))?;
        drop(cx);
        drop(announcer);
        self.terminal.clear();
        summarize(&finished, &out, start.elapsed().as_secs_f64())?;
        if !missing.is_empty() {
            let all = missing.join(", ");
            say!("nodes without a result: {all}; compute them with `bench run --node`, or wait");
            return Err(Failure::Waits);
        }
        Ok(())
    }
}

/// Prints the summary of a run.
fn summarize(finished: &Finished, out: &Path, seconds: f64) -> Result<(), Failure> {
    put!("{}", finished.summary)?;
    put!("{} in {}", out.join(RESULTS).display(), duration(seconds))?;
    let (failed, cells) = (finished.failed, finished.cells);
    if finished.incomplete > 0 {
        let incomplete = finished.incomplete;
        say!(
            "{incomplete} of {cells} cells have all numbers but no pictures; see the column `error`"
        );
    }
    if failed == 0 {
        return Ok(());
    }
    say!("{failed} of {cells} cells failed; see the column `error`");
    Err(Failure::Failed)
}

/// Checks `--checkpoint-every`.
pub fn checkpoint_every(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let expected = "expected a finite number of seconds of at least 0";
        Failure::Wrong(format!("--checkpoint-every {seconds}: {expected}"))
    })
}

/// Creates and locks the run folder. With `--only`, keeps the rows that it has from an earlier run.
fn prepare(
    suite: &mut Suite,
    out: &Path,
    registry: &Registry,
    (only, programs): (&[String], Programs),
) -> Result<RunFolder, Failure> {
    let folder = RunFolder::prepare(out, &suite.file.name, &process::command_line())?;
    if !only.is_empty() {
        let earlier = Earlier::rows(out)?;
        factories(suite, registry, (false, programs), |suite, build| {
            suite.keep(earlier, build)
        })?;
    }
    Ok(folder)
}

/// Opens the store. It reports damage on the terminal as long as the terminal exists.
pub fn open_store(folder: Option<&Path>, terminal: &Arc<Terminal>) -> Result<Store, Failure> {
    let terminal = Arc::downgrade(terminal);
    let store = Store::open(&store::folder(folder))?;
    Ok(store.telling(move |line| {
        if let Some(terminal) = terminal.upgrade() {
            terminal.note(line);
        }
    }))
}

/// Converts an error of a run into an exit status.
pub fn failure(cx: &Context<'_>, error: anyhow::Error) -> Failure {
    if cx.interrupted() {
        return Failure::Interrupted {
            kept: cx.store.kept(),
        };
    }
    Failure::Wrong(format!("{error:#}"))
}

/// Returns what may happen to programs; `starts` is whether this call computes.
pub fn allowed(refused: bool, starts: bool) -> Programs {
    match (refused, starts) {
        (true, _) => Programs::Refuse,
        (false, true) => Programs::Start,
        (false, false) => Programs::Leave,
    }
}

/// What is said about a row whose program is not started.
const UNKNOWN: &str =
    "its program is not started here, so its stages count as missing and its costs are guesses";

/// Returns the names of the rows that start programs.
pub fn started<'a>(suite: &'a Suite, registry: &'a Registry) -> impl Iterator<Item = &'a str> {
    let rows = suite.rows.iter().filter(|row| row.skip.is_none());
    let starts = |row: &&Row| {
        let factory = (row.tokenizer.as_ref()).map(|(kind, with)| registry.tokenizer(kind, with));
        factory.is_some_and(|found| found.is_ok_and(|factory| factory.starts_programs()))
    };
    rows.filter(starts).map(|row| row.name.as_str())
}

/// Makes every factory check its row before any work. `fetch` allows downloads of models.
pub fn check(
    suite: &mut Suite,
    registry: &Registry,
    train: bool,
    (fetch, programs): (bool, Programs),
) -> Result<(), SuiteError> {
    if let Some(note) = &suite.note {
        say!("{note}");
    }
    factories(suite, registry, (fetch, programs), Suite::check_rows)?;
    match train {
        true => suite.check_training(registry),
        false => Ok(()),
    }
}

/// Checks the rows of a suite that has at most `train` train images, of which some may not decode.
pub fn check_images(
    suite: &mut Suite,
    registry: &Registry,
    train: usize,
) -> Result<(), SuiteError> {
    factories(suite, registry, (false, Programs::Leave), |suite, build| {
        suite.recheck_rows(&BuildContext {
            at_most: Some(train),
            ..*build
        })
    })
}

/// Calls `work` with the context of factories before the images are known.
fn factories(
    suite: &mut Suite,
    registry: &Registry,
    (fetch, programs): (bool, Programs),
    work: impl FnOnce(&mut Suite, &BuildContext<'_>) -> Result<(), SuiteError>,
) -> Result<(), SuiteError> {
    let told = AtomicUsize::new(0);
    let build = BuildContext {
        device: None,
        image_size: suite.file.image_size,
        grid: suite.grid(),
        registry,
        threads: rayon::current_num_threads(),
        images: None,
        at_most: None,
        names: None,
        order: None,
        labels: None,
        rows: &tessera_tokenizers::no_rows,
        finest: suite.finest,
        fetch,
        programs,
        progress: &|done, total, note| tell(&told, done, total, note),
        interrupted: &|| STOP.load(Ordering::Relaxed),
    };
    work(suite, &build)
}

/// Prints notes, and a line for every tenth of a download.
pub fn tell(told: &AtomicUsize, done: usize, total: usize, note: &str) {
    let tenth = (10 * done).checked_div(total).map_or(0, |tenth| tenth + 1);
    if tenth == 0 {
        say!("{note}");
    } else if told.swap(tenth, Ordering::Relaxed) != tenth {
        say!(
            "{note}: {:.1} of {:.1} MB",
            done as f64 / 1e6,
            total as f64 / 1e6
        );
    }
}

/// More than the cores of any machine; each thread has a stack and buffers.
pub const MOST_THREADS: usize = 1024;

/// Refuses an argument above a limit.
pub fn at_most(name: &str, found: Option<usize>, most: usize) -> Result<(), Failure> {
    match found.filter(|found| *found > most) {
        Some(found) => Err(Failure::Wrong(format!(
            "{name} {found}: expected at most {most}"
        ))),
        None => Ok(()),
    }
}

/// Returns the thread pool in which all work runs.
pub fn pool(threads: Option<usize>) -> Result<rayon::ThreadPool, Failure> {
    if let Some(count) = threads.filter(|count| !(1..=MOST_THREADS).contains(count)) {
        return Err(Failure::Wrong(format!(
            "--threads {count}: expected 1 to {MOST_THREADS}"
        )));
    }
    if let Some(reason) = tessera_kernels::product::unsupported() {
        return Err(Failure::Wrong(reason));
    }
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?)
}
