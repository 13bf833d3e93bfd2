//! Images for models, under the evaluation transform or augmented.

use candle_core::Tensor;
use tessera_kernels::device::launcher::Device;
use tessera_models::{self as models, ImageSource};
use tessera_tokenizers::{InputSpec, Split, View, ViewBuf};

use super::context::{Context, Images};
use crate::data::augment::{Pixels, RandAugment};
use crate::data::{CropForm, DataError, Dataset, EvalTransform, ViewPlan};
use crate::suite::Augment;

/// Views of one split under one recipe.
#[derive(Clone, Copy)]
pub struct Views<'a> {
    /// Device that renders the model's input; `None` means the CPU.
    launcher: Option<&'a Device>,
    dataset: &'a Dataset,
    split: Split,
    eval: EvalTransform,
    side: usize,
    seed: u64,
    augment: Augment,
    scale: (f64, f64),
    rand_augment: Option<RandAugment>,
    erasing: f64,
}

impl<'a> Views<'a> {
    /// Returns `split` under the evaluation transform.
    pub fn eval(cx: &'a Context<'_>, images: &'a Images, split: Split) -> Self {
        let file = &cx.suite.file;
        Self {
            launcher: cx.launcher.as_ref(),
            dataset: &images.dataset,
            split,
            eval: file.eval_transform,
            side: file.image_size,
            seed: 0,
            augment: Augment::None,
            scale: (1.0, 1.0),
            rand_augment: None,
            erasing: 0.0,
        }
    }

    /// Returns the train split under a recipe's augmentation.
    pub fn train(
        cx: &'a Context<'_>,
        images: &'a Images,
        augment: Augment,
        scale: (f64, f64),
        seed: u64,
    ) -> Self {
        Self {
            seed,
            augment,
            scale,
            ..Self::eval(cx, images, Split::Train)
        }
    }

    /// Adds RandAugment, and random erasing with probability `erasing`.
    pub fn with_edits(self, rand_augment: Option<RandAugment>, erasing: f64) -> Self {
        Self {
            rand_augment,
            erasing,
            ..self
        }
    }

    /// Returns the views of `indices` in an epoch.
    ///
    /// # Errors
    /// If an image no longer decodes.
    pub fn view(&self, epoch: usize, indices: &[usize]) -> models::Result<ViewBuf> {
        let plan = match self.augment {
            Augment::None => ViewPlan::Eval,
            Augment::FixedView => ViewPlan::FixedView {
                seed: self.seed,
                epoch,
            },
            Augment::RandomResizedCrop => self.random(epoch, CropForm::Torchvision),
            Augment::RandomResizedCropTf => self.random(epoch, CropForm::Tensorflow),
        };
        self.dataset
            .view(self.split, indices, plan, self.eval)
            .map_err(data)
    }

    fn random(&self, epoch: usize, form: CropForm) -> ViewPlan {
        ViewPlan::RandomResizedCrop {
            seed: self.seed,
            epoch,
            scale: self.scale,
            form,
        }
    }

    /// Renders the model's input, on the device if there is one.
    ///
    /// # Errors
    /// If rendering fails.
    pub fn render(&self, view: &View<'_>) -> models::Result<Tensor> {
        let input = InputSpec::imagenet(self.side);
        let rendered = match self.launcher {
            Some(device) => view.tensor_on(device, &input),
            None => view.render(&input),
        };
        rendered.map_err(tokenizer_error)
    }

    /// Returns whether pixels are changed after cropping and scaling, which only the CPU does.
    fn edits(&self) -> bool {
        self.rand_augment.is_some() || self.erasing > 0.0
    }
}

impl ImageSource for Views<'_> {
    fn len(&self) -> usize {
        self.dataset.len(self.split)
    }

    fn images(&self, epoch: usize, indices: &[usize]) -> models::Result<Tensor> {
        let view = self.view(epoch, indices)?;
        if !self.edits() {
            return self.render(&view.as_view());
        }
        let pixels = Pixels {
            rand_augment: self.rand_augment,
            erasing: self.erasing,
            seed: self.seed,
            epoch,
        };
        view.as_view()
            .render_edited(&InputSpec::imagenet(self.side), &pixels)
            .map_err(tokenizer_error)
    }
}

fn data(error: DataError) -> models::Error {
    match error {
        DataError::Interrupted => models::Error::Interrupted,
        other => models::Error::Data(other.to_string()),
    }
}

/// Converts an error of a tokenizer into one of a training loop.
pub fn tokenizer_error(error: tessera_tokenizers::Error) -> models::Error {
    match error {
        tessera_tokenizers::Error::Interrupted => models::Error::Interrupted,
        tessera_tokenizers::Error::Model(error) => error,
        other => models::Error::Data(other.to_string()),
    }
}
