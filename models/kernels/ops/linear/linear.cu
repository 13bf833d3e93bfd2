// Adds the bias of a linear layer and sums over rows, for the gradient of a bias or of any other vector added to every row.
// (cuBLAS computes the products of a linear layer.)
//
//   add_bias: x[r, c] = x[r, c] + bias[c], in place; a thread processes four numbers if dim is a multiple of four, otherwise one
//   column_partials: partial[p, c] = sum of x[r, c] over the rows r of part p, COLUMN_ROWS rows each
//   column_partials_of: the same over the rows list[0..rows] of x
//   column_totals: out[c] = sum over p of partial[p, c], in order
//
// x [rows, dim] in f32 or bf16, bias [dim], partial [parts, dim], out [dim]. There are no atomics, so the bytes are reproducible.
#include "common.cuh"

template <typename T, int W> __device__ void add(T *x, const float *bias, u32 rows, u32 dim) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (at >= (u64)rows * dim) return;
    Pack<W> v = load<W>(x + at), b = load<W>(bias + at % dim);
    for (int j = 0; j < W; j++) v.v[j] += b.v[j];
    store<W>(x + at, v);
}

extern "C" __global__ void __launch_bounds__(THREADS)
add_bias_f32(float *x, const float *bias, u32 rows, u32 dim) {
    if (dim % 4 == 0) add<float, 4>(x, bias, rows, dim);
    else add<float, 1>(x, bias, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
add_bias_bf16(bf16 *x, const float *bias, u32 rows, u32 dim) {
    if (dim % 4 == 0) add<bf16, 4>(x, bias, rows, dim);
    else add<bf16, 1>(x, bias, rows, dim);
}

// A block processes 32 columns of COLUMN_ROWS rows; warp w processes the rows w, w + 8, ...
template <typename T, typename Row>
__device__ void partials(const T *x, float *partial, u32 rows, u32 dim, Row row_of) {
    __shared__ float sums[WARPS][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 across = (dim + 31) / 32, part = blockIdx.x / across, column = blockIdx.x % across * 32 + lane;
    float sum = 0.0f;
    if (column < dim) {
        u32 first = part * COLUMN_ROWS, last = min(first + COLUMN_ROWS, rows);
        for (u32 row = first + warp; row < last; row += WARPS) sum += to_float(x[(u64)row_of(row) * dim + column]);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < dim) {
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) total += sums[w][lane];
        partial[(u64)part * dim + column] = total;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_f32(const float *x, float *partial, u32 rows, u32 dim) {
    partials(x, partial, rows, dim, [](u32 row) { return row; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_bf16(const bf16 *x, float *partial, u32 rows, u32 dim) {
    partials(x, partial, rows, dim, [](u32 row) { return row; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_of_f32(const float *x, const u32 *list, float *partial, u32 rows, u32 dim) {
    partials(x, partial, rows, dim, [list](u32 row) { return list[row]; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_partials_of_bf16(const bf16 *x, const u32 *list, float *partial, u32 rows, u32 dim) {
    partials(x, partial, rows, dim, [list](u32 row) { return list[row]; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
column_totals(const float *partial, float *out, u32 parts, u32 dim) {
    u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= dim) return;
    float total = 0.0f;
    for (u32 part = 0; part < parts; part++) total += partial[(u64)part * dim + column];
    out[column] = total;
}
