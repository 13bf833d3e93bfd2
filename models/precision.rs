//! The type of products.

/// The type of products and activations. Parameters, their moments, sums of gradients and the statistics of norms, softmax and loss are
/// f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32
    #[default]
    F32,
    /// bf16
    Bf16,
}

impl Precision {
    /// As it stands in suites and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
