//! What every stage is given: the suite, the store, the device, the images.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tessera_kernels::device::launcher::Device;
use tessera_models::Compute;
use tessera_models::vit::VitConfig;
use tessera_tokenizers::{BuildContext, Plan, Registry, Rows, Split};

use super::reporter::Reporter;
use crate::data::{Dataset, Scan};
use crate::store::{Store, StoreError};
use crate::suite::{Row, Suite};

/// Why a stage has no result.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user has interrupted: the whole run ends.
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

/// A run before its first stage.
pub struct Context<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Factories.
    pub registry: &'a Registry,
    /// Holds the results.
    pub store: &'a Store,
    /// Receives progress and notes.
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
    /// Whether factories may download models.
    pub fetch: bool,
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
            fetch: true,
        }
    }

    /// Whether the user has interrupted the run.
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

    /// The suite's model.
    ///
    /// # Errors
    /// [`StageError::Failed`] when there is no such backbone.
    pub fn vit(&self) -> Result<VitConfig, StageError> {
        let file = &self.suite.file;
        let vit = file.vit();
        vit.ok_or_else(|| StageError::Failed(format!("no backbone {:?}", file.backbone.variant)))
    }

    /// What the row's tokenizer will give and cost, before other rows' encoders are there; `None` for a row without one, and where
    /// its factory cannot say.
    pub fn row_plan(&self, row: &Row, images: Option<[usize; 2]>) -> Option<Plan> {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = self.registry.tokenizer(kind, with).ok()?;
        self.with_build(images, |build| factory.plan(with, build))
            .ok()
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
pub fn architecture() -> String {
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

impl Images {
    /// What the provenance of stages says about the images.
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

    /// Images of the train and the validation split.
    pub fn counts(&self) -> [usize; 2] {
        [Split::Train, Split::Val].map(|split| self.dataset.len(split))
    }

    /// Bytes of the decoded images of a suite that stores them (`decoded_cache: u8`).
    pub fn cached_bytes(&self, cx: &Context<'_>) -> Option<u64> {
        let cached = cx.suite.dataset.decoding().cached;
        self.dataset.decoded_bytes().filter(|_| cached)
    }
}
