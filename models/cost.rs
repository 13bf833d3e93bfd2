//! Estimates of a training step's cost from the model's shape: matrix products, operations, and memory of activations.
//!
//! `bench speed gemm` runs only the products, which gives the upper limit for a step's speed. `bench run --dry-run` converts operations
//! into time.

use std::collections::HashMap;

use crate::precision::Precision;
use crate::vit::config::VitConfig;
use tessera_kernels::product::{Form, MatMut, Operand, Rounding, Start, product_of_into};

/// A matrix product `[rows, inner] x [inner, cols]`, computed `count` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of the result.
    pub rows: usize,
    /// Length of the sum for each element of the result.
    pub inner: usize,
    /// Columns of the result.
    pub cols: usize,
    /// The operand that is read transposed.
    pub form: Form,
    /// Number of such products.
    pub count: usize,
}

impl Product {
    /// Number of multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * (self.rows * self.inner * self.cols * self.count) as f64
    }

    /// Sizes of both operands in memory.
    fn operands(&self) -> [[usize; 2]; 2] {
        self.form.operands([self.rows, self.inner, self.cols])
    }
}

/// The computation to estimate.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Masked pretraining.
    Pretrain {
        /// Visible patches, the encoder's input.
        kept: usize,
        /// Numbers predicted per masked patch.
        head: usize,
    },
    /// Fine-tuning of a classifier.
    FineTune {
        /// Number of classes.
        classes: usize,
    },
    /// The frozen encoder, forward only.
    Encode,
}

/// Returns all products of forward and backward over a shard of `images`. The list leaves out `Q K^T` in the backward, which the
/// attention kernel recomputes.
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
                // The last block computes only the masked patches.
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
    fn push(&mut self, [rows, inner, cols]: [usize; 3], form: Form, count: usize) {
        self.list.push(Product {
            rows,
            inner,
            cols,
            form,
            count,
        });
    }

    /// A linear layer whose input has no gradient.
    fn first_linear(&mut self, rows: usize, from: usize, to: usize) {
        self.push([rows, from, to], Form::RightTransposed, 1);
        if self.backward {
            self.push([to, rows, from], Form::LeftTransposed, 1);
        }
    }

    fn linear(&mut self, rows: usize, from: usize, to: usize) {
        self.first_linear(rows, from, to);
        if self.backward {
            self.push([rows, to, from], Form::Plain, 1);
        }
    }

    /// Adds a block; `mlp_rows` rows pass through its MLP.
    fn block(&mut self, tokens: usize, width: usize, heads: usize, mlp_rows: usize) {
        let (rows, size) = (self.images * tokens, width / heads);
        self.linear(rows, width, 3 * width);
        let each = self.images * heads;
        self.push([tokens, size, tokens], Form::RightTransposed, each);
        self.push([tokens, tokens, size], Form::Plain, each);
        if self.backward {
            self.push([tokens, size, tokens], Form::RightTransposed, each);
            self.push([tokens, tokens, size], Form::LeftTransposed, 2 * each);
            self.push([tokens, tokens, size], Form::Plain, each);
        }
        self.linear(rows, width, width);
        self.linear(mlp_rows, width, 4 * width);
        self.linear(mlp_rows, 4 * width, width);
    }
}

/// Numbers that an image adds to the largest matrix of a forward pass, weights of attention included.
pub(crate) fn most_numbers(vit: &VitConfig, task: Task) -> usize {
    let forward = products(vit, task, 1).into_iter();
    let outputs = forward.filter(|product| product.form == Form::RightTransposed);
    let numbers = outputs.map(|product| product.rows * product.cols * product.count);
    numbers.max().unwrap_or(1)
}

/// Number of multiplications and additions in `products`.
pub fn flops(products: &[Product]) -> f64 {
    products.iter().map(Product::flops).sum()
}

/// Number of parameters, fixed ones included: the encoder's and those that the task adds.
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

