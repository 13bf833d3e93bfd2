//! The forward pass. B batch, N patches, D width, H heads, P patch side.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, TensorId};

use super::config::{NORM_EPS, VitConfig};
use super::layer::Layer;
use crate::error::{Error, Result};
use crate::params::ParamStore;
use tessera_kernels::ops::block::{Beside, Block, MATRICES, PARAMETERS, Packs};
use tessera_kernels::ops::patchify::patchify;
use tessera_kernels::ops::{self, gather_rows, layer_norm, linear, restore_patches};

/// Computes patch and position embeddings of all patches. Embeddings are always f32, because their gradients are sums over images.
///
/// # Shapes
/// `[batch, 3, side, side]` f32 to `[batch, num_patches, width]` f32.
///
/// # Errors
/// If the images have another size.
pub fn embed(params: &ParamStore, vit: &VitConfig, images: &Tensor) -> Result<Tensor> {
    let batch = images.dim(0)?;
    let tokens = project(params, vit, images, None)?;
    let tokens = tokens.reshape((batch, vit.num_patches(), vit.preset.width))?;
    let positions = params.get("pos_embed")?.narrow(1, 1, vit.num_patches())?;
    Ok(tokens.broadcast_add(&positions)?)
}

/// Computes patch and position embeddings of the patches `keep` only.
///
/// # Shapes
/// `images` `[batch, 3, side, side]` f32; `keep` `[batch * kept]`: rows of `[batch * num_patches]` in the order of images. Returns
/// `[batch, kept, width]` f32.
///
/// # Errors
/// If the images have another size, or the length of `keep` is not a multiple of `batch`.
pub fn embed_kept(
    params: &ParamStore,
    vit: &VitConfig,
    images: &Tensor,
    keep: Vec<u32>,
) -> Result<Tensor> {
    let (batch, kept) = (images.dim(0)?, keep.len());
    let places = keep.iter().map(|row| 1 + row % vit.num_patches() as u32);
    let places = Tensor::from_vec(places.collect::<Vec<u32>>(), kept, images.device())?;
    let positions = params
        .get("pos_embed")?
        .squeeze(0)?
        .index_select(&places, 0)?;
    let tokens = (project(params, vit, images, Some(keep))? + positions)?;
    Ok(tokens.reshape((batch, kept / batch, vit.preset.width))?)
}

fn project(
    params: &ParamStore,
    vit: &VitConfig,
    images: &Tensor,
    keep: Option<Vec<u32>>,
) -> Result<Tensor> {
    let patches = patchify(images, vit.patch_size, keep)?;
    let patches = patches.to_dtype(params.compute().tokens())?;
    let weight = params.get("patch_embed.proj.weight")?.flatten_from(1)?;
    let bias = params.get("patch_embed.proj.bias")?;
    Ok(linear(&patches, &weight, Some(bias))?.to_dtype(DType::F32)?)
}

/// Output of the encoder.
pub struct Encoded {
    /// Class token and patch tokens before the final norm, `[batch, 1 + patches, width]`, in [`Compute::tokens`](crate::Compute::tokens).
    pub tokens: Tensor,
}

impl Encoded {
    /// Applies the final norm, `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// If the store has no `norm`.
    pub fn normed(&self, params: &ParamStore) -> Result<Tensor> {
        norm(params, "norm", &self.tokens)
    }
}

/// Applies the encoder's blocks to embedded patches (all or the visible ones); `drop` returns the scale of a residual branch per image.
///
/// # Shapes
/// `patches` `[batch, kept, width]` f32; `drop(block, branch)` `[batch]`.
///
/// # Errors
/// If a parameter is missing.
pub fn encode_tokens(
    params: &ParamStore,
    vit: &VitConfig,
    patches: &Tensor,
    drop: &dyn Fn(usize, usize) -> Option<Vec<f32>>,
    pass: &Pass,
) -> Result<Encoded> {
    let mut tokens = with_class(params, patches)?;
    for index in 0..vit.preset.depth {
        let name = format!("blocks.{index}");
        let scales = [0, 1].map(|branch| drop(index, branch));
        tokens = block(params, &name, vit.preset.heads, &tokens, scales, None, pass)?;
    }
    Ok(Encoded { tokens })
}

