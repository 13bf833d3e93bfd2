//! Forward and backward of a part of a batch (MAE `models_mae.py`), as launches and matrix products in order.

use tessera_kernels::device::launch::Float;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::ops::attention::Sizes as AttentionSizes;
use tessera_kernels::ops::block::PARAMETERS;
use tessera_kernels::ops::block::device::{Activations, DeviceBlock, Rows};
use tessera_kernels::ops::cross_entropy::device::cross_entropy;
use tessera_kernels::ops::gather::device::{gather, place};
use tessera_kernels::ops::linear::device::{self as linear, Sizes, Sum};
use tessera_kernels::ops::patchify::{Order, launch as patchify};
use tessera_kernels::ops::squared_error::squared_error;
use tessera_kernels::ops::{layer_norm, linear::device::sums_of_rows};

use super::lists::{Lists, Tokens};
use super::weights::{Gradients, Weights, each};
use crate::error::Result;
use crate::vit::config::{NORM_EPS, VitConfig};

/// A part of a batch on a device.
pub(super) struct Input<'a> {
    /// Number of images.
    pub images: usize,
    /// Index lists.
    pub lists: &'a Lists,
    /// Values of all patches, `[images * patches, dim]` f32; `None` for ids.
    pub values: Option<Memory>,
    /// Place of the part's mean loss, `[1]` f32.
    pub loss: Memory,
    /// Add to the gradients of earlier parts.
    pub add: bool,
}

/// A model on a device.
pub(super) struct Model<'a> {
    pub device: &'a Device,
    pub vit: &'a VitConfig,
    pub weights: &'a Weights,
    pub label_smoothing: f32,
    /// Type of the residual stream.
    pub stream: Float,
}

/// Blocks of one width.
#[derive(Clone, Copy)]
struct Stack {
    prefix: &'static str,
    depth: usize,
    tokens: usize,
    width: usize,
    heads: usize,
}