/// Bytes of activations that a shard of `images` stores between forward and backward. Per token, a block stores its input, the outputs of
/// both norms, queries, keys and values, the attention's output, the residual sum after it, and the MLP's hidden layer before and after
/// GELU. In bf16, what products read is rounded: all but the input, the residual sum and the hidden layer before GELU. With `checkpointing`
/// it stores the inputs of all blocks and the rest for one block at a time.
pub fn activation_bytes(
    vit: &VitConfig,
    (task, precision): (Task, Precision),
    images: usize,
    checkpointing: bool,
) -> usize {
    const EXACT: usize = 1 + 1 + 4;
    const OF_PRODUCTS: usize = 2 + 3 + 1 + 4;
    let block = match precision {
        Precision::F32 => 4 * (EXACT + OF_PRODUCTS),
        Precision::Bf16 => 4 * EXACT + 2 * OF_PRODUCTS,
    };
    let p = vit.preset;
    let token = |tokens: usize, width: usize| images * tokens * width;
    let blocks = |depth: usize, input: usize| match checkpointing {
        true => 4 * depth * input + block * input,
        false => depth * block * input,
    };
    let all = vit.num_patches() + 1;
    match task {
        Task::Pretrain { kept, head } => {
            blocks(p.depth, token(kept + 1, p.width))
                + blocks(p.decoder_depth, token(all, p.decoder_width))
                + 4 * token(all - kept - 1, head)
        }
        Task::FineTune { .. } => blocks(p.depth, token(all, p.width)),
        Task::Encode => block * token(all, p.width),
    }
}

/// Bytes of the copies of matrices that products read.
pub fn working_bytes(vit: &VitConfig, task: Task, precision: Precision) -> usize {
    match precision {
        Precision::F32 => 0,
        Precision::Bf16 => 2 * parameters(vit, task),
    }
}

/// Bytes of the blocks' matrices that training in bf16 on a CPU with AVX-512 BF16 packs once per step: a copy for the forward and one for the
/// backward.
pub fn packed_bytes(vit: &VitConfig, task: Task, precision: Precision) -> usize {
    let p = vit.preset;
    let decoder = match task {
        Task::Pretrain { .. } => p.decoder_depth * p.decoder_width.pow(2),
        Task::FineTune { .. } | Task::Encode => 0,
    };
    match precision {
        Precision::F32 => 0,
        Precision::Bf16 => 2 * 2 * 12 * (p.depth * p.width.pow(2) + decoder),
    }
}

/// Memory of training on a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBytes {
    /// Independent of the batch: parameters, moments, sums of gradients, working copies.
    pub model: usize,
    /// Additional memory per image of a step.
    pub image: usize,
}

/// Memory of a step of single operations on a device. Per token, a block stores its input, the outputs of both norms, queries, keys and
/// values, the attention's output, the outputs of both branches, the residual sum between them, and the MLP's hidden layer before and
/// after GELU. If the attention kernel does not support the head's size or type, the attention weights of all token pairs come on top.
/// Gradients in flight add half of that, and the images count twice.
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

/// Bytes of an image's prepared data: its pixels and `targets` numbers, f32 or u32.
pub fn prepared_bytes(vit: &VitConfig, targets: usize) -> usize {
    4 * (3 * vit.image_size * vit.image_size + targets)
}

