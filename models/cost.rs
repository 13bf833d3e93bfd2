//! What a training step costs before it runs: its matrix products, their operations, and the memory of its activations.
//!
//! From the model's shape alone. `bench speed gemm` runs the products by themselves, which is the limit a step is held
//! against; `bench run --dry-run` turns operations into time.

use crate::precision::Precision;
use crate::vit::config::VitConfig;
use tessera_kernels::product::{Mat, MatMut, gemm_into};

/// `[rows, inner] x [inner, cols]`, `count` times, as the backward of a linear layer has them side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of the result.
    pub rows: usize,
    /// Numbers summed for each of it.
    pub inner: usize,
    /// Columns of the result.
    pub cols: usize,
    /// How the operands lie.
    pub layout: Layout,
    /// How many of these.
    pub count: usize,
}

/// Which operand is read transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Neither.
    Plain,
    /// The left one, `[inner, rows]` in memory.
    LeftTransposed,
    /// The right one, `[cols, inner]` in memory.
    RightTransposed,
}

impl Product {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * (self.rows * self.inner * self.cols * self.count) as f64
    }

    /// Numbers in the left operand, the right one and the result.
    fn sizes(&self) -> [usize; 3] {
        let (rows, inner, cols) = (self.rows, self.inner, self.cols);
        [rows * inner, inner * cols, rows * cols]
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Masked pretraining with so many patches kept and so wide a head.
    Pretrain {
        /// Patches the encoder sees.
        kept: usize,
        /// Numbers predicted per removed patch.
        head: usize,
    },
    /// Fine-tuning on so many classes.
    FineTune {
        /// Classes.
        classes: usize,
    },
    /// The frozen encoder, forward only.
    Encode,
}

/// All products of forward and backward over a shard of `images`. (The attention kernel makes `Q K^T` again in the backward
/// rather than keep it; that one is not among these, so the limit is that of a step without it.)
pub fn products(vit: &VitConfig, task: Task, images: usize) -> Vec<Product> {
    let p = vit.preset;
    let patch = 3 * vit.patch_size * vit.patch_size;
    let seen = match task {
        Task::Pretrain { kept, .. } => kept,
        _ => vit.num_patches(),
    };
    let mut all = Products {
        images,
        backward: !matches!(task, Task::Encode),
        list: Vec::new(),
    };
    all.first_linear(images * seen, patch, p.width);
    let rows = images * (seen + 1);
    (0..p.depth).for_each(|_| all.block(seen + 1, p.width, p.heads, rows));
    match task {
        Task::Pretrain { kept, head } => {
            all.linear(images * (kept + 1), p.width, p.decoder_width);
            let tokens = vit.num_patches() + 1;
            let removed = images * (vit.num_patches() - kept);
            for index in 0..p.decoder_depth {
                // Of the last block only the removed patches are asked for.
                let last = index + 1 == p.decoder_depth;
                let rows = if last { removed } else { images * tokens };
                all.block(tokens, p.decoder_width, p.decoder_heads, rows);
            }
            all.linear(removed, p.decoder_width, head);
        }
        Task::FineTune { classes } => all.linear(images, p.width, classes),
        Task::Encode => {}
    }
    all.list
}

struct Products {
    images: usize,
    backward: bool,
    list: Vec<Product>,
}

impl Products {
    fn push(&mut self, [rows, inner, cols]: [usize; 3], layout: Layout, count: usize) {
        self.list.push(Product {
            rows,
            inner,
            cols,
            layout,
            count,
        });
    }

    /// A linear layer whose input has no gradient.
    fn first_linear(&mut self, rows: usize, from: usize, to: usize) {
        self.push([rows, from, to], Layout::RightTransposed, 1);
        if self.backward {
            self.push([to, rows, from], Layout::LeftTransposed, 1);
        }
    }

    fn linear(&mut self, rows: usize, from: usize, to: usize) {
        self.first_linear(rows, from, to);
        if self.backward {
            self.push([rows, to, from], Layout::Plain, 1);
        }
    }

