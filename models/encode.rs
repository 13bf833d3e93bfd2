//! Encoding of unmasked images with a frozen encoder.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::cost::Task;
use crate::error::{Error, Result};
use crate::ordered::in_order;
use crate::params::ParamStore;
use crate::vit::{self, Layer, VitConfig};

/// A data source that loads images on demand.
pub trait ImageSource: Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the images `indices` with the augmentation of epoch `epoch`.
    ///
    /// # Shapes
    /// Returns `[indices, 3, side, side]`, f32, normalised.
    ///
    /// # Errors
    /// If an image cannot be read.
    fn images(&self, epoch: usize, indices: &[usize]) -> Result<Tensor>;
}

/// The vector that represents an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The class token after the final norm.
    Cls,
    /// The mean of the patch tokens after the final norm.
    Mean,
}

/// Both vectors of encoded images.
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
    /// Returns the vectors of one kind.
    pub fn pooled(&self, pool: Pool) -> &[f32] {
        match pool {
            Pool::Cls => &self.cls,
            Pool::Mean => &self.mean,
        }
    }
}

/// Encodes the images `indices` of `source` with the augmentation of epoch `epoch`, by a layer of the encoder.
///
/// # Errors
/// [`Error::Interrupted`], or an error of the source; [`Error::Config`] if the encoder has no such layer.
pub fn encode(
    params: &ParamStore,
    (vit, layer): (&VitConfig, Layer),
    source: &dyn ImageSource,
    epoch: usize,
    indices: &[usize],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Frozen> {
    let params = &params.frozen();
    let shards = over_images(
        params,
        vit,
        source,
        epoch,
        indices,
        interrupted,
        &|images| {
            let tokens = tokens(params, vit, layer, images)?;
            let patches = tokens.narrow(1, 1, vit.num_patches())?.mean(1)?;
            let cls = tokens.narrow(1, 0, 1)?;
            let list = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
            Ok((list(cls)?, list(patches)?))
        },
    )?;
    let (cls, mean): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
    Ok(Frozen {
        dim: layer.width(vit.preset.width),
        cls: cls.concat(),
        mean: mean.concat(),
    })
}

/// Encodes the images `indices` as [`encode`] does and returns their patch tokens after the final norm, `[indices, num_patches,
/// layer.width(width)]`.
///
/// # Errors
/// As for [`encode`].
pub fn encode_patches(
    params: &ParamStore,
    (vit, layer): (&VitConfig, Layer),
    source: &dyn ImageSource,
    epoch: usize,
    indices: &[usize],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f32>> {
    let params = &params.frozen();
    let work = |images: &Tensor| -> Result<Vec<f32>> {
        let patches = tokens(params, vit, layer, images)?.narrow(1, 1, vit.num_patches())?;
        Ok(patches.flatten_all()?.to_vec1()?)
    };
    let shards = over_images(params, vit, source, epoch, indices, interrupted, &work)?;
    Ok(shards.concat())
}

/// Applies `work` to the images `indices` of `source`, a few at a time, and returns the results in order. On the CPU, shards run in
/// parallel. For a device, shards are loaded in parallel and joined to as many images as fit into its memory.
///
/// # Errors
/// [`Error::Interrupted`], or an error of `source` or `work`.
pub(crate) fn over_images<T: Send>(
    params: &ParamStore,
    vit: &VitConfig,
    source: &dyn ImageSource,
    epoch: usize,
    indices: &[usize],
    interrupted: &(dyn Fn() -> bool + Sync),
    work: &(dyn Fn(&Tensor) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    let compute = params.compute();
    let images = |shard: &[usize]| match interrupted() {
        true => Err(Error::Interrupted),
        false => source.images(epoch, shard),
    };
    let division = compute.division(vit, Task::Encode, indices.len());
    let Some(together) = division.together else {
        let shards = indices.par_chunks(division.shard);
        return shards.map(|shard| work(&images(shard)?)).collect();
    };
    let shards: Vec<&[usize]> = indices.chunks(division.shard).collect();
    let (mut waiting, mut all) = (Vec::new(), Vec::new());
    let take = |index: usize, images: Tensor| -> Result<()> {
        waiting.push(images.to_device(compute.device())?);
        if waiting.len() == together || index + 1 == shards.len() {
            all.push(work(&Tensor::cat(&waiting, 0)?)?);
            waiting.clear();
        }
        Ok(())
    };
    let ahead = 2 * rayon::current_num_threads();
    in_order(shards.len(), ahead, |index| images(shards[index]), take)?;
    Ok(all)
}

/// Computes the patch tokens of `images` `[batch, 3, side, side]` by a layer of the encoder, without the class token: `[batch, num_patches,
/// layer.width(width)]` f32, on the device of `images`.
///
/// # Errors
/// If `params` are not the encoder of `vit`, or `images` have another size.
pub fn patches(
    params: &ParamStore,
    vit: &VitConfig,
    layer: Layer,
    images: &Tensor,
) -> Result<Tensor> {
    let all = tokens(params, vit, layer, images)?;
    let patches = all.narrow(1, 1, vit.num_patches())?.contiguous()?;
    Ok(patches.to_device(images.device())?)
}

/// Computes class token and patch tokens after the final norm, `[batch, 1 + num_patches, layer.width(width)]` f32.
fn tokens(params: &ParamStore, vit: &VitConfig, layer: Layer, images: &Tensor) -> Result<Tensor> {
    let images = images.to_device(params.compute().device())?;
    let patches = vit::embed(params, vit, &images)?;
    let encoded = vit::encode_layer(params, vit, &patches, layer)?;
    Ok(encoded.to_dtype(DType::F32)?)
}