/// Operands and result of [`multiply`].
pub struct Scratch {
    operands: [HashMap<[usize; 2], Operand<'static>>; 2],
    out: Vec<f32>,
}

impl Scratch {
    /// Creates operands of the sizes of `products`, with values in [-1, 1).
    pub fn new(products: &[Product], precision: Precision) -> Self {
        let rounding = match precision {
            Precision::F32 => Rounding::Exact,
            Precision::Bf16 => Rounding::Bf16,
        };
        let numbers = |len: usize| (0..len).map(|i| (i % 251) as f32 / 125.5 - 1.0);
        let operand = |size: [usize; 2]| {
            let values: Vec<f32> = numbers(size[0] * size[1]).collect();
            (size, Operand::new(values, size, rounding))
        };
        let largest = products.iter().map(|p| p.rows * p.cols).max();
        Self {
            operands: [0, 1].map(|side: usize| {
                let sizes = products.iter().map(|product| product.operands()[side]);
                sizes.map(operand).collect()
            }),
            out: vec![0.0; largest.unwrap_or(0)],
        }
    }
}

/// Runs `products` on this thread.
pub fn multiply(products: &[Product], Scratch { operands, out }: &mut Scratch) {
    for product in products {
        let &Product {
            rows, cols, form, ..
        } = product;
        let [left, right] = product.operands();
        let (a, b) = (operands[0][&left].factor(), operands[1][&right].factor());
        for _ in 0..product.count {
            product_of_into(MatMut::new(out, rows, cols), form, Start::Zero, 1.0, a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::preset;

    /// A block's forward needs 24 D^2 + 4 N D operations per token, its backward twice that.
    fn nano() -> VitConfig {
        VitConfig {
            preset: preset("nano").unwrap(),
            image_size: 32,
            patch_size: 4,
        }
    }

    #[test]
    fn operations_of_vit_base_equal_the_published_number() {
        let vit = VitConfig {
            preset: preset("B").unwrap(),
            image_size: 224,
            patch_size: 16,
        };
        let forward = flops(&products(&vit, Task::Encode, 1));
        // timm's table gives 17.58 GMACs for ViT-B/16 at 224 including the head.
        assert!((forward / 2e9 - 17.58).abs() < 0.02, "{forward}");
        let train = flops(&products(&vit, Task::FineTune { classes: 1000 }, 1));
        assert!(
            (2.98..3.0).contains(&(train / forward)),
            "{}",
            train / forward
        );
    }

    #[test]
    fn parameter_counts_equal_those_of_real_models() {
        let vit = nano();
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

    /// A block keeps 16 numbers per token and width: 64 bytes in f32, and in bf16 six in f32 and ten rounded.
    #[test]
    fn rounded_activations_take_less_memory() {
        let vit = nano();
        let of = |precision| activation_bytes(&vit, (Task::Encode, precision), 2, false);
        assert_eq!(of(Precision::F32), 2 * 65 * vit.preset.width * 64);
        assert_eq!(of(Precision::Bf16), 2 * 65 * vit.preset.width * 44);
        let copies = |precision| working_bytes(&vit, Task::Encode, precision);
        let parameters = parameters(&vit, Task::Encode);
        assert_eq!(
            [Precision::F32, Precision::Bf16].map(copies),
            [0, 2 * parameters]
        );
    }

    /// Both copies of every matrix of a block, two bytes a number, without padding: the width of nano is a multiple of a vector.
    #[test]
    fn packed_matrices_are_counted() {
        let vit = nano();
        let encoder = || crate::vit::encoder(&vit, 0).unwrap();
        let whole = crate::vit::decoder(encoder(), &vit, 50, 0).unwrap();
        let pretrain = Task::Pretrain { kept: 16, head: 50 };
        for (task, model) in [(Task::Encode, encoder()), (pretrain, whole)] {
            let matrices = crate::vit::matrices(&model).unwrap();
            let numbers: usize = matrices.iter().map(|m| m.elem_count()).sum();
            assert_eq!(packed_bytes(&vit, task, Precision::Bf16), 4 * numbers);
            assert_eq!(packed_bytes(&vit, task, Precision::F32), 0);
        }
    }

    #[test]
    fn every_product_fits_the_buffers() {
        let vit = nano();
        let task = Task::Pretrain { kept: 16, head: 50 };
        let all = products(&vit, task, 3);
        for precision in [Precision::F32, Precision::Bf16] {
            let mut scratch = Scratch::new(&all, precision);
            multiply(&all, &mut scratch);
            assert!(scratch.out.iter().any(|v| *v != 0.0));
        }
    }
}
