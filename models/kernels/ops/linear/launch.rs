//! Launches of `linear.cu`: adding the bias, and sums over rows.

use crate::device::launch::{
    Arg, Dtype, Float, Launch, Module, Result, THREADS, WARPS, blocks, expect, module, product,
    read, size, update, width, write,
};

/// Most parts of a sum over rows: four blocks for each multiprocessor of an H100, and few numbers to add afterwards.
const MOST_PARTS: usize = 528;

fn source() -> Module {
    module("linear", include_str!("linear.cu"), &[])
}

/// Returns the rows that a block sums, which depend on the number of rows alone: whole rounds of a block's warps, at least two.
fn rows_of_part(rows: usize) -> usize {
    let round = WARPS as usize;
    rows.div_ceil(MOST_PARTS)
        .next_multiple_of(round)
        .max(2 * round)
}

/// Returns the last argument of kernels that sum `rows` rows in parts.
///
/// # Errors
/// If it exceeds 31 bits.
pub fn part_rows(rows: usize) -> Result<Arg> {
    Ok(Arg::U32(
        "rows_of_part",
        size("rows of a part", rows_of_part(rows))?,
    ))
}

/// Adds `bias` `[dim]` in f32 to every row of `x` `[rows, dim]`, in place.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn add_bias(float: Float, rows: usize, dim: usize) -> Result<Launch> {
    add(
        &float.of("add_bias"),
        [float.dtype(), Dtype::F32],
        rows,
        dim,
    )
}

/// Adds `bias` `[dim]` to every row of `x` `[rows, dim]`, in place, both in bf16.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn add_rounded_bias(rows: usize, dim: usize) -> Result<Launch> {
    add("add_rounded_bias", [Dtype::Bf16; 2], rows, dim)
}

fn add(kernel: &str, [x, bias]: [Dtype; 2], rows: usize, dim: usize) -> Result<Launch> {
    expect(dim > 0, "add-bias", "dim", dim, "at least 1")?;
    let all = product("x", &[rows, dim])?;
    let args = vec![
        update("x", x, all),
        read("bias", bias, dim),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks((all / width(dim)) as u64, THREADS)?;
    Ok(Launch::new(source(), kernel, grid, args))
}

/// Returns the number of partial sums per column.
pub fn parts(rows: usize) -> usize {
    rows.div_ceil(rows_of_part(rows))
}

/// Returns the number of blocks, each for a part of the rows and the columns of 32 threads.
///
/// # Errors
/// If it exceeds 2^31 - 1.
pub fn column_blocks(rows: usize, dim: usize) -> Result<u32> {
    let all = product("the grid", &[parts(rows), dim.div_ceil(32 * width(dim))])?;
    blocks(all as u64, 1)
}

/// Sums the columns of `x` `[rows, dim]` into `name` `[dim]`.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn column_sums(
    float: Float,
    rows: usize,
    dim: usize,
    name: &'static str,
) -> Result<[Launch; 2]> {
    expect(rows > 0, "column-sums", "rows", rows, "at least 1")?;
    let args = vec![
        read("x", float.dtype(), product("x", &[rows, dim])?),
        write(
            "partial",
            Dtype::F32,
            product("partial", &[parts(rows), dim])?,
        ),
        Arg::U32("rows", size("rows", rows)?),
        Arg::U32("dim", size("dim", dim)?),
        part_rows(rows)?,
    ];
    let grid = column_blocks(rows, dim)?;
    let first = Launch::new(source(), float.of("column_partials"), grid, args);
    Ok([first, totals(parts(rows), dim, ["partial", name], false)?])
}

/// Sums the columns over the `listed` rows of `x` `[rows, dim]` that the buffer `list` holds.
///
/// # Errors
/// If a size is 0 or exceeds 31 bits.
pub fn column_sums_of(
    float: Float,
    rows: usize,
    listed: usize,
    dim: usize,
    name: &'static str,
) -> Result<[Launch; 2]> {
    expect(
        listed > 0,
        "column-sums",
        "listed rows",
        listed,
        "at least 1",
    )?;
    let args = vec![
        read("x", float.dtype(), product("x", &[rows, dim])?),
        read("list", Dtype::U32, listed),
        write(
            "partial",
            Dtype::F32,
            product("partial", &[parts(listed), dim])?,
        ),
        Arg::U32("rows", size("rows", listed)?),
        Arg::U32("dim", size("dim", dim)?),
        part_rows(listed)?,
    ];
    let grid = column_blocks(listed, dim)?;
    let first = Launch::new(source(), float.of("column_partials_of"), grid, args);
    Ok([first, totals(parts(listed), dim, ["partial", name], false)?])
}

/// Sums `from` `[parts, dim]` into `to` `[dim]`; with `add`, adds the sum to `to`.
///
/// # Errors
/// If a size exceeds 31 bits.
pub fn totals(
    parts: usize,
    dim: usize,
    [from, to]: [&'static str; 2],
    add: bool,
) -> Result<Launch> {
    let (kernel, out) = match add {
        false => ("column_totals", write("out", Dtype::F32, dim)),
        true => ("column_totals_add", update("out", Dtype::F32, dim)),
    };
    let args = vec![
        read("partial", Dtype::F32, product("partial", &[parts, dim])?).named(from),
        out.named(to),
        Arg::U32("parts", size("parts", parts)?),
        Arg::U32("dim", size("dim", dim)?),
    ];
    let grid = blocks(dim as u64, 32)?;
    Ok(Launch::new(source(), kernel, grid, args))
}
