//! The context of every stage: the suite, the store, the device, the images.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tessera_kernels::device::launcher::Device;
use tessera_models::Compute;
use tessera_models::vit::VitConfig;
use tessera_tokenizers::{
    BuildContext, Labels, Needs, Plan, Programs, Registry, Rows, Split, TokenizerFactory,
};

use super::machine::{Machine, architecture};
use super::reporter::Reporter;
use crate::data::{Dataset, Scan};
use crate::store::{Store, StoreError};
use crate::suite::{Row, Suite};

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user interrupted; the whole run ends.
    #[error("interrupted")]
    Interrupted,
    /// The stage failed; its cell ends and the others continue.
    #[error("{0}")]
    Failed(String),
    /// The store is unusable; the whole run ends.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Interrupted => Self::Interrupted,
            StoreError::Stage(error) if is_interrupted(&error) => Self::Interrupted,
            StoreError::Stage(error) => Self::Failed(format!("{error:#}")),
            StoreError::Damaged(message) => Self::Failed(message),
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

/// Settings and services of a run.
pub struct Context<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Factories of tokenizers, features and datasets.
    pub registry: &'a Registry,
    /// Store of results.
    pub store: &'a Store,
    /// Receives progress and notes.
    pub reporter: &'a dyn Reporter,
    /// Set by SIGINT and SIGTERM.
    pub stop: &'a AtomicBool,
    /// Threads of the pool in which all stages run.
    pub threads: usize,
    /// Device and type in which models train and are evaluated.
    pub compute: Compute,
    /// Device for K-means, features with kernels, and counting; `None` means the CPU.
    pub launcher: Option<Device>,
    /// Threads that prepare the data of later training steps; with 0 the training threads do it.
    pub workers: usize,
    /// Time between checkpoints of a training stage.
    pub checkpoint_every: Duration,
    /// Whether factories may download models.
    pub fetch: bool,
    /// The command line, for `environment.json`.
    pub command: Option<String>,
    /// Fingerprint of the scan on which everything is computed; `None` means that of a new scan.
    pub scan: Option<String>,
    /// Whether factories may start programs.
    pub programs: Programs,
    /// Another machine, whose results are looked up; `None` means this one.
    pub looked_up: Option<Machine>,
}

impl<'a> Context<'a> {
    /// Creates a context for the CPU.
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
            fetch: true,
            command: None,
            scan: None,
            programs: Programs::Start,
            looked_up: None,
        }
    }

    /// Returns whether the user interrupted the run.
    pub fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Calls `work` with a context for factories. `images` is the number of train and val images after the scan. Encoders of other
    /// rows have only their shapes.
    pub fn with_build<R>(
        &self,
        images: Option<[usize; 2]>,
        work: impl FnOnce(&BuildContext<'_>) -> R,
    ) -> R {
        self.with_encoders(images, &|name| self.suite.roster.planned(name), work)
    }

    /// As [`with_build`](Self::with_build), with the encoders of other rows.
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
            at_most: None,
            names: None,
            order: None,
            labels: None,
            rows,
            finest: self.suite.finest,
            fetch: self.fetch,
            programs: self.programs,
            progress: &progress,
            interrupted: &interrupted,
        })
    }

    /// Returns the configuration of the suite's model.
    ///
    /// # Errors
    /// [`StageError::Failed`] if the backbone is unknown.
    pub fn vit(&self) -> Result<VitConfig, StageError> {
        let file = &self.suite.file;
        let vit = file.vit();
        vit.ok_or_else(|| StageError::Failed(format!("no backbone {:?}", file.backbone.variant)))
    }

    /// Returns the plan of the row's tokenizer; `None` for a row without one, or if its factory returns an error. `images` is `None` before
    /// the scan.
    pub fn row_plan(&self, row: &Row, images: Option<&Images>) -> Option<Plan> {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = self.registry.tokenizer(kind, with).ok()?;
        let labels = images.and_then(|images| images.labels_for(factory));
        self.with_build(images.map(Images::counts), |build| {
            factory.plan(with, &BuildContext { labels, ..*build })
        })
        .ok()
    }

    /// Returns what keys of results say about the machine: about this one, or about that whose results are looked up.
    pub fn machine(&self) -> Machine {
        let here = || Machine::new(architecture(), &self.compute, self.launcher.as_ref());
        self.looked_up.clone().unwrap_or_else(here)
    }

    /// Returns the part of a key that [`Machine::numerics`] describes.
    pub fn numerics(&self, engine: Option<&str>) -> Value {
        self.machine().numerics(engine)
    }

    /// Returns the part of a key that [`Machine::model_numerics`] describes.
    pub fn model_numerics(&self, engine: Option<&str>) -> Value {
        self.machine().model_numerics(engine)
    }
}

/// The scanned images.
pub struct Images {
    /// Result of the scan.
    pub scan: Scan,
    /// Source of labels and pixels.
    pub dataset: Dataset,
}

impl Images {
    /// Returns the images' part of the provenance of stages.
    pub fn provenance(&self, cx: &Context<'_>) -> Value {
        let file = &cx.suite.file;
        let mut about = json!({
            "dataset": self.scan.fingerprint,
            "image_size": file.image_size,
            "patch_size": file.patch_size,
            "eval_transform": file.eval_transform,
        });
        if let Some(side) = cx.suite.finest {
            about["fast_decode"] = json!(side);
        }
        about
    }

    /// Returns the number of images of the train and the validation split.
    pub fn counts(&self) -> [usize; 2] {
        [Split::Train, Split::Val].map(|split| self.dataset.len(split))
    }

    /// Returns the labels, if tokenizers of this kind need them.
    pub fn labels_for(&self, factory: &dyn TokenizerFactory) -> Option<Labels<'_>> {
        (factory.needs() == Needs::Labels).then(|| Labels {
            classes: self.scan.classes.len(),
            train: self.dataset.labels(Split::Train),
            val: self.dataset.labels(Split::Val),
        })
    }

    /// Returns the bytes of the decoded images if the suite stores them (`decoded_cache: u8`).
    pub fn cached_bytes(&self, cx: &Context<'_>) -> Option<u64> {
        let cached = cx.suite.dataset.decoding().cached;
        self.dataset.decoded_bytes().filter(|_| cached)
    }
}
