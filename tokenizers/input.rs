//! Size and scaling of the images that graphs and programs get.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::{ParamStore, checkpoint};

use crate::view::{IMAGENET_MEAN, IMAGENET_STD, InputSpec, MOST_PIXELS};

/// Size and scaling of the images that a graph or a program gets.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the input in pixels. Default: that of a graph's manifest or of the graph, else the suite's image_size.
    #[schemars(range(min = 1, max = MOST_PIXELS))]
    pub side: Option<usize>,
    /// Byte x of channel c becomes `(x/255 - mean[c]) / std[c]`: `imagenet`, `zero-one`, `minus-one-one`, `dvae`, or custom numbers.
    /// Default for a graph: the manifest's; a graph without a manifest needs it, because a wrong scale silently gives wrong targets. Default
    /// for a program: zero-one.
    pub scale: Option<Scale>,
}

/// Largest mean and std. Those of the 0..255 scale are larger, and would silently make every image nearly constant.
const MOST_SCALE: f32 = 10.0;
/// Least std: 1/65535 turns a pixel into a number of 16 bits.
const LEAST_STD: f32 = 1e-5;

/// Scaling of pixels, per channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// ImageNet's mean and standard deviation.
    Imagenet,
    /// `x/255`.
    ZeroOne,
    /// `x/127.5 - 1`.
    MinusOneOne,
    /// dVAE's `0.8 x/255 + 0.1`.
    Dvae,
    /// `{custom: {mean: [r, g, b], std: [r, g, b]}}`, each mean from -10 to 10 and each std from 0.00001 to 10.
    // The ranges of the schema are wider, so that `check` refuses numbers of the 0..255 scale with the remedy.
    Custom {
        /// Subtracted, on the 0..1 scale.
        #[schemars(inner(range(min = -1000, max = 1000)))]
        mean: [f32; 3],
        /// Divisor after the subtraction, on the 0..1 scale, above 0.
        #[schemars(extend("items" = {"type": "number", "exclusiveMinimum": 0, "maximum": 1000}))]
        std: [f32; 3],
    },
}

impl Scale {
    /// Returns the spec of an input of `side` pixels with this scaling.
    pub fn spec(self, side: usize) -> InputSpec {
        let (mean, std) = match self {
            Self::Imagenet => (IMAGENET_MEAN, IMAGENET_STD),
            Self::ZeroOne => ([0.0; 3], [1.0; 3]),
            Self::MinusOneOne => ([0.5; 3], [0.5; 3]),
            Self::Dvae => ([-0.125; 3], [1.25; 3]),
            Self::Custom { mean, std } => (mean, std),
        };
        InputSpec { side, mean, std }
    }

    /// Makes an encoder that was trained on images of this scaling take those of the suite, which are scaled by ImageNet's mean and std.
    ///
    /// # Errors
    /// If custom numbers are wrong, or `params` are no encoder's.
    pub fn fold_into(self, params: &ParamStore) -> Result<(), String> {
        self.check()?;
        let (ours, theirs) = (Self::Imagenet.spec(1), self.spec(1));
        let wide = |of: [f32; 3]| of.map(f64::from);
        let ([mean, std], [m, s]) = (
            [ours.mean, ours.std].map(wide),
            [theirs.mean, theirs.std].map(wide),
        );
        let factor = std::array::from_fn(|c| std[c] / s[c]);
        let offset = std::array::from_fn(|c| (mean[c] - m[c]) / s[c]);
        checkpoint::rescale(params, factor, offset).map_err(|e| e.to_string())
    }

    /// Checks custom numbers.
    ///
    /// # Errors
    /// If a mean or a standard deviation is no number of the 0..1 scale.
    pub fn check(self) -> Result<(), String> {
        let Self::Custom { mean, std } = self else {
            return Ok(());
        };
        let means = mean.iter().all(|mean| mean.abs() <= MOST_SCALE);
        if means && std.iter().all(|std| (LEAST_STD..=MOST_SCALE).contains(std)) {
            return Ok(());
        }
        Err(format!(
            "found mean {mean:?} and std {std:?}, expected each mean from -{MOST_SCALE} to {MOST_SCALE} and each std from {LEAST_STD} to \
             {MOST_SCALE}, on the 0..1 scale; divide numbers of the 0..255 scale by 255"
        ))
    }
}

/// The name in suites; mean and std of a custom one.
impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imagenet => f.write_str("imagenet"),
            Self::ZeroOne => f.write_str("zero-one"),
            Self::MinusOneOne => f.write_str("minus-one-one"),
            Self::Dvae => f.write_str("dvae"),
            Self::Custom { mean, std } => write!(f, "mean {mean:?} and std {std:?}"),
        }
    }
}

/// Maximum images per call; all are in memory.
pub const MOST_IMAGES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Means of the 0..255 scale made every pixel about -124.
    #[test]
    fn numbers_of_another_scale_are_refused() {
        let check = |mean: f32, std: f32| {
            Scale::Custom {
                mean: [mean; 3],
                std: [std; 3],
            }
            .check()
        };
        for (mean, std) in [
            (123.675, 58.395),
            (0.5, 58.395),
            (0.5, 1e-40),
            (f32::NAN, 1.0),
            (0.5, f32::NAN),
            (0.5, 0.0),
        ] {
            let error = check(mean, std).unwrap_err();
            assert!(
                error.ends_with("divide numbers of the 0..255 scale by 255"),
                "{error}"
            );
        }
        for (mean, std) in [
            (0.0, 1.0 / 255.0),
            (123.675 / 255.0, 1.0 / 255.0),
            (-0.125, 1.25),
            (0.5, 1.0 / 65535.0),
        ] {
            check(mean, std).unwrap();
        }
    }

    #[test]
    fn a_scale_is_shown_by_its_name_in_suites() {
        for scale in [
            Scale::Imagenet,
            Scale::ZeroOne,
            Scale::MinusOneOne,
            Scale::Dvae,
        ] {
            assert_eq!(serde_json::json!(scale), scale.to_string());
        }
    }
}
