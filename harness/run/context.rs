//! What every stage is given, and the one way a stage runs: look it up, or announce, lock, compute, store.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tessera_kernels::device::launcher::Device;
use tessera_models::Compute;
use tessera_tokenizers::{BuildContext, Plan, Registry, Rows};

use super::reporter::{Outcome, Reporter};
use crate::data::{Dataset, Scan};
use crate::store::{Entry, Provenance, Store, StoreError, Workspace};
use crate::suite::{Row, Suite};

/// Whether missing stages are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only what the store has: a first pass, so that a resumed run's results are complete from its start.
    Lookup,
    /// Everything.
    Compute,
}

/// Why a cell's stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user asked to stop: the whole run ends.
    #[error("interrupted")]
    Interrupted,
    /// The stage failed: this cell ends, the others go on.
    #[error("{0}")]
    Failed(String),
    /// The store is unusable: the whole run ends.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Interrupted => Self::Interrupted,
            StoreError::Stage(error) if is_interrupted(&error) => Self::Interrupted,
            StoreError::Stage(error) => Self::Failed(format!("{error:#}")),
            io => Self::Store(io),
        }
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    use tessera_models::Error as Model;
    use tessera_tokenizers::Error as Tokenizer;
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(Model::Interrupted))
            || matches!(
                cause.downcast_ref(),
                Some(Tokenizer::Interrupted | Tokenizer::Model(Model::Interrupted))
            )
            || matches!(
                cause.downcast_ref(),
                Some(crate::data::DataError::Interrupted)
            )
    })
}

/// What a run is made of before its first stage.
pub struct Context<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Factories.
    pub registry: &'a Registry,
    /// Where results are kept.
    pub store: &'a Store,
    /// Whom to tell.
    pub reporter: &'a dyn Reporter,
    /// Set by SIGINT and SIGTERM.
    pub stop: &'a AtomicBool,
    /// Threads of the pool all stages run in.
    pub threads: usize,
    /// Where models train and are evaluated, and in which type.
    pub compute: Compute,
    /// Where K-means, features that have kernels, and counting are computed; `None`: on the CPU.
    pub launcher: Option<Device>,
    /// Threads that make the data of coming training steps; 0: the training threads do.
    pub workers: usize,
    /// Time between checkpoints of a training stage.
    pub checkpoint_every: Duration,
    /// Whether the encoder that a row's features come from may be pretrained for it; otherwise only a stored one is used.
    pub trains: bool,
    /// Whether factories may download models.
    pub fetch: bool,
    pace: Pace,
}

impl<'a> Context<'a> {
    /// A context before its first stage.
    pub fn new(
        suite: &'a Suite,
        registry: &'a Registry,
        store: &'a Store,
        reporter: &'a dyn Reporter,
        stop: &'a AtomicBool,
        threads: usize,
    ) -> Self {
        Self {
            suite,
            registry,
            store,
            reporter,
            stop,
            threads,
            compute: Compute::default(),
            launcher: None,
            workers: 0,
            checkpoint_every: Duration::from_secs(60),
            trains: false,
            fetch: true,
            pace: Pace::default(),
        }
    }

