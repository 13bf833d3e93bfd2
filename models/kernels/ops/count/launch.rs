//! The launch of `count.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Result, THREADS, blocks, module, product, read, size, update,
};

/// Adds `ids` `[images, patches]` of images with classes `labels` `[images]` to `counts` `[codes, classes]`, and the number of pairs
/// out of range to `outside` `[1]`.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn pairs(images: usize, patches: usize, codes: usize, classes: usize) -> Result<Launch> {
    let all = product("ids", &[images, patches])?;
    let args = vec![
        read("ids", Dtype::U32, all),
        read("labels", Dtype::U32, images),
        update("counts", Dtype::U64, product("counts", &[codes, classes])?),
        update("outside", Dtype::U64, 1),
        Arg::U32("images", size("images", images)?),
        Arg::U32("patches", size("patches", patches)?),
        Arg::U32("codes", size("codes", codes)?),
        Arg::U32("classes", size("classes", classes)?),
    ];
    let grid = blocks(all as u64, THREADS)?;
    let module = module("count", include_str!("count.cu"), &[]);
    Ok(Launch::new(module, "count_pairs", grid, args))
}