    /// A block, of which `going_on` rows go through the hidden layer.
    fn block(&mut self, tokens: usize, width: usize, heads: usize, going_on: usize) {
        let (rows, size) = (self.images * tokens, width / heads);
        self.linear(rows, width, 3 * width);
        let each = self.images * heads;
        self.push([tokens, size, tokens], Layout::RightTransposed, each);
        self.push([tokens, tokens, size], Layout::Plain, each);
        if self.backward {
            self.push([tokens, size, tokens], Layout::RightTransposed, each);
            self.push([tokens, tokens, size], Layout::LeftTransposed, 2 * each);
            self.push([tokens, tokens, size], Layout::Plain, each);
        }
        self.linear(rows, width, width);
        self.linear(going_on, width, 4 * width);
        self.linear(going_on, 4 * width, width);
    }
}

/// Operations of `products`.
pub fn flops(products: &[Product]) -> f64 {
    products.iter().map(Product::flops).sum()
}

/// Numbers a model learns or keeps: the encoder, and what the task adds to it.
pub fn parameters(vit: &VitConfig, task: Task) -> usize {
    let p = vit.preset;
    let linear = |from: usize, to: usize| from * to + to;
    let block = |width: usize| {
        let attention = linear(width, 3 * width) + linear(width, width);
        4 * width + attention + linear(width, 4 * width) + linear(4 * width, width)
    };
    let positions = |width: usize| (vit.num_patches() + 1) * width;
    let patch = 3 * vit.patch_size * vit.patch_size;
    let encoder = linear(patch, p.width)
        + p.width
        + positions(p.width)
        + 2 * p.width
        + p.depth * block(p.width);
    let added = match task {
        Task::Pretrain { head, .. } => {
            let width = p.decoder_width;
            linear(p.width, width)
                + 3 * width
                + positions(width)
                + linear(width, head)
                + p.decoder_depth * block(width)
        }
        Task::FineTune { classes } => linear(p.width, classes),
        Task::Encode => 0,
    };
    encoder + added
}

/// Bytes of activations that a shard of `images` holds between forward and backward: of every token of a block its input, both
/// norms' outputs, the joint projection, the mixed values, the sum in the middle, and the hidden layer before and after GELU.
/// With `checkpointing` the blocks' inputs only, and all of one block at a time.
pub fn activation_bytes(vit: &VitConfig, task: Task, images: usize, checkpointing: bool) -> usize {
    const BLOCK: usize = 1 + 2 + 3 + 1 + 1 + 4 + 4;
    let p = vit.preset;
    let token = |tokens: usize, width: usize| images * tokens * width;
    let blocks = |depth: usize, input: usize| match checkpointing {
        true => depth * input + BLOCK * input,
        false => depth * BLOCK * input,
    };
    let all = vit.num_patches() + 1;
    let floats = match task {
        Task::Pretrain { kept, head } => {
            blocks(p.depth, token(kept + 1, p.width))
                + blocks(p.decoder_depth, token(all, p.decoder_width))
                + token(all - kept - 1, head)
        }
        Task::FineTune { .. } => blocks(p.depth, token(all, p.width)),
        Task::Encode => BLOCK * token(all, p.width),
    };
    4 * floats
}

/// Bytes that training takes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBytes {
    /// Whatever the batch: parameters, moments, sums of gradients, working copies.
    pub model: usize,
    /// Per image of a step.
    pub image: usize,
}

/// What a step out of single operations holds on a device: of every token of a block its input, both norms' outputs, the joint
/// projection, the mixed values, both branches' ends and the sum in the middle, and the hidden layer before and after GELU; half as
/// much again for gradients on their way; the images, twice; and weights of attention of every pair of tokens where the kernel
/// does not take a head's size or type.
pub fn device_bytes(vit: &VitConfig, task: Task, precision: Precision) -> DeviceBytes {
    const BLOCK: usize = 1 + 2 + 3 + 1 + 2 + 1 + 4 + 4;
    let p = vit.preset;
    let float = match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    };
    let block = |tokens: usize, width: usize, heads: usize| {
        let fits = precision == Precision::Bf16 && (width / heads).is_multiple_of(16);
        let pairs = if fits { 0 } else { heads * tokens * tokens * 4 };
        float * BLOCK * tokens * width + 4 * pairs
    };
    let all = vit.num_patches() + 1;
    let activations = match task {
        Task::Pretrain { kept, head } => {
            p.depth * block(kept + 1, p.width, p.heads)
                + p.decoder_depth * block(all, p.decoder_width, p.decoder_heads)
                + 3 * 4 * all * head
        }
        Task::FineTune { .. } => p.depth * block(all, p.width, p.heads),
        Task::Encode => 2 * block(all, p.width, p.heads),
    };
    let image = 4 * 3 * vit.image_size * vit.image_size;
    // f32: variable, the optimiser's value, two moments, two sums of gradients; the working copy and a gradient in the products' type.
    let parameter = 4 * 6 + 2 * float;
    DeviceBytes {
        model: parameters(vit, task) * parameter,
        image: activations + activations / 2 + 2 * image,
    }
}

