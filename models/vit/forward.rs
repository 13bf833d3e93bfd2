//! The forward pass. B batch, N patches, D width, H heads, P patch side.

use candle_core::Tensor;

use super::{NORM_EPS, VitConfig};
use crate::kernels::{gelu, layer_norm, softmax};
use crate::{ParamStore, Result};

/// Patches of images, channel-first as the patch projection's weight has them.
///
/// # Shapes
/// `[batch, 3, side, side]` to `[batch, num_patches, 3 * patch * patch]`.
///
/// # Errors
/// When the images have another size.
pub fn split_patches(vit: &VitConfig, images: &Tensor) -> Result<Tensor> {
    let (batch, channels, _, _) = images.dims4()?;
    let (grid, patch) = (vit.grid(), vit.patch_size);
    let split = images.reshape(vec![batch, channels, grid, patch, grid, patch])?;
    let split = split.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?;
    Ok(split.reshape((batch, grid * grid, channels * patch * patch))?)
}

/// Patch and position embedding.
///
/// # Shapes
/// `[batch, 3, side, side]` to `[batch, num_patches, width]`.
///
/// # Errors
/// When the images have another size.
pub fn embed(params: &ParamStore, vit: &VitConfig, images: &Tensor) -> Result<Tensor> {
    let patches = split_patches(vit, images)?;
    let weight = params.get("patch_embed.proj.weight")?.flatten_from(1)?;
    let tokens = affine(&patches, &weight, params.get("patch_embed.proj.bias")?)?;
    let positions = params.get("pos_embed")?.narrow(1, 1, vit.num_patches())?;
    Ok(tokens.broadcast_add(&positions)?)
}

/// What the encoder gives.
pub struct Encoded {
    /// Class token and patch tokens before the final norm, `[batch, 1 + patches, width]`.
    pub tokens: Tensor,
}

impl Encoded {
    /// After the final norm, `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// When the store has no `norm`.
    pub fn normed(&self, params: &ParamStore) -> Result<Tensor> {
        norm(params, "norm", &self.tokens)
    }
}

/// The encoder's blocks over embedded patches (all, or the kept ones); `drop` scales each residual branch per image.
///
/// # Shapes
/// `patches` `[batch, kept, width]`; `drop(block, branch)` `[batch, 1, 1]`.
///
/// # Errors
/// When a parameter is absent.
pub fn encode_tokens(
    params: &ParamStore,
    vit: &VitConfig,
    patches: &Tensor,
    drop: &dyn Fn(usize, usize) -> Result<Option<Tensor>>,
) -> Result<Encoded> {
    let (batch, _, width) = patches.dims3()?;
    let position = params.get("pos_embed")?.narrow(1, 0, 1)?;
    let cls = params
        .get("cls_token")?
        .add(&position)?
        .expand((batch, 1, width))?;
    let mut tokens = Tensor::cat(&[&cls, patches], 1)?;
    for index in 0..vit.preset.depth {
        let name = format!("blocks.{index}");
        tokens = block(params, &name, vit.preset.heads, &tokens, &|branch| {
            drop(index, branch)
        })?;
    }
    Ok(Encoded { tokens })
}

/// The decoder: kept tokens back in their places, mask tokens elsewhere, blocks, norm, prediction.
///
/// # Shapes
/// `encoded` `[batch, 1 + kept, width]` (normed); `restore` `[batch * num_patches]` u32 says for each patch which row of
/// (kept tokens, mask tokens) of its image it takes, as rows of the flattened batch; returns
/// `[batch, num_patches, head_width]`.
///
/// # Errors
/// When a parameter is absent.
pub fn decode(
    params: &ParamStore,
    vit: &VitConfig,
    encoded: &Tensor,
    restore: &Tensor,
) -> Result<Tensor> {
    let x = linear(params, "decoder_embed", encoded)?;
    let (batch, tokens, width) = x.dims3()?;
    let (kept, patches) = (tokens - 1, vit.num_patches());
    let masks = params
        .get("mask_token")?
        .expand((batch, patches - kept, width))?;
    let shuffled = Tensor::cat(&[&x.narrow(1, 1, kept)?, &masks], 1)?;
    let shuffled = shuffled.contiguous()?.reshape((batch * patches, width))?;
    let placed = shuffled
        .index_select(restore, 0)?
        .reshape((batch, patches, width))?;
    let x = Tensor::cat(&[&x.narrow(1, 0, 1)?, &placed], 1)?;
    let mut x = x.broadcast_add(params.get("decoder_pos_embed")?)?;
    for index in 0..vit.preset.decoder_depth {
        x = block(
            params,
            &format!("decoder_blocks.{index}"),
            vit.preset.decoder_heads,
            &x,
            &|_| Ok(None),
        )?;
    }
    let x = norm(params, "decoder_norm", &x)?.narrow(1, 1, patches)?;
    linear(params, "decoder_pred", &x.contiguous()?)
}