    /// Whether the user asked to stop.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Calls `work` with what factories are given. `images`: number of train and val images, once they are scanned. Encoders of
    /// other rows are not there yet, only their shapes.
    pub fn with_build<R>(
        &self,
        images: Option<[usize; 2]>,
        work: impl FnOnce(&BuildContext<'_>) -> R,
    ) -> R {
        self.with_encoders(images, &|name| self.suite.roster.planned(name), work)
    }

    /// The same with the encoders of other rows.
    pub fn with_encoders<R>(
        &self,
        images: Option<[usize; 2]>,
        rows: &Rows<'_>,
        work: impl FnOnce(&BuildContext<'_>) -> R,
    ) -> R {
        let (reporter, stop) = (self.reporter, self.stop);
        let progress = |done: usize, total: usize, note: &str| reporter.progress(done, total, note);
        let interrupted = || stop.load(Ordering::Relaxed);
        work(&BuildContext {
            image_size: self.suite.file.image_size,
            device: self.launcher.as_ref(),
            grid: self.suite.grid(),
            registry: self.registry,
            threads: self.threads,
            images,
            rows,
            finest: self.suite.finest,
            fetch: self.fetch,
            progress: &progress,
            interrupted: &interrupted,
        })
    }

    /// What the row's tokenizer will give and cost, before other rows' encoders are there; `None` for a row without one, and where
    /// its factory cannot say.
    pub fn row_plan(&self, row: &Row, images: Option<[usize; 2]>) -> Option<Plan> {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = self.registry.tokenizer(kind, with).ok()?;
        self.with_build(images, |build| factory.plan(with, build))
            .ok()
    }

    /// Declares how many stages of each kind the run has, for "3 of 40" and the time left.
    pub fn plan(&self, stages: impl IntoIterator<Item = &'static str>) {
        self.pace.plan(stages);
    }

    /// The result of a stage; `None` in [`Mode::Lookup`] when it isn't stored.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn stage(
        &self,
        mode: Mode,
        provenance: &Provenance,
        work: impl FnOnce(&Workspace<'_>) -> anyhow::Result<Value>,
    ) -> Result<Option<Entry>, StageError> {
        if let Some(entry) = self.store.lookup(provenance) {
            if mode == Mode::Compute {
                self.pace.finished(provenance.stage, None);
            }
            return Ok(Some(entry));
        }
        if mode == Mode::Lookup {
            return Ok(None);
        }
        if self.interrupted() {
            return Err(StageError::Interrupted);
        }
        let label = format!("{}: {}", provenance.stage, provenance.label);
        let (index, total, left) = self.pace.position();
        self.reporter.begin(&label, index, total, left);
        let start = Instant::now();
        let result = self
            .store
            .get_or(provenance, &|| self.interrupted(), work)
            .map_err(StageError::from);
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(_) => self.reporter.end(&label, seconds, Outcome::Done),
            Err(error) => self
                .reporter
                .end(&label, seconds, Outcome::Failed(&error.to_string())),
        }
        self.pace.finished(provenance.stage, Some(seconds));
        result.map(Some)
    }

    /// Device, dtype and instruction set: what may change a number without changing the configuration. Of what runs on the CPU
    /// wherever models do: tokenizers.
    pub fn numerics(&self, engine: Option<&str>) -> Value {
        let mut all =
            json!({"device": "cpu", "dtype": "f32", "arch": architecture(), "engine": engine});
        if let Some(launcher) = &self.launcher {
            all["launcher"] = json!(launcher.name());
        }
        all
    }

    /// The same of what trains or runs a model. A GPU is named: another one sums in another order, and takes another part of a batch
    /// at a time.
    pub fn model_numerics(&self, engine: Option<&str>) -> Value {
        let mut all = self.numerics(engine);
        all["device"] = json!(self.compute.kind());
        all["dtype"] = json!(self.compute.precision().name());
        if let Some(chip) = self.compute.chip() {
            all["gpu"] = json!(chip);
        }
        all
    }
}

/// The instruction set that matrix products choose their kernels by.
pub(super) fn architecture() -> String {
    let mut name = std::env::consts::ARCH.to_owned();
    #[cfg(target_arch = "x86_64")]
    for (feature, has) in [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
    ] {
        if has {
            name.push('+');
            name.push_str(feature);
        }
    }
    name
}

/// The images, once scanned.
pub struct Images {
    /// What was found.
    pub scan: Scan,
    /// Where pixels come from.
    pub dataset: Dataset,
}

/// How many stages there are, are done, and how long each kind takes.
#[derive(Default)]
struct Pace {
    remaining: RefCell<BTreeMap<&'static str, usize>>,
    seconds: RefCell<BTreeMap<&'static str, (f64, usize)>>,
    total: Cell<usize>,
    done: Cell<usize>,
}

impl Pace {
    fn plan(&self, stages: impl IntoIterator<Item = &'static str>) {
        for stage in stages {
            *self.remaining.borrow_mut().entry(stage).or_default() += 1;
            self.total.set(self.total.get() + 1);
        }
    }

    fn finished(&self, stage: &'static str, seconds: Option<f64>) {
        if let Some(count) = self.remaining.borrow_mut().get_mut(stage) {
            *count = count.saturating_sub(1);
        }
        self.done.set(self.done.get() + 1);
        if let Some(seconds) = seconds {
            let mut all = self.seconds.borrow_mut();
            let (sum, count) = all.entry(stage).or_default();
            *sum += seconds;
            *count += 1;
        }
    }

    /// Index of the next stage, total, and seconds left when every remaining kind has been timed.
    fn position(&self) -> (usize, usize, Option<f64>) {
        let seconds = self.seconds.borrow();
        let left = self
            .remaining
            .borrow()
            .iter()
            .filter(|(_, n)| **n > 0)
            .try_fold(0.0, |left, (stage, n)| {
                let (sum, count) = seconds.get(stage)?;
                Some(left + sum / *count as f64 * *n as f64)
            });
        (
            self.done.get() + 1,
            self.total.get().max(self.done.get() + 1),
            left,
        )
    }
}
