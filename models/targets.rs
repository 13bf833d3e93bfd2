//! Prediction targets for the patches of an image. Tokenizers produce [`Targets`], masked pretraining consumes them.

use std::fmt;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Largest number of codes: of ids, of a joint code, and of all groups together. The layer that predicts so many has 12 GiB of weights at
/// width 192.
pub const MOST_CODES: usize = 1 << 24;
/// Largest number of groups of codes.
pub const MOST_GROUPS: usize = 16;

/// Groups of codes of a patch (product and residual quantisation): the number of codes of each.
///
/// The joint code of a patch is the number whose digits are its codes, the first group's the most significant, each to the base of its
/// group's size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    sizes: [u32; MOST_GROUPS],
    count: usize,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

impl Groups {
    /// Returns groups of `sizes` codes.
    ///
    /// # Errors
    /// What was found and expected, if there are no groups or more than [`MOST_GROUPS`], a group is empty, or all together have more than
    /// [`MOST_CODES`].
    pub fn new(sizes: &[usize]) -> std::result::Result<Self, String> {
        if !(1..=MOST_GROUPS).contains(&sizes.len()) {
            let found = sizes.len();
            return Err(format!("found {found} groups, expected 1 to {MOST_GROUPS}"));
        }
        let total = sizes.iter().fold(0, |sum: usize, k| sum.saturating_add(*k));
        if sizes.contains(&0) || total > MOST_CODES {
            return Err(format!(
                "found groups of {sizes:?} codes, expected at least 1 in each and at most {MOST_CODES} together"
            ));
        }
        let mut all = [0; MOST_GROUPS];
        let each = all.iter_mut().zip(sizes);
        each.for_each(|(size, k)| *size = *k as u32);
        let count = sizes.len();
        Ok(Self { sizes: all, count })
    }

    /// Returns the number of groups.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of codes of each group.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes[..self.count]
    }

    /// Returns the number of codes of all groups together, the width of the prediction head.
    pub fn total(&self) -> usize {
        self.sizes().iter().map(|size| *size as usize).sum()
    }

    /// Returns the number of joint codes, the product of the sizes; `None` above [`MOST_CODES`].
    pub fn joint_size(&self) -> Option<usize> {
        let sizes = self.sizes().iter();
        let product = sizes.fold(1, |product: usize, size| {
            product.saturating_mul(*size as usize)
        });
        Some(product).filter(|product| *product <= MOST_CODES)
    }

    /// Returns the joint code of each patch of `codes`, `[patches, groups]`.
    ///
    /// # Errors
    /// [`Error::Data`] if a code is not below its group's size, or the joint codes are more than [`MOST_CODES`].
    pub fn joint(&self, codes: &[u32]) -> Result<Vec<u32>> {
        if self.joint_size().is_none() {
            return Err(Error::Data(format!(
                "groups of {self:?} codes have more than {MOST_CODES} joint codes"
            )));
        }
        let patch = |codes: &[u32]| {
            let digits = self.sizes().iter().zip(codes).enumerate();
            digits.into_iter().try_fold(0, |id, (group, (size, code))| {
                match code < size {
                    true => Ok(id * size + code),
                    false => Err(Error::Data(format!(
                        "the code {code} of group {group} is not in 0..{size}, the tokenizer's own number of codes"
                    ))),
                }
            })
        };
        codes.chunks_exact(self.count).map(patch).collect()
    }

    /// Returns the codes of one group of each patch of `codes`, `[patches, groups]`.
    pub fn of_group(&self, group: usize, codes: &[u32]) -> Vec<u32> {
        let patches = codes.chunks_exact(self.count);
        patches.map(|codes| codes[group]).collect()
    }
}

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
    /// Discrete: every patch has a code of each group.
    Codes {
        /// The groups.
        groups: Groups,
    },
}

impl TargetSpec {
    /// Width of the prediction head: `codebook_size`, `dim`, or the codes of all groups.
    pub fn head_width(self) -> usize {
        match self {
            Self::Ids { codebook_size } => codebook_size,
            Self::Values { dim } => dim,
            Self::Codes { groups } => groups.total(),
        }
    }

    /// Size of the codebook, of groups that of the joint code; `None` for continuous targets, and above [`MOST_CODES`] joint codes.
    pub fn codebook_size(self) -> Option<usize> {
        match self {
            Self::Ids { codebook_size } => Some(codebook_size),
            Self::Values { .. } => None,
            Self::Codes { groups } => groups.joint_size(),
        }
    }

    /// Whether targets are ids or codes.
    pub fn is_discrete(self) -> bool {
        !matches!(self, Self::Values { .. })
    }

    /// The groups of codes; `None` for ids and values.
    pub fn groups(self) -> Option<Groups> {
        match self {
            Self::Codes { groups } => Some(groups),
            _ => None,
        }
    }