/// Class scores of pooled features by the fine-tuning head.
///
/// # Shapes
/// `[batch, width]` to `[batch, classes]`.
///
/// # Errors
/// When the store has no `head`.
pub fn logits(params: &ParamStore, pooled: &Tensor) -> Result<Tensor> {
    linear(params, "head", pooled)
}

/// Pre-norm transformer block (timm `Block`).
fn block(
    params: &ParamStore,
    name: &str,
    heads: usize,
    x: &Tensor,
    drop: &dyn Fn(usize) -> Result<Option<Tensor>>,
) -> Result<Tensor> {
    let branch = attention(
        params,
        &format!("{name}.attn"),
        heads,
        &norm(params, &format!("{name}.norm1"), x)?,
    )?;
    let x = residual(x, branch, drop(0)?)?;
    let hidden = linear(
        params,
        &format!("{name}.mlp.fc1"),
        &norm(params, &format!("{name}.norm2"), &x)?,
    )?;
    let branch = linear(params, &format!("{name}.mlp.fc2"), &gelu(&hidden)?)?;
    residual(&x, branch, drop(1)?)
}

fn residual(x: &Tensor, branch: Tensor, scale: Option<Tensor>) -> Result<Tensor> {
    let branch = match scale {
        Some(scale) => branch.broadcast_mul(&scale)?,
        None => branch,
    };
    Ok((x + branch)?)
}

fn attention(params: &ParamStore, name: &str, heads: usize, x: &Tensor) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    let size = width / heads;
    let qkv = linear(params, &format!("{name}.qkv"), x)?;
    let qkv = qkv
        .reshape((batch, tokens, 3, heads, size))?
        .permute((2, 0, 3, 1, 4))?
        .contiguous()?;
    let part = |i: usize| -> Result<Tensor> {
        Ok(qkv
            .narrow(0, i, 1)?
            .reshape((batch * heads, tokens, size))?)
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let weights = softmax(&q.matmul(&k.t()?)?, 1.0 / (size as f32).sqrt())?;
    let mixed = weights.matmul(&v)?.reshape((batch, heads, tokens, size))?;
    let mixed = mixed
        .transpose(1, 2)?
        .contiguous()?
        .reshape((batch, tokens, width))?;
    linear(params, &format!("{name}.proj"), &mixed)
}

/// Layer norm with the parameters `name.weight` and `name.bias`.
pub(crate) fn norm(params: &ParamStore, name: &str, x: &Tensor) -> Result<Tensor> {
    let weight = params.get(&format!("{name}.weight"))?;
    Ok(layer_norm(
        x,
        weight,
        params.get(&format!("{name}.bias"))?,
        NORM_EPS,
    )?)
}

fn linear(params: &ParamStore, name: &str, x: &Tensor) -> Result<Tensor> {
    affine(
        x,
        params.get(&format!("{name}.weight"))?,
        params.get(&format!("{name}.bias"))?,
    )
}

/// `x W^T + b` over the last dimension, as one matrix product.
fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let from = shape.pop().unwrap_or(1);
    let rows = shape.iter().product::<usize>();
    shape.push(weight.dim(0)?);
    let y = x
        .reshape((rows, from))?
        .matmul(&weight.t()?)?
        .broadcast_add(bias)?;
    Ok(y.reshape(shape)?)
}
