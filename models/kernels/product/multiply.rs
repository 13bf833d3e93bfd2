//! Products in f32, by the crate `gemm`.

use gemm::Parallelism;

use super::matrix::{Job, Mat, Start};

/// Largest inner size of one call. `gemm` splits a larger one by the processor's caches, and the split rounds the sums; this one it never splits.
const DEPTH: usize = 512;

/// Returns whether `gemm` has kernels for few products of a row and a column. Its kernels without FMA and for aarch64 have none.
fn has_line_kernels() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Returns the inner size of each call but the last, so that sums are the same on all machines with one instruction set.
pub(super) fn depth(job: &Job<'_, Mat<'_>>) -> usize {
    let Job { a, b, stride, .. } = *job;
    let (rows, inner, cols) = (a.rows, a.cols, b.cols);
    // Small results, and those of one row or column: `gemm` splits them without regard to caches, if at all.
    let of_lines = a.col_stride == 1 && b.row_stride == 1;
    let is_fixed = rows.max(cols) <= 64
        || of_lines && (has_line_kernels() && rows * cols <= 256 || rows.min(cols) == 1)
        || rows == 1 && b.col_stride == 1
        || cols == 1 && a.row_stride == 1 && stride == 1;
    match inner > DEPTH && !is_fixed {
        true => inner.div_ceil(inner.div_ceil(DEPTH)),
        false => inner,
    }
}

/// Returns the `len` numbers that `write` writes to a pointer.
///
/// # Panics
/// If `start` is [`Start::There`]: a new result has no contents.
pub(super) fn new(start: Start<'_>, len: usize, write: impl FnOnce(*mut f32)) -> Vec<f32> {
    assert!(
        !matches!(start, Start::There),
        "a new result has no contents"
    );
    let mut out = Vec::with_capacity(len);
    write(out.as_mut_ptr());
    #[expect(unsafe_code, reason = "zeros would be overwritten immediately")]
    // SAFETY: the capacity is `len`; the callers' products write all `len` numbers unless the start is `There`.
    unsafe {
        out.set_len(len);
    }
    out
}

/// Computes `job` in f32, with the threads of `parallelism`, which change no number. Its destination must be initialised only if it is the start.
///
/// # Panics
/// If sizes differ.
pub(super) fn multiply(job: &Job<'_, Mat<'_>>, parallelism: Parallelism) {
    let Job { a, b, start, .. } = *job;
    assert_eq!(a.cols, b.rows, "inner size");
    start.check(a.rows, b.cols);
    if let Start::Row(bias) | Start::Sum(_, bias) = start {
        for row in 0..a.rows {
            for (col, bias) in bias.iter().enumerate() {
                let value = match start {
                    Start::Sum(matrix, _) => matrix[row * b.cols + col] + bias,
                    _ => *bias,
                };
                #[expect(unsafe_code, reason = "the destination need not be initialised")]
                // SAFETY: `check` requires a bias of `b.cols` numbers, so this is inside the rows that the caller declared valid.
                unsafe {
                    job.out.add(row * job.stride + col).write(value);
                }
            }
        }
    }
    let depth = depth(job);
    let (mut from, mut adds) = (0, !matches!(start, Start::Zero));
    loop {
        let inner = depth.min(a.cols - from);
        #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
        // SAFETY: the last element of each operand lies inside its slice (`check`; `t` preserves this), and `from + inner` is at most the
        // inner size. The private callers pass an exclusive destination of `a.rows` rows of `b.cols` numbers, which is read only where it has
        // been written.
        unsafe {
            gemm::gemm(
                a.rows,
                b.cols,
                inner,
                job.out,
                1,
                job.stride as isize,
                adds,
                a.data.as_ptr().wrapping_add(from * a.col_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().wrapping_add(from * b.row_stride),
                b.col_stride as isize,
                b.row_stride as isize,
                1.0,
                job.factor,
                false,
                false,
                false,
                parallelism,
            );
        }
        (from, adds) = (from + inner, true);
        if from == a.cols {
            return;
        }
    }
}