impl Model<'_> {
    /// Computes the loss of a part and its share of the gradient of all parameters. `pixels` are `[images, 3, side, side]` f32.
    pub(super) fn part(&self, input: &Input<'_>, pixels: Memory) -> Result<()> {
        let (device, p) = (self.device, self.vit.preset);
        let (images, lists) = (input.images, input.lists);
        let kept = lists.keep.len() / images;
        let patch = 3 * self.vit.patch_size * self.vit.patch_size;
        let sizes = |rows, from, to| Sizes { rows, from, to };
        let encoder = Stack {
            prefix: "blocks",
            depth: p.depth,
            tokens: 1 + kept,
            width: p.width,
            heads: p.heads,
        };
        let decoder = Stack {
            prefix: "decoder_blocks",
            depth: p.decoder_depth,
            tokens: 1 + self.vit.num_patches(),
            width: p.decoder_width,
            heads: p.decoder_heads,
        };
        let project = sizes(images * kept, patch, p.width);
        let embed = sizes(images * (1 + kept), p.width, p.decoder_width);
        let masked = lists.removed.len();
        let head = self.weights.value("decoder_pred.bias")?.len();
        let predict = sizes(masked, p.decoder_width, head);

        let patches = self.patches(input, &pixels)?;
        drop(pixels);
        let x = self.linear("patch_embed.proj", project, &patches)?;
        let x = self.place(&x, &lists.encoder, ["cls_token", "pos_embed"])?;
        let (x, encoded) = self.blocks(encoder, images, x, None)?;
        let normed = self.norm("norm", &x)?;
        let y = self.linear("decoder_embed", embed, &normed)?;
        let y = self.place(&y, &lists.decoder, ["mask_token", "decoder_pos_embed"])?;
        let (y, decoded) = self.blocks(decoder, images, y, Some(&lists.masked))?;
        let last = self.norm("decoder_norm", &y)?;
        let scores = self.linear("decoder_pred", predict, &last)?;

        let grad = self.loss(input, &scores)?;
        drop(scores);
        let grad = self.linear_back("decoder_pred", predict, [&last, &grad], input.add)?;
        let grad = self.norm_back("decoder_norm", [&y, &grad], input.add)?;
        drop((last, y));
        let only = Some(&lists.masked);
        let grad = self.blocks_back(decoder, images, decoded, grad, only, input.add)?;
        let grad = self.place_back("mask_token", &lists.decoder, grad, input.add)?;
        let grad = self.linear_back("decoder_embed", embed, [&normed, &grad], input.add)?;
        let grad = self.norm_back("norm", [&x, &grad], input.add)?;
        drop((normed, x));
        let grad = self.blocks_back(encoder, images, encoded, grad, None, input.add)?;
        let grad = self.place_back("cls_token", &lists.encoder, grad, input.add)?;
        let names = ["patch_embed.proj.weight", "patch_embed.proj.bias"];
        let gradients = Gradients::of(self.weights, names, input.add)?;
        let [weight, bias] = gradients.sums();
        let factors = [&grad, &patches];
        Ok(linear::backward_weight(
            device,
            project,
            factors,
            weight,
            Some(bias),
        )?)
    }

    fn patches(&self, input: &Input<'_>, pixels: &Memory) -> Result<Memory> {
        let of = patchify::Images {
            batch: input.images,
            side: self.vit.image_size,
            patch: self.vit.patch_size,
            order: Order::ChannelFirst,
        };
        let keep = &input.lists.keep;
        let launch = patchify::from_floats(Float::Bf16, of, keep.len());
        let launch = launch.map_err(candle_core::Error::wrap)?;
        let given = [("images", pixels), ("keep", keep)];
        let [patches] = self.device.run_all(&[launch], &given, ["out"])?;
        Ok(patches)
    }

    fn linear(&self, name: &str, sizes: Sizes, x: &Memory) -> Result<Memory> {
        let of = |part: &str| self.weights.rounded(&format!("{name}.{part}"));
        let (weight, bias) = (of("weight")?, of("bias")?);
        Ok(linear::forward(
            self.device,
            sizes,
            [x, &weight],
            Some(&bias),
            None,
        )?)
    }

    /// Returns the gradient of a linear layer's input `x`.
    fn linear_back(
        &self,
        name: &str,
        sizes: Sizes,
        [x, grad]: [&Memory; 2],
        add: bool,
    ) -> Result<Memory> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let gradients = Gradients::of(self.weights, [&weight, &bias], add)?;
        let [dweight, dbias] = gradients.sums();
        linear::backward_weight(self.device, sizes, [grad, x], dweight, Some(dbias))?;
        let weight = self.weights.rounded(&weight)?;
        Ok(linear::backward_input(self.device, sizes, [grad, &weight])?)
    }

    fn norm(&self, name: &str, x: &Memory) -> Result<Memory> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let [weight, bias] = each([&weight, &bias], |name| self.weights.value(name))?;
        Ok(layer_norm::device::forward(
            self.device,
            x,
            [&weight, &bias],
            NORM_EPS,
        )?)
    }

    /// Returns the gradient of a norm's input `x`.
    fn norm_back(&self, name: &str, [x, grad]: [&Memory; 2], add: bool) -> Result<Memory> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let gradients = Gradients::of(self.weights, [&weight, &bias], add)?;
        let given = [x, &self.weights.value(&weight)?, grad];
        let sums = gradients.sums();
        Ok(layer_norm::device::backward(
            self.device,
            given,
            None,
            NORM_EPS,
            sums,
        )?)
    }

    /// Puts rows and the parameter `fill` into the order of tokens and adds the position embedding.
    fn place(&self, x: &Memory, tokens: &Tokens, [fill, positions]: [&str; 2]) -> Result<Memory> {
        let (fill, positions) = (self.weights.value(fill)?, self.weights.value(positions)?);
        let given = [x, &tokens.from, &fill];
        Ok(place(
            self.device,
            given,
            [&positions, &tokens.place],
            self.stream,
        )?)
    }

    /// Returns the gradient of the rows and computes that of the parameter `fill`.
    fn place_back(&self, fill: &str, tokens: &Tokens, grad: Memory, add: bool) -> Result<Memory> {
        let to = &self.weights.gradient_of(fill)?;
        let dim = to.len();
        sums_of_rows(self.device, &grad, &tokens.filled, dim, Sum { to, add })?;
        Ok(gather(self.device, &grad, &tokens.inverse, dim)?)
    }

    /// Calls `work` with block `index` of a stack.
    fn with_block<R>(
        &self,
        (stack, images, index): (Stack, usize, usize),
        only: Option<&Rows>,
        work: impl FnOnce(DeviceBlock<'_>, &[String; 12]) -> Result<R>,
    ) -> Result<R> {
        let names = PARAMETERS.map(|part| format!("{}.{index}.{part}", stack.prefix));
        let by_name = names.each_ref().map(String::as_str);
        let values = each(by_name, |name| self.weights.value(name))?;
        let rounded = each(by_name, |name| self.weights.rounded(name))?;
        let block = DeviceBlock {
            device: self.device,
            values: &values,
            rounded: &rounded,
            sizes: AttentionSizes {
                batch: images,
                tokens: stack.tokens,
                heads: stack.heads,
                size: stack.width / stack.heads,
            },
            eps: NORM_EPS,
            only: only.filter(|_| index + 1 == stack.depth),
        };
        work(block, &names)
    }

    /// Applies the blocks of a stack; the last one computes the rows `only`.
    fn blocks(
        &self,
        stack: Stack,
        images: usize,
        mut x: Memory,
        only: Option<&Rows>,
    ) -> Result<(Memory, Vec<Activations>)> {
        let mut all = Vec::with_capacity(stack.depth);
        for index in 0..stack.depth {
            let run = |block: DeviceBlock<'_>, _: &_| Ok(block.forward(x)?);
            let (y, kept) = self.with_block((stack, images, index), only, run)?;
            all.push(kept);
            x = y;
        }
        Ok((x, all))
    }

    /// Returns the gradient of the input of a stack.
    fn blocks_back(
        &self,
        stack: Stack,
        images: usize,
        mut all: Vec<Activations>,
        mut grad: Memory,
        only: Option<&Rows>,
        add: bool,
    ) -> Result<Memory> {
        while let Some(kept) = all.pop() {
            let run = |block: DeviceBlock<'_>, names: &[String; 12]| {
                let names = names.each_ref().map(String::as_str);
                let gradients = Gradients::of(self.weights, names, add)?;
                Ok(block.backward(kept, grad, &gradients.sums())?)
            };
            grad = self.with_block((stack, images, all.len()), only, run)?;
        }
        Ok(grad)
    }

    /// Computes the mean loss of the masked patches and returns the gradient of their scores.
    fn loss(&self, input: &Input<'_>, scores: &Memory) -> Result<Memory> {
        let (device, lists) = (self.device, input.lists);
        Ok(match &input.values {
            None => {
                let given = [&lists.ids, &lists.share];
                cross_entropy(device, scores, given, self.label_smoothing, &input.loss)?
            }
            Some(values) => {
                let given = [values, &lists.removed, &lists.share];
                squared_error(device, scores, given, &input.loss)?
            }
        })
    }
}
