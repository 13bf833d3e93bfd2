//! K-means over patch features: ClusterMIM's tokenizer (paper, section 3; `main_kmeans_cpu_patch.py`).

mod codebook;
mod device;
mod fields;
mod fit;
mod grouped;
#[cfg(feature = "linfa")]
mod linfa;
mod lloyd;
mod mini_batch;
mod nearest;
mod picture;
mod rows;
mod run;
mod seeding;
mod step;

pub(crate) use grouped::GroupedFactory;
pub(crate) use nearest::Nearest;
pub use nearest::NotFinite;
pub use step::{Step, Stepper, products};

use std::path::Path;
use std::sync::OnceLock;

use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::Centers;
use tessera_models::{TargetSpec, Targets};

use crate::config::Config;
use crate::contract::{Facts, Features, Fingerprint, Grid, ImageStream, Plan, Tokenizer};
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::{Image, View};
use crate::{Error, Result};

use codebook::Codebook;
use fields::{Fields, Matching};

/// Factory of `kmeans`.
pub(crate) struct KMeansFactory;

impl TokenizerFactory for KMeansFactory {
    fn kind(&self) -> &'static str {
        "kmeans"
    }

    fn summary(&self) -> &'static str {
        "K-means over any features (ClusterMIM): mini-batch or Lloyd, k-means++, k-means|| or random starts"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn learns(&self) -> bool {
        true
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        let fields = Fields::checked(with, cx)?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        fields.check_memory(with, cx, features.dim())
    }

    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        Ok(Plan {
            target: Some(TargetSpec::Ids {
                codebook_size: fields.k,
            }),
            looks_up: false,
            fit: Some(fit::cost(features.dim(), &fields, cx)),
        })
    }

    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let about = format!("kmeans {} {}", fit::VERSION, fields.about());
        Ok(Fingerprint::of(&[
            about.as_bytes(),
            features.fingerprint().0.as_bytes(),
        ]))
    }

    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        self.validate(
            with,
            &BuildContext {
                images: Some([images.len(), 0]),
                ..*cx
            },
        )?;
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let codebook = fit::fit(features.as_ref(), images, &fields, seed, cx)?;
        Ok(Box::new(KMeans::new(features, codebook, &fields, cx)))
    }

    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let codebook = Codebook::load(&state.join("codebook.safetensors"))?;
        if (codebook.k, codebook.dim) != (fields.k, features.dim()) {
            return Err(Error::File {
                path: state.join("codebook.safetensors"),
                message: format!(
                    "has {}x{} centres, expected {}x{}",
                    codebook.k,
                    codebook.dim,
                    fields.k,
                    features.dim()
                ),
            });
        }
        Ok(Box::new(KMeans::new(features, codebook, &fields, cx)))
    }
}

struct KMeans {
    features: Box<dyn Features>,
    codebook: Codebook,
    matching: Matching,
    /// The codebook prepared for assignment, built at the first image.
    nearest: OnceLock<Nearest>,
    /// Device that computes the ids; `None` for the CPU.
    device: Option<Device>,
    /// The codebook on `device`.
    on_device: OnceLock<Centers>,
    epochs: usize,
}

impl KMeans {
    fn new(
        features: Box<dyn Features>,
        codebook: Codebook,
        fields: &Fields,
        cx: &BuildContext<'_>,
    ) -> Self {
        Self {
            features,
            codebook,
            matching: fields.matching,
            nearest: OnceLock::new(),
            device: cx.device.cloned(),
            on_device: OnceLock::new(),
            epochs: fields.epochs,
        }
    }

    /// Computes the ids of a view's patches on the CPU.
    fn ids(&self, view: &View<'_>) -> Result<Vec<u32>> {
        let values: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
        let nearest = self
            .nearest
            .get_or_init(|| self.codebook.nearest(self.matching));
        let patches = self.grid().num_patches();
        (nearest.assign(&values)).map_err(|found| not_finite(found, view, patches))
    }

    /// Computes the ids on `device`. Features with kernels are computed there too.
    fn ids_on(&self, device: &Device, view: &View<'_>) -> Result<Vec<u32>> {
        let rows = match self.features.on_device() {
            Some(features) => features.extract(device, view)?,
            None => {
                let values: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
                device.put(&values)?
            }
        };
        let centers = match self.on_device.get() {
            Some(centers) => centers,
            None => {
                let centers = self.codebook.on(device, self.matching)?;
                self.on_device.get_or_init(|| centers)
            }
        };
        let [ids, best] = centers.assign(device, &rows)?;
        let best: Vec<f32> = device.read(&best)?;
        match best.iter().position(|best| !best.is_finite()) {
            Some(row) => Err(not_finite(
                NotFinite { row },
                view,
                self.grid().num_patches(),
            )),
            None => Ok(device.read(&ids)?),
        }
    }
}

/// Returns the error of a patch that cannot be assigned; `patches` per image.
pub(crate) fn not_finite(found: NotFinite, view: &View<'_>, patches: usize) -> Error {
    let id = view.samples()[found.row / patches].id;
    Error::Image {
        name: format!("{} of {:?}", id.index, id.split),
        message: format!(
            "patch {}: a feature is not finite or too large for products in f32, expected finite features; \
             check their input scaling and the encoder",
            found.row % patches
        ),
    }
}

impl Tokenizer for KMeans {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.codebook.k,
        }
    }

    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        let matching = format!("{:?}", self.matching);
        let features = self.features.fingerprint();
        Fingerprint::of(&[
            b"kmeans",
            features.0.as_bytes(),
            matching.as_bytes(),
            &self.codebook.bytes(),
        ])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let ids = match &self.device {
            Some(device) => self.ids_on(device, view)?,
            None => self.ids(view)?,
        };
        let shape = (view.batch(), self.grid().num_patches());
        let ids = candle_core::Tensor::from_vec(ids, shape, &candle_core::Device::Cpu)?;
        Ok(Targets::Ids(ids))
    }

    fn fit_report(&self) -> Option<serde_json::Value> {
        let inertia = self.codebook.inertia?;
        Some(serde_json::json!({"inertia": inertia}))
    }

    fn save(&self, state: &Path) -> Result<()> {
        self.codebook.save(&state.join("codebook.safetensors"))
    }

    fn picture(&self) -> Option<Image> {
        picture::draw(&self.codebook, self.features.as_ref())
    }

    fn facts(&self) -> Facts {
        Facts {
            kmeans_epochs: Some(self.epochs),
            ..self.features.facts()
        }
    }
}

#[cfg(test)]
mod tests;
