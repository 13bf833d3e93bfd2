//! Raw pixels: identity targets (MAE) and the features of K-means Pixel.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_kernels::device::launcher::{Device, DeviceError, Memory};
use tessera_kernels::ops::patchify::{Order, launch, normalize, split};

use super::{Patches, per_patch};
use crate::Result;
use crate::config::Config;
use crate::contract::{DeviceFeatures, Features, Fingerprint, Grid};
use crate::registry::{BuildContext, FeaturesFactory};
use crate::view::{IMAGENET_MEAN, IMAGENET_STD, Image, InputSpec, View};

/// Factory of `pixels`.
pub struct PixelsFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// `per-patch`: subtract each patch's mean and divide by its standard deviation (MAE's `norm_pix_loss`).
    #[serde(default)]
    normalize: Normalize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Normalize {
    #[default]
    None,
    PerPatch,
}

impl FeaturesFactory for PixelsFactory {
    fn kind(&self) -> &'static str {
        "pixels"
    }

    fn summary(&self) -> &'static str {
        "pixels of the patch, ImageNet mean and std, order (row, column, channel); normalize: none | per-patch"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let Fields { normalize } = with.parse()?;
        Ok(Box::new(Pixels {
            patches: Patches::of(with, cx)?,
            normalize,
        }))
    }
}

struct Pixels {
    patches: Patches,
    normalize: Normalize,
}

impl Features for Pixels {
    fn grid(&self) -> Grid {
        self.patches.grid
    }

    fn dim(&self) -> usize {
        3 * self.patches.side() * self.patches.side()
    }

    fn fingerprint(&self) -> Fingerprint {
        // Version 2: the rounding of normalised values changed.
        let version = match self.normalize {
            Normalize::None => 1,
            Normalize::PerPatch => 2,
        };
        let about = format!("pixels {version} {:?} {:?}", self.patches, self.normalize);
        Fingerprint::of(&[about.as_bytes()])
    }

    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let size = self.patches.image_size;
        let images = view.values(&InputSpec::imagenet(size))?;
        let mut values = split(&images, size, self.patches.side(), Order::ChannelLast);
        if self.normalize == Normalize::PerPatch {
            normalize(&mut values, self.dim());
        }
        per_patch(values, view.batch(), self.grid(), self.dim())
    }

    fn on_device(&self) -> Option<&dyn DeviceFeatures> {
        Some(self)
    }

    fn picture(&self, values: &[f32]) -> Option<Image> {
        let byte = |(at, value): (usize, &f32)| {
            let (mean, std) = (IMAGENET_MEAN[at % 3], IMAGENET_STD[at % 3]);
            ((value * std + mean) * 255.0).round() as u8
        };
        let rgb: Vec<u8> = values.iter().enumerate().map(byte).collect();
        let side = self.patches.side();
        (self.normalize == Normalize::None).then(|| Image {
            width: side,
            height: side,
            rgb: rgb.into(),
        })
    }
}

impl DeviceFeatures for Pixels {
    fn extract(&self, device: &Device, view: &View<'_>) -> Result<Memory> {
        let input = InputSpec::imagenet(self.patches.image_size);
        let values = view.patches_on(device, &input, self.patches.side(), Order::ChannelLast)?;
        if self.normalize == Normalize::PerPatch {
            let (rows, dim) = (values.len() / self.dim(), self.dim());
            let launch = launch::normalize(rows, dim).map_err(DeviceError::from)?;
            device.run(&launch, &[("values", &values)])?;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_row_major_with_channels_last() {
        let patches = Patches {
            image_size: 4,
            grid: Grid { rows: 2, cols: 2 },
        };
        let image: Vec<f32> = (0..48).map(|v| v as f32).collect();
        let out = split(&image, 4, patches.side(), Order::ChannelLast);
        // Patch 1 begins at column 2 of row 0: channel planes are 16 apart.
        assert_eq!(
            out[12..24],
            [2., 18., 34., 3., 19., 35., 6., 22., 38., 7., 23., 39.]
        );
    }

    #[test]
    fn a_normalised_patch_has_mean_zero_and_unbiased_variance_one() {
        let mut patch: Vec<f32> = (0..48).map(|v| (v * v % 17) as f32 + 100.0).collect();
        normalize(&mut patch, 48);
        let mean = patch.iter().sum::<f32>() / 48.0;
        let variance = patch.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / 47.0;
        assert!(
            mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4,
            "{mean} {variance}"
        );
    }
}