/// Puts the class token before embedded patches, in [`Compute::tokens`](crate::Compute::tokens).
fn with_class(params: &ParamStore, patches: &Tensor) -> Result<Tensor> {
    let (batch, _, width) = patches.dims3()?;
    let position = params.get("pos_embed")?.narrow(1, 0, 1)?;
    let cls = params
        .get("cls_token")?
        .add(&position)?
        .expand((batch, 1, width))?;
    let tokens = Tensor::cat(&[&cls, patches], 1)?;
    Ok(tokens.to_dtype(params.compute().tokens())?)
}

/// Applies the encoder's blocks up to `layer`, without a backward, and returns the outputs of its blocks after the final norm, side by side.
///
/// # Shapes
/// `patches` `[batch, num_patches, width]` f32 to `[batch, 1 + num_patches, layer.width(width)]`.
///
/// # Errors
/// [`Error::Config`] if the encoder has no such block.
pub fn encode_layer(
    params: &ParamStore,
    vit: &VitConfig,
    patches: &Tensor,
    layer: Layer,
) -> Result<Tensor> {
    let preset = vit.preset;
    if !layer.fits(preset.depth) {
        let message = format!("found layer {layer:?}, expected {}", Layer::EXPECTED);
        return Err(Error::Config(message));
    }
    let (blocks, pass) = (layer.blocks(preset.depth), Pass::inference());
    let mut tokens = with_class(params, patches)?;
    let mut found = Vec::with_capacity(blocks.len());
    for index in 0..blocks.end {
        let name = format!("blocks.{index}");
        tokens = block(
            params,
            &name,
            preset.heads,
            &tokens,
            [None, None],
            None,
            &pass,
        )?;
        if blocks.contains(&index) {
            found.push(norm(params, "norm", &tokens)?);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Ok(Tensor::cat(&found, 2)?),
    }
}

/// Applies the decoder: restores the order of patches with mask tokens for the masked ones, runs the blocks and the norm, and predicts the
/// masked patches.
///
/// # Shapes
/// `encoded` `[batch, 1 + kept, width]` after the norm; `restore` `[batch * num_patches]`: each patch's index in the order (visible,
/// masked) of its image; `removed`: rows of `[batch * num_patches]`. Returns `[removed, head_width]` in [`Compute::tokens`](crate::Compute::tokens).
///
/// # Errors
/// If a parameter is missing.
pub fn decode(
    params: &ParamStore,
    vit: &VitConfig,
    encoded: &Tensor,
    restore: Vec<u32>,
    removed: &[u32],
    pass: &Pass,
) -> Result<Tensor> {
    let x = linear_of(params, "decoder_embed", encoded)?;
    let mask_token = params.get("mask_token")?.flatten_all()?;
    let x = restore_patches(&x, &mask_token, restore)?;
    let positions = params.get("decoder_pos_embed")?.to_dtype(x.dtype())?;
    let mut x = x.broadcast_add(&positions)?;
    let rows = rows_of_tokens(removed, vit.num_patches());
    let (depth, heads) = (vit.preset.decoder_depth, vit.preset.decoder_heads);
    for index in 0..depth {
        let name = format!("decoder_blocks.{index}");
        // The last block computes only the masked patches.
        let only = (index + 1 == depth).then(|| rows.clone());
        x = block(params, &name, heads, &x, [None, None], only, pass)?;
    }
    if depth == 0 {
        x = gather_rows(&x.flatten_to(1)?, rows)?;
    }
    linear_of(params, "decoder_pred", &norm(params, "decoder_norm", &x)?)
}

/// Returns patches, rows of `[batch * patches]`, as rows of tokens: each image's class token precedes its patches.
pub(crate) fn rows_of_tokens(rows: &[u32], patches: usize) -> Vec<u32> {
    let rows = rows.iter();
    rows.map(|row| row + 1 + row / patches as u32).collect()
}

/// Computes class scores of pooled features with the fine-tuning head.
///
/// # Shapes
/// `[batch, width]` to `[batch, classes]`.
///
/// # Errors
/// If the store has no `head`.
pub fn logits(params: &ParamStore, pooled: &Tensor) -> Result<Tensor> {
    linear_of(params, "head", pooled)
}

/// Gradients of a backward pass.
pub(crate) struct Found {
    /// Gradients of variables in the graph.
    pub graph: GradStore,
    /// Gradients of the fused blocks' parameters.
    pub blocks: HashMap<TensorId, Vec<f32>>,
}

/// Settings of a forward pass, and the place where fused blocks store gradients.
#[derive(Clone, Default)]
pub struct Pass {
    beside: Option<Beside>,
    recompute: bool,
    packs: Packs,
}

impl Pass {
    /// A pass that a backward follows; [`Pass::gradients`] returns the complete gradients. With `recompute`, a block stores only its input
    /// and runs again in the backward.
    pub fn training(recompute: bool) -> Self {
        Self {
            beside: Some(Beside::default()),
            recompute,
            packs: Packs::default(),
        }
    }

    /// Lets blocks read `packs`, made by [`pack`] from the present parameters.
    pub(crate) fn with(self, packs: Packs) -> Self {
        Self { packs, ..self }
    }

    /// A pass without a backward, which stores no activations.
    pub fn inference() -> Self {
        Self::default()
    }

    /// Computes the gradients of this pass's `loss`. It returns those of the blocks' parameters separately, which avoids a copy.
    ///
    /// # Errors
    /// If the backward fails.
    pub(crate) fn gradients_apart(&self, loss: &Tensor) -> Result<Found> {
        Ok(Found {
            graph: loss.backward()?,
            blocks: self.beside.as_ref().map(Beside::take).unwrap_or_default(),
        })
    }

    /// Computes the gradients of this pass's `loss`.
    ///
    /// # Errors
    /// If the backward fails.
    pub fn gradients(&self, loss: &Tensor) -> Result<GradStore> {
        let mut store = loss.backward()?;
        if let Some(beside) = &self.beside {
            beside.lay_into(&mut store)?;
        }
        Ok(store)
    }
}

/// Packs the present matrices of all blocks into `packs` for the passes of one step, where blocks are single operations.
///
/// # Errors
/// If a matrix cannot be read.
pub(crate) fn pack(params: &ParamStore, packs: &mut Packs) -> Result<()> {
    if params.compute().is_composed() {
        return Ok(());
    }
    Ok(packs.renew(&matrices(params)?)?)
}

/// Returns the matrices of all blocks that products read.
pub(crate) fn matrices(params: &ParamStore) -> Result<Vec<&Tensor>> {
    let is_one = |name: &&String| {
        let of_block = name
            .split_once("blocks.")
            .and_then(|(_, rest)| rest.split_once('.'));
        of_block.is_some_and(|(_, part)| MATRICES.iter().any(|i| PARAMETERS[*i] == part))
    };
    let names = params.names().iter().filter(is_one);
    names.map(|name| params.get(name)).collect()
}

/// Applies a pre-norm transformer block (timm `Block`). `scales` are the factors of both branches per image, `only` the rows to compute.
fn block(
    params: &ParamStore,
    name: &str,
    heads: usize,
    x: &Tensor,
    scales: [Option<Vec<f32>>; 2],
    only: Option<Vec<u32>>,
    pass: &Pass,
) -> Result<Tensor> {
    let parameters = PARAMETERS.map(|part| params.get(&format!("{name}.{part}")).cloned());
    let parameters: Vec<Tensor> = parameters.into_iter().collect::<Result<_>>()?;
    let parameters = parameters.try_into().map_err(|_| {
        Error::Config(format!(
            "the block `{name}` does not have {} parameters",
            PARAMETERS.len()
        ))
    })?;
    let block = Block {
        parameters,
        packs: pass.packs.clone(),
        heads,
        eps: NORM_EPS,
        scales,
        only,
        recompute: pass.recompute,
        composed: params.compute().is_composed(),
    };
    Ok(ops::block::block(x, block, pass.beside.as_ref())?)
}

/// Applies layer norm with the parameters `name.weight` and `name.bias`.
pub(crate) fn norm(params: &ParamStore, name: &str, x: &Tensor) -> Result<Tensor> {
    let weight = params.get(&format!("{name}.weight"))?;
    Ok(layer_norm(
        x,
        weight,
        params.get(&format!("{name}.bias"))?,
        NORM_EPS,
    )?)
}

/// Applies the linear layer with the parameters `name.weight` and `name.bias`.
fn linear_of(params: &ParamStore, name: &str, x: &Tensor) -> Result<Tensor> {
    let weight = params.get(&format!("{name}.weight"))?;
    let bias = params.get(&format!("{name}.bias"))?;
    Ok(linear(x, weight, Some(bias))?)
}
