//! Prediction targets for the patches of an image. Tokenizers produce [`Targets`], masked pretraining consumes them.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// The type of a tokenizer's targets, the same for all images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// Discrete: every patch has an id in `0..codebook_size`.
    Ids {
        /// Number of codes.
        codebook_size: usize,
    },
    /// Continuous: every patch has `dim` numbers.
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

    /// Size of the codebook; `None` for continuous targets.
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
    /// Concatenates the targets of several batches.
    ///
    /// # Errors
    /// If ids and values are mixed, or shapes do not match.
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
    /// [`Error::Shape`] if they differ. This does not check the range of ids: the code that reads ids (files, ONNX graphs) checks it.
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
