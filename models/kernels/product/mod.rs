//! Single-threaded matrix products of slices. Callers run shards in parallel.
//!
//! The crate `gemm` computes products in f32. Products of numbers rounded to bf16 are tiles of our own (`tiles`) on machines with AVX-512
//! BF16, by its instructions or by AMX, for which `gemm` has no kernel. In f32, tiles made a training step 2 % faster than `gemm`, too little for their code.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod division;
mod factor;
mod form;
mod lines;
mod matrix;
mod multiply;
mod operand;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod side;
#[cfg(target_arch = "x86_64")]
mod squares;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use factor::{Factor, has_amx, has_bf16, product_of, product_of_into, unsupported};
pub use form::{Form, Packed};
use gemm::Parallelism;
use matrix::Job;
pub use matrix::{Mat, MatMut, Start};
use multiply::{multiply, new};
pub use operand::{Operand, Rounding, Rows};

/// Returns the row-major product `a b`.
///
/// # Panics
/// If the inner sizes differ.
pub fn product(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    product_from(Start::Zero, a, b, Parallelism::None)
}

/// As [`product`], on all threads of the current pool.
///
/// # Panics
/// If the inner sizes differ.
pub fn product_on_all_threads(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    product_from(Start::Zero, a, b, Parallelism::Rayon(0))
}

/// Returns the row-major sum `start + a b`.
///
/// # Panics
/// If sizes differ, or if `start` is [`Start::There`]: a new result has no contents.
fn product_from(start: Start<'_>, a: Mat<'_>, b: Mat<'_>, threads: Parallelism) -> Vec<f32> {
    new(start, a.rows * b.cols, |out| {
        let job = Job {
            a,
            b,
            factor: 1.0,
            start,
            out,
            stride: b.cols,
        };
        multiply(&job, threads);
    })
}

/// Computes `out = factor * a b`.
///
/// # Panics
/// If sizes differ.
pub fn product_into(out: MatMut<'_>, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    into(out, Start::Zero, factor, a, b);
}

/// Computes `out += factor * a b`.
///
/// # Panics
/// If sizes differ.
pub fn add_product(out: MatMut<'_>, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    into(out, Start::There, factor, a, b);
}

