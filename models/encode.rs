//! The frozen encoder over whole images.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::vit::{self, Pass, VitConfig};
use crate::{Error, ImageSource, ParamStore, Result};

/// Which vector stands for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The class token after the final norm.
    Cls,
    /// The mean of the patch tokens after the final norm.
    Mean,
}

/// Both vectors of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// Numbers per vector.
    pub dim: usize,
    /// Class tokens, `[images, dim]`.
    pub cls: Vec<f32>,
    /// Means of the patch tokens, `[images, dim]`.
    pub mean: Vec<f32>,
}

impl Frozen {
    /// The vectors of one kind.
    pub fn pooled(&self, pool: Pool) -> &[f32] {
        match pool {
            Pool::Cls => &self.cls,
            Pool::Mean => &self.mean,
        }
    }
}

/// Encodes the images `indices` of `source` as epoch `epoch` sees them.
///
/// # Errors
/// [`Error::Interrupted`], and what the source says.
pub fn encode(
    params: &ParamStore,
    vit: &VitConfig,
    source: &dyn ImageSource,
    epoch: usize,
    indices: &[usize],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Frozen> {
    let params = &params.frozen();
    let shards: Vec<(Vec<f32>, Vec<f32>)> = indices
        .par_chunks(vit.shard())
        .map(|shard| {
            if interrupted() {
                return Err(Error::Interrupted);
            }
            let tokens = tokens(params, vit, &source.images(epoch, shard)?)?;
            let patches = tokens.narrow(1, 1, vit.num_patches())?.mean(1)?;
            let cls = tokens.narrow(1, 0, 1)?;
            Ok((
                cls.flatten_all()?.to_vec1()?,
                patches.flatten_all()?.to_vec1()?,
            ))
        })
        .collect::<Result<_>>()?;
    let (cls, mean): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
    Ok(Frozen {
        dim: vit.preset.width,
        cls: cls.concat(),
        mean: mean.concat(),
    })
}

/// Patch tokens after the final norm, class token dropped, `[batch, num_patches, width]`, of `images` `[batch, 3, side, side]`.
///
/// # Errors
/// When `params` are not `vit`'s encoder, or `images` have another size.
pub fn patches(params: &ParamStore, vit: &VitConfig, images: &Tensor) -> Result<Tensor> {
    let all = tokens(params, vit, images)?;
    Ok(all.narrow(1, 1, vit.num_patches())?.contiguous()?)
}

/// Class token and patch tokens after the final norm, `[batch, 1 + num_patches, width]`.
fn tokens(params: &ParamStore, vit: &VitConfig, images: &Tensor) -> Result<Tensor> {
    let patches = vit::embed(params, vit, images)?;
    vit::encode_tokens(params, vit, &patches, &|_, _| None, &Pass::inference())?.normed(params)
}
