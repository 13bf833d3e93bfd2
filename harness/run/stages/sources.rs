//! The dataset as the training loops ask for it: images, or images with their targets.

use std::sync::Arc;

use candle_core::Tensor;
use tessera_kernels::device::launcher::Device;
use tessera_models::pretrain::PretrainData;
use tessera_models::{self as models, ImageSource, Targets};
use tessera_tokenizers::{InputSpec, Rendered, Split, Tokenizer, View, ViewBuf};

use super::tokens::BothWays;
use crate::data::augment::{Pixels, RandAugment};
use crate::data::{CropForm, DataError, Dataset, EvalTransform, ViewPlan};
use crate::run::context::{Context, Images};
use crate::suite::Augment;

/// One split, looked at in one way.
#[derive(Clone, Copy)]
pub struct Looks<'a> {
    /// Where crops become the model's input; `None`: on the CPU.
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

impl<'a> Looks<'a> {
    /// `split` under the evaluation transform.
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

    /// The train split as a recipe looks at it.
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

    /// With RandAugment, and boxes erased with probability `erasing`.
    pub fn changed(self, rand_augment: Option<RandAugment>, erasing: f64) -> Self {
        Self {
            rand_augment,
            erasing,
            ..self
        }
    }

    fn view(&self, epoch: usize, indices: &[usize]) -> models::Result<ViewBuf> {
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

    /// The same values wherever they are made.
    fn render(&self, view: &View<'_>) -> models::Result<Tensor> {
        let input = InputSpec::imagenet(self.side);
        let rendered = match self.launcher {
            Some(device) => view.tensor_on(device, &input),
            None => view.render(&input),
        };
        rendered.map_err(tokenizer)
    }

    /// Whether pixels are changed besides being cropped and scaled, which the CPU does.
    fn edits(&self) -> bool {
        self.rand_augment.is_some() || self.erasing > 0.0
    }
}

impl ImageSource for Looks<'_> {
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
            .map_err(tokenizer)
    }
}

/// Images with the targets a tokenizer gives the same view.
pub struct WithTargets<'a> {
    /// The images.
    pub looks: Looks<'a>,
    /// Who makes the targets.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// The same targets where they are kept.
    pub kept: Option<BothWays>,
}

impl PretrainData for WithTargets<'_> {
    fn len(&self) -> usize {
        ImageSource::len(&self.looks)
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> models::Result<(Tensor, Targets)> {
        let view = self.looks.view(epoch, indices)?;
        let rendered = Rendered::default();
        // Pixels that the tokenizer asks for as the model does are rendered once.
        let shared = view.as_view().sharing(&rendered);
        let targets = match &self.kept {
            Some(kept) => kept.of(&view)?,
            None => self.tokenizer.tokenize(&shared).map_err(tokenizer)?,
        };
        let patches = self.tokenizer.grid().num_patches();
        let targets = targets.checked(self.tokenizer.target(), indices.len(), patches)?;
        Ok((self.looks.render(&shared)?, targets))
    }
}

fn data(error: DataError) -> models::Error {
    match error {
        DataError::Interrupted => models::Error::Interrupted,
        other => models::Error::Data(other.to_string()),
    }
}

fn tokenizer(error: tessera_tokenizers::Error) -> models::Error {
    match error {
        tessera_tokenizers::Error::Interrupted => models::Error::Interrupted,
        tessera_tokenizers::Error::Model(error) => error,
        other => models::Error::Data(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
