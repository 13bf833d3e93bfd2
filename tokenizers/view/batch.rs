//! Views: batches of images that models and tokenizers render.

use candle_core::{Device, Tensor};

use super::render;
use super::rendered::Rendered;
use super::sample::{Edit, InputSpec, Sample};
use crate::Result;

/// An owned batch of samples.
#[derive(Clone, Debug, Default)]
pub struct ViewBuf(pub Vec<Sample>);

impl ViewBuf {
    /// Borrows the batch as a view.
    pub fn as_view(&self) -> View<'_> {
        View::new(&self.0)
    }
}

/// A batch of images with boxes and flips.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    samples: &'a [Sample],
    /// Cache of renderings that consumers share.
    pub(super) rendered: Option<&'a Rendered>,
}

impl<'a> View<'a> {
    /// Returns the view of `samples`.
    pub fn new(samples: &'a [Sample]) -> Self {
        Self {
            samples,
            rendered: None,
        }
    }

    /// Returns the view with a cache, so that consumers with the same size and scaling share one rendering. `rendered` must not be used
    /// with another view.
    #[must_use]
    pub fn sharing(self, rendered: &'a Rendered) -> Self {
        Self {
            rendered: Some(rendered),
            ..self
        }
    }

    /// Returns the images, boxes and ids.
    pub fn samples(&self) -> &'a [Sample] {
        self.samples
    }

    /// Returns the number of images.
    pub fn batch(&self) -> usize {
        self.samples.len()
    }

    /// Renders the images at a size and scaling, with one resampling of the original.
    ///
    /// # Shapes
    /// Returns `[batch, 3, side, side]`, f32, contiguous.
    ///
    /// # Errors
    /// [`Error::Image`](crate::Error::Image) if a box is not inside its image, or the image was decoded for a smaller `side`.
    pub fn render(&self, input: &InputSpec) -> Result<Tensor> {
        let make = || self.tensor(render::render(self.samples, input, None)?, input);
        match self.rendered {
            Some(rendered) => rendered.tensor(input, make),
            None => make(),
        }
    }

    /// Returns the values of [`render`](Self::render), row-major.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn values(&self, input: &InputSpec) -> Result<Vec<f32>> {
        match self.rendered {
            Some(_) => Ok(self.render(input)?.flatten_all()?.to_vec1()?),
            None => render::render(self.samples, input, None),
        }
    }

    /// Renders like [`render`](Self::render), with changes to the pixels by `edit`.
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
