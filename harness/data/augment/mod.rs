//! Pixel augmentations of fine-tuning: timm's RandAugment and random erasing. The random generator is keyed by (seed, epoch,
//! image), so the result depends neither on threads nor on resuming.

mod color;
mod erase;
mod geometry;

use rand::Rng;
use rand_distr::{Distribution, Normal};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{Edit, Sample};

/// One operation with its argument in timm's units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Stretches each channel to 0..255.
    AutoContrast,
    /// Flattens each channel's histogram.
    Equalize,
    /// Replaces each value by 255 minus the value.
    Invert,
    /// Rotates counter-clockwise, in degrees.
    Rotate(f64),
    /// Number of bits to preserve.
    Posterize(u32),
    /// Threshold for inversion.
    Solarize(u32),
    /// Number added to values below 128.
    SolarizeAdd(u32),
    /// Factor; 1 is the image.
    Color(f64),
    /// Factor; 1 is the image.
    Contrast(f64),
    /// Factor; 1 is the image.
    Brightness(f64),
    /// Factor; 1 is the image.
    Sharpness(f64),
    /// Shift in columns per row.
    ShearX(f64),
    /// Shift in rows per column.
    ShearY(f64),
    /// Fraction of the width.
    TranslateX(f64),
    /// Fraction of the height.
    TranslateY(f64),
}

/// Number of operations to choose from.
const OPS: usize = 15;

impl Op {
    /// Returns timm's operation `index` of its increasing set at `magnitude` (0..10), with opposite sign if `negate`.
    pub fn at(index: usize, magnitude: f64, negate: bool) -> Self {
        let level = magnitude / 10.0;
        let sign = if negate { -1.0 } else { 1.0 };
        let signed = |scale: f64| sign * (level * scale);
        let factor = (1.0 + signed(0.9)).max(0.1);
        let whole = |scale: f64| (level * scale) as u32;
        match index {
            0 => Self::AutoContrast,
            1 => Self::Equalize,
            2 => Self::Invert,
            3 => Self::Rotate(signed(30.0)),
            4 => Self::Posterize(4 - whole(4.0)),
            5 => Self::Solarize(256 - whole(256.0).min(256)),
            6 => Self::SolarizeAdd(whole(110.0).min(128)),
            7 => Self::Color(factor),
            8 => Self::Contrast(factor),
            9 => Self::Brightness(factor),
            10 => Self::Sharpness(factor),
            11 => Self::ShearX(signed(0.3)),
            12 => Self::ShearY(signed(0.3)),
            13 => Self::TranslateX(signed(0.45)),
            _ => Self::TranslateY(signed(0.45)),
        }
    }

    /// Applies the operation to an image of `side` by `side` pixels.
    pub fn apply(self, rgb: &mut Vec<u8>, side: usize) {
        match self {
            Self::AutoContrast => color::auto_contrast(rgb),
            Self::Equalize => color::equalize(rgb),
            Self::Invert => color::invert(rgb),
            Self::Posterize(bits) => color::posterize(rgb, bits),
            Self::Solarize(threshold) => color::solarize(rgb, threshold),
            Self::SolarizeAdd(add) => color::solarize_add(rgb, add),
            Self::Color(factor) => color::color(rgb, factor),
            Self::Contrast(factor) => color::contrast(rgb, factor),
            Self::Brightness(factor) => color::brightness(rgb, factor),
            Self::Sharpness(factor) => color::sharpness(rgb, side, factor),
            Self::Rotate(degrees) => *rgb = geometry::rotate(rgb, side, degrees),
            Self::ShearX(factor) => *rgb = geometry::shear_x(rgb, side, factor),
            Self::ShearY(factor) => *rgb = geometry::shear_y(rgb, side, factor),
            Self::TranslateX(part) => *rgb = geometry::translate_x(rgb, side, part),
            Self::TranslateY(part) => *rgb = geometry::translate_y(rgb, side, part),
        }
    }
}

/// Maximum operations per image; timm's recipes have 2.
const MOST_OPS: f64 = 16.0;