    /// Numbers per patch: one id, `dim` values, or a code per group.
    pub fn per_patch(self) -> usize {
        match self {
            Self::Ids { .. } => 1,
            Self::Values { dim } => dim,
            Self::Codes { groups } => groups.count(),
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
    /// `[batch, num_patches, groups]`, u32, and the groups.
    Codes(Tensor, Groups),
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
                Self::Ids(tensor) | Self::Values(tensor) | Self::Codes(tensor, _) => tensor,
            })
            .collect();
        let joined = Tensor::cat(&tensors, 0)?;
        Ok(match all.first() {
            Some(Self::Ids(_)) => Self::Ids(joined),
            Some(Self::Codes(_, groups)) => Self::Codes(joined, *groups),
            _ => Self::Values(joined),
        })
    }

    /// Returns the ids of every image; of groups, the joint codes.
    ///
    /// # Shapes
    /// Returns `[batch, num_patches]`, u32.
    ///
    /// # Errors
    /// [`Error::Data`] for values, and as [`Groups::joint`].
    pub fn ids(&self) -> Result<Tensor> {
        match self {
            Self::Ids(ids) => Ok(ids.clone()),
            Self::Values(_) => Err(Error::Data("found values, expected ids".into())),
            Self::Codes(codes, groups) => {
                let (batch, patches, _) = codes.dims3()?;
                let ids = groups.joint(&codes.flatten_all()?.to_vec1::<u32>()?)?;
                Ok(Tensor::from_vec(ids, (batch, patches), codes.device())?)
            }
        }
    }

    /// Checks shape and dtype against `spec` and returns the targets unchanged.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ. This does not check the range of ids: the code that reads ids (files, ONNX graphs) checks it.
    pub fn checked(self, spec: TargetSpec, batch: usize, num_patches: usize) -> Result<Self> {
        let (tensor, dtype, mut shape) = match (&self, spec) {
            (Self::Ids(t), TargetSpec::Ids { .. }) => (t, DType::U32, vec![batch, num_patches]),
            (Self::Values(t), TargetSpec::Values { .. }) => {
                (t, DType::F32, vec![batch, num_patches])
            }
            (Self::Codes(t, own), TargetSpec::Codes { groups }) if *own == groups => {
                (t, DType::U32, vec![batch, num_patches])
            }
            (Self::Ids(t) | Self::Values(t) | Self::Codes(t, _), _) => {
                return Err(Error::Shape {
                    what: "targets",
                    expected: format!("{spec:?}"),
                    found: format!("{:?} {:?}", t.dtype(), t.dims()),
                });
            }
        };
        if !matches!(spec, TargetSpec::Ids { .. }) {
            shape.push(spec.per_patch());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_joint_code_is_the_number_of_its_groups_digits() {
        let groups = Groups::new(&[3, 1, 5]).unwrap();
        assert_eq!((groups.count(), groups.total()), (3, 9));
        assert_eq!(groups.joint_size(), Some(15));
        let codes: Vec<u32> = (0..15).flat_map(|id| [id / 5, 0, id % 5]).collect();
        let ids: Vec<u32> = (0..15).collect();
        assert_eq!(groups.joint(&codes).unwrap(), ids);
        assert_eq!(groups.of_group(2, &codes[..9]), [0, 1, 2]);
        let tensor = Tensor::from_vec(codes, (3, 5, 3), &Device::Cpu).unwrap();
        let found = Targets::Codes(tensor, groups).ids().unwrap();
        assert_eq!(found.to_vec2::<u32>().unwrap()[1], [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_code_beyond_its_group_is_no_other_joint_code() {
        let groups = Groups::new(&[3, 5]).unwrap();
        let error = groups.joint(&[0, 4, 1, 5]).unwrap_err().to_string();
        assert!(error.contains("5 of group 1 is not in 0..5"), "{error}");
    }

    #[test]
    fn only_joint_codes_within_the_limit_have_a_codebook() {
        let of = |sizes: &[usize]| TargetSpec::Codes {
            groups: Groups::new(sizes).unwrap(),
        };
        assert_eq!(of(&[4096, 4096]).codebook_size(), Some(MOST_CODES));
        let many = of(&[256; 16]);
        assert_eq!((many.codebook_size(), many.head_width()), (None, 4096));
        assert!(many.is_discrete() && many.per_patch() == 16);
        assert!(many.groups().unwrap().joint(&[0; 16]).is_err());
    }

    #[test]
    fn groups_that_no_head_predicts_are_refused() {
        for sizes in [&[][..], &[2; 17], &[3, 0], &[MOST_CODES, 1]] {
            assert!(Groups::new(sizes).is_err(), "{sizes:?}");
        }
    }

    #[test]
    fn codes_are_checked_against_their_own_groups() {
        let groups = Groups::new(&[3, 5]).unwrap();
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::U32, &Device::Cpu).unwrap();
        let of = |dims: &[usize], groups| Targets::Codes(zeros(dims), groups);
        let spec = TargetSpec::Codes { groups };
        assert!(of(&[2, 4, 2], groups).checked(spec, 2, 4).is_ok());
        assert!(of(&[2, 4, 3], groups).checked(spec, 2, 4).is_err());
        let other = Groups::new(&[5, 3]).unwrap();
        assert!(of(&[2, 4, 2], other).checked(spec, 2, 4).is_err());
        assert!(Targets::Ids(zeros(&[2, 4])).checked(spec, 2, 4).is_err());
    }
}
