//! Launches of `attention.cu`. Activations are bf16; sums and statistics are f32.

use super::cpu::Sizes;
use crate::device::launch::{
    Arg, Dtype, Launch, Module, Result, blocks, expect, module, product, read, size, write,
};

/// Threads per block: four warps of 16 rows each.
const THREADS: u32 = 128;
/// Rows that a block owns.
const ROWS: u32 = 64;

/// Returns the rows of the other side per step; larger heads leave fewer registers.
fn tile(head: u32) -> u32 {
    if head <= 64 { 64 } else { 32 }
}

/// Returns the number of blocks of the gradient of keys and values that a multiprocessor holds at least, which bounds their registers: with
/// 4, at most 128.
fn blocks_of_keys(head: u32) -> u32 {
    match head {
        ..=32 => 4,
        33..=80 => 3,
        _ => 2,
    }
}

struct Plan {
    sizes: Sizes,
    /// Numbers per head.
    head: u32,
    grid: u32,
    /// The last arguments of three kernels.
    last: [Arg; 3],
}

impl Plan {
    fn of(sizes: Sizes) -> Result<Self> {
        let fits = (16..=128).contains(&sizes.size) && sizes.size.is_multiple_of(16);
        let expected = "a multiple of 16, from 16 to 128";
        expect(fits, "attention", "numbers per head", sizes.size, expected)?;
        let heads = product("heads", &[sizes.batch, sizes.heads])?;
        let tiles = sizes.tokens.div_ceil(ROWS as usize);
        size("rows", product("rows", &[heads, sizes.tokens])?)?;
        Ok(Self {
            head: size("numbers per head", sizes.size)?,
            grid: blocks(product("the grid", &[heads, tiles])? as u64, 1)?,
            last: [
                Arg::F32("scale", 1.0 / (sizes.size as f32).sqrt()),
                Arg::U32("tokens", size("tokens", sizes.tokens)?),
                Arg::U32("heads", size("heads", sizes.heads)?),
            ],
            sizes,
        })
    }

    fn module(&self) -> Module {
        let constants = [
            ("SIZE", self.head),
            ("THREADS", THREADS),
            ("ROWS", ROWS),
            ("TILE", tile(self.head)),
            ("BLOCKS", blocks_of_keys(self.head)),
        ];
        module("attention", include_str!("attention.cu"), &constants)
    }

    /// Returns the length of the output.
    fn out(&self) -> usize {
        let Sizes { batch, tokens, .. } = self.sizes;
        batch * tokens * self.sizes.heads * self.sizes.size
    }

    /// Returns the number of rows of scores.
    fn rows(&self) -> usize {
        self.sizes.batch * self.sizes.tokens * self.sizes.heads
    }

    /// Returns the shared memory in bytes for `own` tiles of [`ROWS`] rows and two tiles of the other side.
    fn tiles(&self, own: u32) -> u32 {
        (own * ROWS + 2 * tile(self.head)) * (self.head + 8) * 2
    }

    /// Returns the operations of `products` products of two `[tokens, size]` matrices per head.
    fn flops(&self, products: u64) -> u64 {
        products * 2 * (self.rows() * self.sizes.tokens * self.sizes.size) as u64
    }

    /// Returns the launch of a backward kernel that computes `products` products per head.
    fn backward(&self, kernel: &str, shared: u32, products: u64) -> Launch {
        let mut args = vec![
            read("qkv", Dtype::Bf16, 3 * self.out()),
            read("dout", Dtype::Bf16, self.out()),
            read("log_total", Dtype::F32, self.rows()),
            read("delta", Dtype::F32, self.rows()),
            write("dqkv", Dtype::Bf16, 3 * self.out()),
        ];
        args.extend(self.last.clone());
        let launch = Launch::new(self.module(), kernel, self.grid, args);
        launch.shared(shared).flops(self.flops(products))
    }
}

/// Computes `out` `[batch, tokens, heads * size]` and, for the backward, `log_total` `[batch * heads, tokens]` from `qkv`
/// `[batch, tokens, 3 * heads * size]`.
///
/// # Errors
/// If `size` is not a multiple of 16 from 16 to 128, or a size exceeds 31 bits.
pub fn forward(sizes: Sizes) -> Result<Launch> {
    let plan = Plan::of(sizes)?;
    let mut args = vec![
        read("qkv", Dtype::Bf16, 3 * plan.out()),
        write("out", Dtype::Bf16, plan.out()),
        write("log_total", Dtype::F32, plan.rows()),
    ];
    args.extend(plan.last.clone());
    let launch = Launch::new(plan.module(), "attention_forward", plan.grid, args);
    Ok(launch.shared(plan.tiles(1)).flops(plan.flops(2)))
}

/// Computes `dqkv` from `qkv`, the forward's `out` and `log_total`, and the output's gradient `dout`. The first launch computes
/// `delta`, the second writes the gradient of the queries, and the third writes those of the keys and values.
///
/// # Errors
/// As for [`forward`].
pub fn backward(sizes: Sizes) -> Result<[Launch; 3]> {
    let plan = Plan::of(sizes)?;
    let [_, tokens, heads] = plan.last.clone();
    let args = vec![
        read("out", Dtype::Bf16, plan.out()),
        read("dout", Dtype::Bf16, plan.out()),
        write("delta", Dtype::F32, plan.rows()),
        Arg::U32("rows", size("rows", plan.rows())?),
        tokens,
        heads,
    ];
    let grid = blocks(plan.rows() as u64, THREADS / 32)?;
    let delta = Launch::new(plan.module(), "attention_delta", grid, args);
    let statistics = 2 * tile(plan.head) * 4;
    Ok([
        delta,
        plan.backward("attention_backward_queries", plan.tiles(2), 3),
        plan.backward("attention_backward_keys", plan.tiles(2) + statistics, 4),
    ])
}
