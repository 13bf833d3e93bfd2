//! What a model must predict for each patch of an image.
//!
//! Lives in `models` because both sides need it: tokenizers produce [`Targets`], masked
//! pretraining consumes them. It knows nothing about how they were made.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// What a tokenizer's targets look like, fixed before any image is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// Discrete: every patch gets an id in `0..codebook_size`.
    Ids {
        /// Number of codes.
        codebook_size: usize,
    },
    /// Continuous: every patch gets `dim` numbers.
    Values {
        /// Numbers per patch.
        dim: usize,
    },
}

impl TargetSpec {
    /// Width of the prediction head: `codebook_size` or `dim`.
    pub fn head_width(self) -> usize {
        match self {
            Self::Ids { codebook_size } => codebook_size,
            Self::Values { dim } => dim,
        }
    }

    /// The codebook's size, `None` for continuous targets.
    pub fn codebook_size(self) -> Option<usize> {
        match self {
            Self::Ids { codebook_size } => Some(codebook_size),
            Self::Values { .. } => None,
        }
    }
}

/// Targets of a batch of images, patches in row-major order of the grid.
#[derive(Clone, Debug)]
pub enum Targets {
    /// `[batch, num_patches]`, u32.
    Ids(Tensor),
    /// `[batch, num_patches, dim]`, f32.
    Values(Tensor),
}

impl Targets {
    /// Those of several batches, one after the other.
    ///
    /// # Errors
    /// When some are ids and some values, or their shapes differ.
    pub fn cat(all: &[&Self]) -> Result<Self> {
        let tensors: Vec<&Tensor> = all
            .iter()
            .map(|targets| match targets {
                Self::Ids(tensor) | Self::Values(tensor) => tensor,
            })
            .collect();
        let joined = Tensor::cat(&tensors, 0)?;
        Ok(match all.first() {
            Some(Self::Ids(_)) => Self::Ids(joined),
            _ => Self::Values(joined),
        })
    }

    /// Checks shape and dtype against `spec` and returns the targets unchanged.
    ///
    /// # Errors
    /// [`Error::Shape`] when they differ. Id *range* is the tokenizer's promise and is checked where ids
    /// enter the program (files, ONNX graphs).
    pub fn checked(self, spec: TargetSpec, batch: usize, num_patches: usize) -> Result<Self> {
        let (tensor, dtype, shape) = match (&self, spec) {
            (Self::Ids(t), TargetSpec::Ids { .. }) => (t, DType::U32, vec![batch, num_patches]),
            (Self::Values(t), TargetSpec::Values { dim }) => {
                (t, DType::F32, vec![batch, num_patches, dim])
            }
            (Self::Ids(t), _) | (Self::Values(t), _) => {
                return Err(Error::Shape {
                    what: "targets",
                    expected: format!("{spec:?}"),
                    found: format!("{:?} {:?}", t.dtype(), t.dims()),
                });
            }
        };
        if tensor.dtype() != dtype || tensor.dims() != shape {
            return Err(Error::Shape {
                what: "targets",
                expected: format!("{dtype:?} {shape:?}"),
                found: format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
            });
        }
        Ok(self)
    }
}
