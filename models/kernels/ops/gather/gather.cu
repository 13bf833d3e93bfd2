// Copies rows by an index: visible or masked tokens, their gradients, and the decoder's input in image order.
//
//   gather_rows:  out[i] = x[from[i]], or zeros if from[i] is NONE
//   restore_rows: out[i] = x[from[i]], or fill if from[i] is NONE
//   place_rows:   out[i] = (x[from[i]], or fill if from[i] is NONE) + positions[place[i]], with fill and positions in f32
//
// x [.., dim], from [rows], fill [dim], out [rows, dim], in f32 or bf16 (x of place_rows in bf16); NONE = 2^32 - 1. If each row is gathered at most
// once, the gradient is a gather by the inverse index: every row is written once and nothing is added. (The gradient of fill
// is column_partials_of in linear.cu over the filled rows.) One warp per row.
#include "common.cuh"

#define NONE 0xffffffffu

template <typename T, int W>
__device__ void gather(const T *x, const u32 *from, const T *fill, T *out, u32 rows, u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    u32 source = from[row];
    const T *values = source == NONE ? fill : x + (u64)source * dim;
    out += (u64)row * dim;
    for (u32 i = threadIdx.x % 32 * W; i < dim; i += 32 * W) {
        Pack<W> v = {};
        if (values) v = load<W>(values + i);
        store<W>(out + i, v);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_rows_f32(const float *x, const u32 *from, float *out, u32 rows, u32 dim) {
    if (dim % WIDE == 0) gather<float, WIDE>(x, from, nullptr, out, rows, dim);
    else gather<float, 1>(x, from, nullptr, out, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_rows_bf16(const bf16 *x, const u32 *from, bf16 *out, u32 rows, u32 dim) {
    if (dim % WIDE == 0) gather<bf16, WIDE>(x, from, nullptr, out, rows, dim);
    else gather<bf16, 1>(x, from, nullptr, out, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
restore_rows_f32(const float *x, const u32 *from, const float *fill, float *out, u32 rows, u32 dim) {
    if (dim % WIDE == 0) gather<float, WIDE>(x, from, fill, out, rows, dim);
    else gather<float, 1>(x, from, fill, out, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
restore_rows_bf16(const bf16 *x, const u32 *from, const bf16 *fill, bf16 *out, u32 rows, u32 dim) {
    if (dim % WIDE == 0) gather<bf16, WIDE>(x, from, fill, out, rows, dim);
    else gather<bf16, 1>(x, from, fill, out, rows, dim);
}

template <int W, typename T>
__device__ void place_by(const bf16 *x, const u32 *from, const float *fill, const float *positions, const u32 *place,
                         T *out, u32 rows, u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    u32 source = from[row];
    const bf16 *values = x + (u64)source * dim;
    positions += (u64)place[row] * dim, out += (u64)row * dim;
    for (u32 i = threadIdx.x % 32 * W; i < dim; i += 32 * W) {
        Pack<W> v = source == NONE ? load<W>(fill + i) : load<W>(values + i), p = load<W>(positions + i);
        for (int j = 0; j < W; j++) v.v[j] += p.v[j];
        store<W>(out + i, v);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
place_rows_bf16(const bf16 *x, const u32 *from, const float *fill, const float *positions, const u32 *place, bf16 *out,
                u32 rows, u32 dim) {
    if (dim % WIDE == 0) place_by<WIDE>(x, from, fill, positions, place, out, rows, dim);
    else place_by<1>(x, from, fill, positions, place, out, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
place_rows_f32(const bf16 *x, const u32 *from, const float *fill, const float *positions, const u32 *place, float *out,
               u32 rows, u32 dim) {
    if (dim % WIDE == 0) place_by<WIDE>(x, from, fill, positions, place, out, rows, dim);
    else place_by<1>(x, from, fill, positions, place, out, rows, dim);
}
