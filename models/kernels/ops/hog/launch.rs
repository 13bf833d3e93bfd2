//! The launch of `hog.cu`.

use crate::device::launch::{
    Arg, Dtype, Launch, Result, blocks, expect, module, product, read, size, write,
};

/// Threads per block; each processes the pixels of one cell.
const THREADS: u32 = 128;

/// Computes `out` `[batch, (side / patch)^2, 108]` from the bytes `images` `[batch, side, side, 3]` and `window` `[patch, patch]`.
///
/// # Errors
/// If `patch` is odd or does not divide `side`, or a size exceeds 31 bits.
pub fn hog(batch: usize, side: usize, patch: usize) -> Result<Launch> {
    let even = patch > 0 && patch.is_multiple_of(2);
    expect(even, "hog", "patch", patch, "an even number")?;
    let fits = side > 1 && side.is_multiple_of(patch);
    expect(fits, "hog", "side", side, "a multiple of patch")?;
    let patches = product("patches", &[batch, side / patch, side / patch])?;
    let args = vec![
        read(
            "images",
            Dtype::U8,
            product("images", &[batch, side, side, 3])?,
        ),
        read("window", Dtype::F32, product("window", &[patch, patch])?),
        write("out", Dtype::F32, product("out", &[patches, 108])?),
        Arg::U32("batch", size("batch", batch)?),
        Arg::U32("side", size("side", side)?),
        Arg::U32("patch", size("patch", patch)?),
    ];
    // One thread per cell and channel: four cells per patch, three channels.
    let grid = blocks(product("cells", &[patches, 12])? as u64, THREADS)?;
    let module = module("hog", include_str!("hog.cu"), &[("THREADS", THREADS)]);
    Ok(Launch::new(module, "hog", grid, args))
}
