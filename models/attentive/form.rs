//! The forms of an attentive probe, its sizes and its input.

use crate::error::{Error, Result};

/// The form of an attentive probe, for tokens of width D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// arXiv 2506.10178: query j has weights `softmax_n(q_j . x_n / sqrt(D))`, no key projection; it reads the j-th of `queries` equal
    /// groups of channels of the values `W x_n`, without bias. Parameters `queries` `[queries, D]` and `value.weight` `[D, D]`.
    MultiQuery {
        /// Number of queries, a divisor of D.
        queries: usize,
    },
    /// CAE: one learned query. With LayerNorms of query, keys and values, `q = Wq norm_q(u)`, `k = Wk norm_k(x)`, `v = Wv norm_v(x)`
    /// without biases, attention in `heads` heads of D / heads channels, then a linear layer. Parameters `query`, `norm_q`, `norm_k`,
    /// `norm_v`, `q`, `k`, `v` and `proj`. The biases of `norm_k`, `norm_v` and `proj` are left out, because they change no output: the first
    /// adds the same to every score, and BatchNorm subtracts the others.
    SingleQuery {
        /// Number of heads, a divisor of D.
        heads: usize,
    },
}

impl Form {
    /// Number of readers: queries or heads.
    pub fn readers(self) -> usize {
        match self {
            Self::MultiQuery { queries } => queries,
            Self::SingleQuery { heads } => heads,
        }
    }

    /// Checks that the readers divide the width.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(self, width: usize) -> Result<()> {
        let readers = self.readers();
        if readers > 0 && width.is_multiple_of(readers) {
            return Ok(());
        }
        let message = format!("found {readers} queries, expected a divisor of the width {width}");
        Err(Error::Config(message))
    }

    /// Factor of the scores.
    pub(super) fn scale(self, width: usize) -> f32 {
        let size = match self {
            Self::MultiQuery { .. } => width,
            Self::SingleQuery { heads } => width / heads,
        };
        1.0 / (size as f32).sqrt()
    }
}

/// Sizes of the input and the output.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Patch tokens per image.
    pub patches: usize,
    /// Numbers per token.
    pub width: usize,
    /// Classes.
    pub classes: usize,
}

/// A source of patch tokens.
pub trait TokenData {
    /// Returns the patch tokens of `indices` with the augmentation of epoch `epoch`, `[indices, patches, width]`.
    ///
    /// # Errors
    /// If an image cannot be read.
    fn tokens(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>>;
}

/// Gradients of a shard, or of a batch.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// Of the effective queries, `[readers, width]`.
    pub queries: Vec<f32>,
    /// Of the values' weight, `[width, width]`.
    pub value: Vec<f32>,
    /// Of the values' norm, `[width]`.
    pub norm: Vec<f32>,
}
