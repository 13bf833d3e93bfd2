//! Mixup and CutMix as in timm's `Mixup` in batch mode.

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_distr::{Beta, Distribution};

use super::config::FinetuneConfig;
use crate::error::{Error, Result};
use crate::rng::keyed_rng;
use tessera_kernels::ops::values::read;
use tessera_kernels::simd::vectorized;

/// Mixup or CutMix of one step.
pub(super) struct Mix {
    /// Weight of the image's own label.
    pub keep: f64,
    /// CutMix: rows and columns taken from the partner, `[top, bottom, left, right]`.
    pub cut: Option<[usize; 4]>,
}

impl Mix {
    /// Draws from (seed, step). If both are enabled, each has probability 0.5 (timm's `switch_prob`).
    pub fn draw(config: &FinetuneConfig, step: usize, side: usize) -> Result<Option<Self>> {
        let mut rng = keyed_rng(config.seed, "mix", step as u64, 0);
        let cutmix = match (config.mixup > 0.0, config.cutmix > 0.0) {
            (false, false) => return Ok(None),
            (true, true) => rng.random(),
            (_, cutmix) => cutmix,
        };
        let alpha = if cutmix { config.cutmix } else { config.mixup };
        let beta = Beta::new(alpha, alpha).map_err(|e| Error::Config(e.to_string()))?;
        let keep: f64 = beta.sample(&mut rng);
        if !cutmix {
            return Ok(Some(Self { keep, cut: None }));
        }
        let half = (side as f64 * (1.0 - keep).sqrt()) as usize / 2;
        let (y, x) = (rng.random_range(0..side), rng.random_range(0..side));
        let [top, left] = [y.saturating_sub(half), x.saturating_sub(half)];
        let [bottom, right] = [(y + half).min(side), (x + half).min(side)];
        // The label follows the area that is actually cut (timm's `correct_lam`).
        let keep = 1.0 - ((bottom - top) * (right - left)) as f64 / (side * side) as f64;
        Ok(Some(Self {
            keep,
            cut: Some([top, bottom, left, right]),
        }))
    }

    /// Mixes image i with image batch - 1 - i, `[batch, 3, side, side]`.
    pub fn blend(&self, images: &Tensor) -> Result<Tensor> {
        match images.device().is_cpu() {
            true => self.blend_loop(images),
            false => self.blend_tensors(images),
        }
    }

    /// Mixes with tensor operations on the images' device.
    fn blend_tensors(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, _, side, _) = images.dims4()?;
        let device = images.device();
        let reversed: Vec<u32> = (0..batch as u32).rev().collect();
        let reversed = Tensor::from_vec(reversed, batch, device)?;
        let partners = images.index_select(&reversed, 0)?;
        let Some([top, bottom, left, right]) = self.cut else {
            let keep = self.keep as f32;
            let kept = (images * f64::from(keep))?;
            return Ok((kept + (partners * f64::from(1.0 - keep))?)?);
        };
        let is_cut = |at: usize| {
            let (row, col) = (at / side, at % side);
            u8::from((top..bottom).contains(&row) && (left..right).contains(&col))
        };
        let cut: Vec<u8> = (0..side * side).map(is_cut).collect();
        let cut = Tensor::from_vec(cut, (1, 1, side, side), device)?;
        Ok(cut
            .broadcast_as(images.shape())?
            .where_cond(&partners, images)?)
    }

    fn blend_loop(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, channels, side, _) = images.dims4()?;
        let images = images.contiguous()?;
        let values = read(&images)?;
        let mut out = values.to_vec();
        let size = channels * side * side;
        let partners = values.chunks_exact(size).rev();
        let keep = self.keep as f32;
        for (out, partner) in out.chunks_exact_mut(size).zip(partners) {
            match self.cut {
                None => vectorized(
                    #[inline(always)]
                    || {
                        let pixels = out.iter_mut().zip(partner);
                        pixels.for_each(|(o, p)| *o = *o * keep + p * (1.0 - keep));
                    },
                ),
                Some([top, bottom, left, right]) => {
                    for row in (0..channels).flat_map(|c| c * side + top..c * side + bottom) {
                        let line = row * side + left..row * side + right;
                        out[line.clone()].copy_from_slice(&partner[line]);
                    }
                }
            }
        }
        Ok(Tensor::from_vec(
            out,
            (batch, channels, side, side),
            &Device::Cpu,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{formula, tensor, values};

    #[test]
    fn tensor_operations_mix_like_the_loop() {
        for batch in [1, 5, 6] {
            let images = tensor(formula(3, batch * 3 * 64, 2.0), &[batch, 3, 8, 8]);
            for cut in [None, Some([2, 7, 0, 3]), Some([4, 4, 1, 5])] {
                let mix = Mix { keep: 0.3, cut };
                let (looped, tensors) = (mix.blend_loop(&images), mix.blend_tensors(&images));
                assert_eq!(
                    values(&looped.unwrap()),
                    values(&tensors.unwrap()),
                    "{cut:?}"
                );
            }
        }
    }
}
