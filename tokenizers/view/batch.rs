//! A batch of images as consumers look at it.

use candle_core::{Device, Tensor};

use super::render;
use super::rendered::Rendered;
use super::sample::{Edit, InputSpec, Sample};
use crate::Result;

/// An owned batch of samples.
#[derive(Clone, Debug, Default)]
pub struct ViewBuf(pub Vec<Sample>);

impl ViewBuf {
    /// Borrowed, as tokenizers take it.
    pub fn as_view(&self) -> View<'_> {
        View::new(&self.0)
    }
}

/// A batch of images as a consumer may look at it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    samples: &'a [Sample],
    /// What consumers share.
    pub(super) rendered: Option<&'a Rendered>,
}

impl<'a> View<'a> {
    /// The view of `samples`.
    pub fn new(samples: &'a [Sample]) -> Self {
        Self {
            samples,
            rendered: None,
        }
    }

    /// The same view for several consumers: those that ask for the same size and scaling share one rendering, which `rendered`
    /// holds. It must be of this view alone.
    #[must_use]
    pub fn sharing(self, rendered: &'a Rendered) -> Self {
        Self {
            rendered: Some(rendered),
            ..self
        }
    }

    /// The images, boxes and ids.
    pub fn samples(&self) -> &'a [Sample] {
        self.samples
    }

    /// Number of images.
    pub fn batch(&self) -> usize {
        self.samples.len()
    }

    /// The images at a consumer's own size and scaling, one resampling from the original.
    ///
    /// # Shapes
    /// Returns `[batch, 3, side, side]`, f32, contiguous.
    ///
    /// # Errors
    /// [`Error::Image`](crate::Error::Image) when a box lies outside its image, or the image was decoded for a smaller `side`.
    pub fn render(&self, input: &InputSpec) -> Result<Tensor> {
        let make = || self.tensor(render::render(self.samples, input, None)?, input);
        match self.rendered {
            Some(rendered) => rendered.tensor(input, make),
            None => make(),
        }
    }

    /// What [`render`](Self::render) gives, row-major, for consumers that compute without tensors.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn values(&self, input: &InputSpec) -> Result<Vec<f32>> {
        match self.rendered {
            Some(_) => Ok(self.render(input)?.flatten_all()?.to_vec1()?),
            None => render::render(self.samples, input, None),
        }
    }

    /// [`render`](Self::render), with the pixels changed on the way.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_edited(&self, input: &InputSpec, edit: &dyn Edit) -> Result<Tensor> {
        self.tensor(render::render(self.samples, input, Some(edit))?, input)
    }

    fn tensor(&self, values: Vec<f32>, input: &InputSpec) -> Result<Tensor> {
        let shape = (self.batch(), 3, input.side, input.side);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}