fn into(out: MatMut<'_>, start: Start<'_>, factor: f32, a: Mat<'_>, b: Mat<'_>) {
    assert_eq!((out.rows, out.cols), (a.rows, b.cols), "destination");
    let job = Job {
        a,
        b,
        factor,
        start,
        out: out.data.as_mut_ptr(),
        stride: out.row_stride,
    };
    multiply(&job, Parallelism::None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + salt * 104_729) % 1009) as f32 / 256.0 - 2.0)
            .collect()
    }

    fn loops(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        let at =
            |m: Mat<'_>, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
        let cell = |i, j| (0..a.cols).map(|k| at(a, i, k) * at(b, k, j)).sum::<f64>() as f32;
        (0..a.rows)
            .flat_map(|i| (0..b.cols).map(move |j| (i, j)))
            .map(|(i, j)| cell(i, j))
            .collect()
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let close = |(f, e): (&f32, &f32)| (f - e).abs() <= 1e-3 + 1e-5 * e.abs();
        assert!(found.iter().zip(expected).all(close));
    }

    /// Sizes that do not fill a tile of `gemm`, sizes of several chunks, and sizes that it treats specially.
    const SIZES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [3, 5, 2],
        [17, 64, 17],
        [33, 7, 130],
        [1100, 3, 9],
        [197, 32, 197],
        [50, 50, 64],
        [13, 1300, 70],
        [6, 512, 64],
        [20, 300, 1000],
        [7, 600, 40],
        [401, 17, 48],
    ];

    fn of_sizes(mut each: impl FnMut(Mat<'_>, Mat<'_>)) {
        for [m, k, n] in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let (a_t, b_t) = (numbers(k * m, 3), numbers(n * k, 4));
            let plain = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            let turned = (Mat::new(&a_t, k, m).t(), Mat::new(&b_t, n, k).t());
            for (a, b) in [plain, turned, (plain.0, turned.1), (turned.0, plain.1)] {
                each(a, b);
            }
        }
    }

    #[test]
    fn products_equal_plain_loops() {
        of_sizes(|a, b| assert_close(&product(a, b), &loops(a, b)));
    }

    /// `gemm` splits the inner size by the caches of the processor, which keys of results do not know.
    #[test]
    fn sums_do_not_depend_on_the_caches_of_the_processor() {
        for ([m, k, n], chunk) in [
            ([80, 600, 70], 300),
            ([3, 768, 100], 384),
            ([130, 1300, 9], 434),
            ([2, 3072, 512], 512),
        ] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let mut out = vec![0.0; m * n];
            for from in (0..k).step_by(chunk) {
                let inner = chunk.min(k - from);
                let part = Mat::strided(&a[from..], m, inner, k);
                let into = MatMut::new(&mut out, m, n);
                add_product(into, 1.0, part, Mat::new(&b[from * n..], inner, n));
            }
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            assert_eq!(product(a, b), out, "{m}x{k}x{n}");
            assert_eq!(product_on_all_threads(a, b), out, "{m}x{k}x{n}");
        }
        // Of these, `gemm` splits the sums in one way; the second only where it has kernels for lines.
        let (a, b) = (numbers(64 * 600, 1), numbers(600 * 100, 2));
        let depth = |a: Mat<'_>, b: Mat<'_>| {
            let job = Job {
                a,
                b,
                factor: 1.0,
                start: Start::Zero,
                out: std::ptr::null_mut(),
                stride: b.cols,
            };
            multiply::depth(&job)
        };
        let small = depth(Mat::new(&a, 64, 600), Mat::new(&b, 600, 64));
        let lines = depth(Mat::new(&a, 2, 600), Mat::new(&b, 100, 600).t());
        #[cfg(target_arch = "x86_64")]
        let has_kernels = is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let has_kernels = false;
        assert_eq!((small, lines), (600, if has_kernels { 600 } else { 300 }));
        let of = |m: usize, k: usize, n: usize| {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            depth(Mat::new(&a, m, k), Mat::new(&b, k, n))
        };
        assert_eq!((of(80, 600, 70), of(130, 1300, 9)), (300, 434));
    }

    #[test]
    fn a_product_starts_from_the_given_value() {
        of_sizes(|a, b| {
            let (matrix, row) = (numbers(a.rows * b.cols, 7), numbers(b.cols, 8));
            let expected = loops(a, b);
            let rows = matrix.chunks(b.cols).flat_map(|m| m.iter().zip(&row));
            let sums: Vec<f32> = expected
                .iter()
                .zip(rows.map(|(m, r)| m + r))
                .map(|(e, s)| e + s)
                .collect();
            let from = |start| product_from(start, a, b, Parallelism::None);
            assert_close(&from(Start::Sum(&matrix, &row)), &sums);
            let biased = expected.chunks(b.cols).flat_map(|e| e.iter().zip(&row));
            let biased: Vec<f32> = biased.map(|(e, r)| e + r).collect();
            assert_close(&from(Start::Row(&row)), &biased);
        });
    }

    #[test]
    #[should_panic(expected = "a start of a product of 3x4")]
    fn a_short_bias_is_refused() {
        let numbers = [0.0; 12];
        let (a, b) = (Mat::new(&numbers, 3, 2), Mat::new(&numbers, 2, 4));
        product_from(Start::Row(&numbers[..3]), a, b, Parallelism::None);
    }

    #[test]
    fn strided_blocks_are_read_and_written_in_place() {
        let (wide, b) = (numbers(6 * 10, 5), numbers(4 * 3, 6));
        let a = Mat::strided(&wide[2..], 6, 4, 10);
        let b = Mat::new(&b, 4, 3);
        let mut out = [9.0; 6 * 7];
        product_into(MatMut::strided(&mut out[1..], 6, 3, 7), 1.0, a, b);
        add_product(MatMut::strided(&mut out[1..], 6, 3, 7), -3.0, a, b);
        let expected = loops(a, b);
        for (row, expected) in out.chunks(7).zip(expected.chunks(3)) {
            let expected: Vec<f32> = expected.iter().map(|v| -2.0 * v).collect();
            assert_close(&row[1..4], &expected);
            assert!(row[..1].iter().chain(&row[4..]).all(|v| *v == 9.0));
        }
    }

    #[test]
    #[should_panic(expected = "4x4 at stride 4 in 15 numbers")]
    fn a_short_slice_is_refused() {
        Mat::new(&[0.0; 15], 4, 4);
    }
}
