//! The encoder of a row and a seed, for evaluation or as features of another row.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tessera_models::encode::{self, Frozen, Pool};
use tessera_models::knn::Labelled;
use tessera_models::vit::{self, Layer, VitConfig};
use tessera_models::{self as models, ImageSource, ParamStore};
use tessera_tokenizers::{RowEncoder, Split};

use super::context::{Context, Images, StageError};
use super::views::Views;
use crate::store::{Entry, StoreError};

/// File of the encoder, which `timm.create_model(..., num_classes=0)` loads strictly.
pub const ENCODER: &str = "encoder.safetensors";

/// Origin of an encoder.
pub struct Origin {
    /// The row.
    pub row: String,
    /// The seed.
    pub seed: u64,
    /// The encoder's part of the provenance of stages.
    pub provenance: Value,
    /// The entry and the file of its parameters.
    pub checkpoint: (Entry, &'static str),
    /// Whether its tokenizer depends on labels.
    pub saw_labels: bool,
}

/// An encoder whose parameters and features are computed when they are first used.
pub struct Encoder<'a> {
    /// Origin of the encoder.
    pub origin: Origin,
    /// Configuration of the model.
    pub vit: VitConfig,
    cx: &'a Context<'a>,
    images: &'a Images,
    params: OnceCell<ParamStore>,
    frozen: RefCell<Vec<Computed>>,
}

/// The vectors of every image of a split by a layer.
type Computed = ((Split, Layer), Rc<Frozen>);

impl<'a> Encoder<'a> {
    /// Creates an encoder with the suite's backbone.
    ///
    /// # Errors
    /// If the backbone is unknown.
    pub fn new(
        cx: &'a Context<'a>,
        images: &'a Images,
        origin: Origin,
    ) -> Result<Self, StageError> {
        Ok(Self {
            vit: cx.vit()?,
            origin,
            cx,
            images,
            params: OnceCell::new(),
            frozen: RefCell::default(),
        })
    }

    /// Returns the encoder as features for another row.
    ///
    /// # Errors
    /// If its file is damaged.
    pub fn of_row(&self) -> Result<RowEncoder, StoreError> {
        Ok(RowEncoder {
            vit: self.vit,
            file: Some(self.origin.checkpoint.0.file(ENCODER)?),
            saw_labels: self.origin.saw_labels,
        })
    }

    /// Returns the parameters, on the run's device.
    ///
    /// # Errors
    /// If the checkpoint cannot be read.
    pub fn params(&self) -> models::Result<&ParamStore> {
        if let Some(params) = self.params.get() {
            return Ok(params);
        }
        let params = vit::encoder(&self.vit, self.origin.seed)?;
        let (entry, name) = &self.origin.checkpoint;
        let path = entry.file(name);
        params.load(&path.map_err(|e| models::Error::Data(e.to_string()))?)?;
        let params = params.on(&self.cx.compute)?;
        Ok(self.params.get_or_init(|| params))
    }

    /// Computes the class token and the mean of the images `indices` of `source` in an epoch, by a layer.
    ///
    /// # Errors
    /// If an image or the checkpoint cannot be read.
    pub fn encode(
        &self,
        source: &dyn ImageSource,
        epoch: usize,
        indices: &[usize],
        layer: Layer,
    ) -> models::Result<Frozen> {
        let stop = self.cx.stop;
        let interrupted = move || stop.load(Ordering::Relaxed);
        encode::encode(
            self.params()?,
            (&self.vit, layer),
            source,
            epoch,
            indices,
            &interrupted,
        )
    }

    /// Computes the patch tokens of the images `indices` of `source` in an epoch by a layer, `[indices, patches, layer.width(width)]`.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub fn patches(
        &self,
        source: &dyn ImageSource,
        epoch: usize,
        indices: &[usize],
        layer: Layer,
    ) -> models::Result<Vec<f32>> {
        let stop = self.cx.stop;
        let interrupted = move || stop.load(Ordering::Relaxed);
        encode::encode_patches(
            self.params()?,
            (&self.vit, layer),
            source,
            epoch,
            indices,
            &interrupted,
        )
    }

    /// Computes both vectors of every image of a split by a layer under the evaluation transform, once.
    ///
    /// # Errors
    /// As for [`Encoder::encode`].
    pub fn frozen(&self, split: Split, layer: Layer) -> models::Result<Rc<Frozen>> {
        let same = |(of, _): &&Computed| *of == (split, layer);
        if let Some((_, known)) = self.frozen.borrow().iter().find(same) {
            return Ok(Rc::clone(known));
        }
        let source = Views::eval(self.cx, self.images, split);
        let indices: Vec<usize> = (0..source.len()).collect();
        let frozen = Rc::new(self.encode(&source, 0, &indices, layer)?);
        let computed = ((split, layer), Rc::clone(&frozen));
        self.frozen.borrow_mut().push(computed);
        Ok(frozen)
    }

    /// Returns one vector of every image of a split, of which `frozen` are the vectors, and the labels.
    pub fn labelled<'f>(&'f self, frozen: &'f Frozen, split: Split, pool: Pool) -> Labelled<'f> {
        Labelled {
            features: frozen.pooled(pool),
            labels: self.images.dataset.labels(split),
        }
    }

    /// Returns the provenance of an evaluation of the encoder by `recipe`.
    pub fn provenance(&self, version: u32, recipe: Value, seed: Option<u64>) -> Value {
        json!({
            "version": version,
            "encoder": self.origin.provenance,
            "images": self.images.provenance(self.cx),
            "recipe": recipe,
            "seed": seed,
            "numerics": self.cx.model_numerics(None),
        })
    }
}