/// Bytes of a shard's data before its step: its images' pixels and so many `targets` per image, f32 or u32.
pub fn prepared_bytes(vit: &VitConfig, targets: usize) -> usize {
    4 * vit.shard() * (3 * vit.image_size * vit.image_size + targets)
}

/// Memory that [`multiply`] works in, made once.
pub struct Scratch([Vec<f32>; 3]);

impl Scratch {
    /// Room for the largest of `products`; the numbers are ordinary ones.
    pub fn new(products: &[Product]) -> Self {
        let largest = |which: usize| products.iter().map(|p| p.sizes()[which]).max().unwrap_or(0);
        let numbers = |len: usize| (0..len).map(|i| (i % 251) as f32 / 125.5 - 1.0).collect();
        Self([
            numbers(largest(0)),
            numbers(largest(1)),
            vec![0.0; largest(2)],
        ])
    }
}

/// Runs `products` on this thread by the crate `gemm`: the limit that the layers, which have tiles of their own, are held against.
pub fn multiply(products: &[Product], Scratch([left, right, out]): &mut Scratch) {
    for product in products {
        let &Product {
            rows, inner, cols, ..
        } = product;
        let (a, b) = match product.layout {
            Layout::Plain => (Mat::new(left, rows, inner), Mat::new(right, inner, cols)),
            Layout::LeftTransposed => (
                Mat::new(left, inner, rows).t(),
                Mat::new(right, inner, cols),
            ),
            Layout::RightTransposed => (
                Mat::new(left, rows, inner),
                Mat::new(right, cols, inner).t(),
            ),
        };
        for _ in 0..product.count {
            gemm_into(MatMut::new(out, rows, cols), 1.0, a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::preset;

    /// The usual count: a block's forward is 24 D^2 + 4 N D operations per token, backward twice that.
    #[test]
    fn a_vit_bases_operations_are_the_known_ones() {
        let vit = VitConfig {
            preset: preset("B").unwrap(),
            image_size: 224,
            patch_size: 16,
        };
        let forward = flops(&products(&vit, Task::Encode, 1));
        // timm's table: 17.58 GMACs for ViT-B/16 at 224, head included.
        assert!((forward / 2e9 - 17.58).abs() < 0.02, "{forward}");
        let train = flops(&products(&vit, Task::FineTune { classes: 1000 }, 1));
        assert!(
            (2.98..3.0).contains(&(train / forward)),
            "{}",
            train / forward
        );
    }

    #[test]
    fn parameters_are_those_of_the_models() {
        let vit = VitConfig {
            preset: preset("nano").unwrap(),
            image_size: 32,
            patch_size: 4,
        };
        let count = |params: &crate::ParamStore| -> usize {
            let names = params.names().iter();
            names.map(|n| params.get(n).unwrap().elem_count()).sum()
        };
        let encoder = crate::vit::encoder(&vit, 0).unwrap();
        assert_eq!(count(&encoder), parameters(&vit, Task::Encode));
        let whole = crate::vit::decoder(encoder, &vit, 50, 0).unwrap();
        let task = Task::Pretrain { kept: 16, head: 50 };
        assert_eq!(count(&whole), parameters(&vit, task));
    }

    #[test]
    fn every_product_runs_within_its_memory() {
        let vit = VitConfig {
            preset: preset("nano").unwrap(),
            image_size: 32,
            patch_size: 4,
        };
        let task = Task::Pretrain { kept: 16, head: 50 };
        let all = products(&vit, task, 3);
        let mut scratch = Scratch::new(&all);
        multiply(&all, &mut scratch);
        assert!(scratch.0[2].iter().any(|v| *v != 0.0));
    }
}
