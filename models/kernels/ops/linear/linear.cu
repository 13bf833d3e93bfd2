// Adds the bias of a linear layer and sums over rows, for the gradient of a bias or of any other vector added to every row.
// (cuBLAS computes the products of a linear layer.)
//
//   add_bias: x[r, c] = x[r, c] + bias[c], in place. The bias is f32, in add_rounded_bias bf16. A thread processes WIDE numbers if dim is a
//     multiple of WIDE, otherwise one.
//   column_partials: partial[p, c] = sum of x[r, c] over the rows r of part p, rows_of_part rows each
//   column_partials_of: the same over the rows list[0..rows] of x
//   column_totals: out[c] = sum over p of partial[p, c], in a fixed order; with `add`, out[c] + that sum
//
// x [rows, dim] in f32 or bf16, bias [dim], partial [parts, dim], out [dim]. There are no atomics, so the bytes are reproducible.
#include "columns.cuh"

template <int W, typename T, typename B> __device__ void add(T *x, const B *bias, u32 rows, u32 dim) {
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    u64 at = (u64)thread * W;
    if (at >= (u64)rows * dim) return;
    Pack<W> v = load<W>(x + at), b = load<W>(bias + thread % (dim / W) * W);
    for (int j = 0; j < W; j++) v.v[j] += b.v[j];
    store<W>(x + at, v);
}

extern "C" __global__ void __launch_bounds__(THREADS)
add_bias_f32(float *x, const float *bias, u32 rows, u32 dim) {
    if (dim % WIDE == 0) add<WIDE>(x, bias, rows, dim);
    else add<1>(x, bias, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
add_bias_bf16(bf16 *x, const float *bias, u32 rows, u32 dim) {
    if (dim % WIDE == 0) add<WIDE>(x, bias, rows, dim);
    else add<1>(x, bias, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
add_rounded_bias(bf16 *x, const bf16 *bias, u32 rows, u32 dim) {
    if (dim % WIDE == 0) add<WIDE>(x, bias, rows, dim);
    else add<1>(x, bias, rows, dim);
}

// Warp w of a block processes the rows w, w + 8, ... of its part.
template <typename T, int W, typename Row>
__device__ void partials(const T *x, float *partial, u32 rows, u32 dim, u32 rows_of_part, const Row &row_of) {
    Columns<W> at(rows, dim, rows_of_part);
    Pack<W> sum = {};
    if (at.column < dim)
        for (u32 row = at.first + threadIdx.x / 32; row < at.last; row += WARPS) {
            Pack<W> v = load<W>(x + (u64)row_of(row) * dim + at.column);
            for (int j = 0; j < W; j++) sum.v[j] += v.v[j];
        }
    write_columns<W>(partial + (u64)at.part * dim, sum, at.first_column, dim);
}

template <typename T> __device__ void all_partials(const T *x, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    auto same = [](u32 row) { return row; };
    if (dim % WIDE == 0) partials<T, WIDE>(x, partial, rows, dim, rows_of_part, same);
    else partials<T, 1>(x, partial, rows, dim, rows_of_part, same);
}

template <typename T>
__device__ void listed_partials(const T *x, const u32 *list, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    auto listed = [list](u32 row) { return list[row]; };
    if (dim % WIDE == 0) partials<T, WIDE>(x, partial, rows, dim, rows_of_part, listed);
    else partials<T, 1>(x, partial, rows, dim, rows_of_part, listed);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_f32(const float *x, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    all_partials(x, partial, rows, dim, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_bf16(const bf16 *x, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    all_partials(x, partial, rows, dim, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_of_f32(const float *x, const u32 *list, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    listed_partials(x, list, partial, rows, dim, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_of_bf16(const bf16 *x, const u32 *list, float *partial, u32 rows, u32 dim, u32 rows_of_part) {
    listed_partials(x, list, partial, rows, dim, rows_of_part);
}

// A block sums 32 columns.
__device__ __forceinline__ void totals(const float *partial, float *out, u32 parts, u32 dim, bool add) {
    u32 first = blockIdx.x * 32, column = first + threadIdx.x % 32;
    Pack<1> sum = {};
    if (column < dim)
        for (u32 part = threadIdx.x / 32; part < parts; part += WARPS) sum.v[0] += partial[(u64)part * dim + column];
    write_columns<1>(out, sum, first, dim, add);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_totals(const float *partial, float *out, u32 parts, u32 dim) {
    totals(partial, out, parts, dim, false);
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_totals_add(const float *partial, float *out, u32 parts, u32 dim) {
    totals(partial, out, parts, dim, true);
}
