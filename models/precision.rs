//! The number type of matrix products.

/// The number type of matrix products and activations. Parameters, moments, sums of gradients and the statistics of norms, softmax and
/// loss are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32
    #[default]
    F32,
    /// bf16
    Bf16,
}

impl Precision {
    /// Returns the name in suites and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