/// timm's RandAugment: `layers` operations, each applied with probability `probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandAugment {
    /// Mean magnitude, 0..10.
    pub magnitude: f64,
    /// Standard deviation of the magnitude.
    pub magnitude_std: f64,
    /// Operations per image.
    pub layers: usize,
    /// Probability of applying each operation.
    pub probability: f64,
}

impl RandAugment {
    /// Parses timm's `rand-m9-mstd0.5-inc1` (also `n2`, `p0.5`).
    ///
    /// # Errors
    /// A message that names the part that is invalid, out of its range, or there twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err(format!(
                "found `{text}`, expected `none` or timm's form `rand-m9-mstd0.5-inc1`"
            ));
        }
        let mut policy = Self {
            magnitude: 10.0,
            magnitude_std: 0.0,
            layers: 2,
            probability: 0.5,
        };
        let (mut increasing, mut seen) = (false, Vec::new());
        for part in parts {
            let digits = part
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(part.len());
            let (name, value) = part.split_at(digits);
            let value: f64 = value
                .parse()
                .map_err(|_| format!("`{part}` in `{text}`: expected a number"))?;
            let expected = match name {
                "m" if !(0.0..=10.0).contains(&value) => "0 to 10",
                // timm draws uniform magnitudes above 100.
                "mstd" if !(0.0..=100.0).contains(&value) => "0 to 100",
                "n" if value.fract() != 0.0 || !(1.0..=MOST_OPS).contains(&value) => {
                    "a whole number from 1 to 16"
                }
                "p" if value <= 0.0 || value > 1.0 => "above 0 and at most 1",
                "inc" if ![0.0, 1.0].contains(&value) => "0 or 1",
                _ if seen.contains(&name) => "each part once",
                _ => "",
            };
            if !expected.is_empty() {
                return Err(format!("`{part}` in `{text}`: expected {expected}"));
            }
            seen.push(name);
            match name {
                "m" => policy.magnitude = value,
                "mstd" => policy.magnitude_std = value,
                "n" => policy.layers = value as usize,
                "p" => policy.probability = value,
                "inc" => increasing = value != 0.0,
                _ => {
                    return Err(format!(
                        "`{part}` in `{text}`: expected one of m, mstd, n, p, inc"
                    ));
                }
            }
        }
        if !increasing {
            return Err(format!(
                "`{text}`: only timm's increasing operations are supported; add `-inc1`"
            ));
        }
        Ok(policy)
    }

    /// Draws the operations for one image.
    pub fn draw(&self, rng: &mut impl Rng) -> Vec<Op> {
        let chosen: Vec<usize> = (0..self.layers).map(|_| rng.random_range(0..OPS)).collect();
        let done = chosen.into_iter().filter_map(|index| {
            let skip = rng.random::<f64>() > self.probability;
            let noise = Normal::new(self.magnitude, self.magnitude_std);
            let magnitude = noise.map_or(self.magnitude, |noise| noise.sample(rng));
            let negate = rng.random::<f64>() > 0.5;
            (!skip).then(|| Op::at(index, magnitude.clamp(0.0, 10.0), negate))
        });
        done.collect()
    }
}

/// The pixel augmentations of fine-tuning in one epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    /// RandAugment, or `None`.
    pub rand_augment: Option<RandAugment>,
    /// Probability of erasing a box.
    pub erasing: f64,
    /// Seed of the random draws.
    pub seed: u64,
    /// Index of the epoch.
    pub epoch: usize,
}

impl Edit for Pixels {
    fn bytes(&self, sample: &Sample, rgb: &mut Vec<u8>, side: usize) {
        let Some(policy) = &self.rand_augment else {
            return;
        };
        let index = sample.id.index as u64;
        let mut rng = keyed_rng(self.seed, "rand-augment", self.epoch as u64, index);
        for op in policy.draw(&mut rng) {
            op.apply(rgb, side);
        }
    }

    fn values(&self, sample: &Sample, values: &mut [f32], side: usize) {
        if self.erasing == 0.0 {
            return;
        }
        let index = sample.id.index as u64;
        let mut rng = keyed_rng(self.seed, "random-erasing", self.epoch as u64, index);
        erase::erase(values, side, self.erasing, &mut rng);
    }
}

#[cfg(test)]
mod tests;
