//! Products in f32, by the crate `gemm`.

use gemm::Parallelism;

use super::matrix::{Job, Mat, Start};

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

/// Computes `job` in f32. Its destination must be initialised only if it is the start.
///
/// # Panics
/// If sizes differ.
pub(super) fn multiply(job: &Job<'_, Mat<'_>>) {
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
    #[expect(unsafe_code, reason = "gemm takes pointers and strides")]
    // SAFETY: the last element of each operand lies inside its slice (`check`; `t` preserves this). The private callers pass
    // an exclusive destination of `a.rows` rows of `b.cols` numbers, which is read only where it has been written.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            job.out,
            1,
            job.stride as isize,
            !matches!(start, Start::Zero),
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            job.factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
