// Mean squared error of predicted rows, and its gradient, in one pass.
//
//   losses[r] = mean over c of (scores[r, c] - values[rows[r], c])^2
//   dscores[r, c] = upstream * 2 / (count * dim) * (scores[r, c] - values[rows[r], c])
//
// scores, dscores [count, dim] in bf16, values [.., dim] in f32, rows [count], losses [count], upstream [1]. One warp per row.
#include "common.cuh"

template <int W>
__device__ void rows_of(const bf16 *scores, const float *values, const u32 *rows, const float *upstream, bf16 *dscores,
                        float *losses, u32 count, u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= count) return;
    scores += (u64)row * dim, dscores += (u64)row * dim, values += (u64)rows[row] * dim;
    float factor = upstream[0] * 2.0f / ((float)count * dim), sum = 0.0f;
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> v = load<W>(scores + i), t = load<W>(values + i);
        for (int j = 0; j < W; j++) {
            float off = v.v[j] - t.v[j];
            sum += off * off;
            v.v[j] = factor * off;
        }
        store<W>(dscores + i, v);
    }
    sum = warp_sum(sum);
    if (lane == 0) losses[row] = sum / dim;
}

extern "C" __global__ void __launch_bounds__(THREADS)
squared_error_bf16(const bf16 *scores, const float *values, const u32 *rows, const float *upstream, bf16 *dscores,
                   float *losses, u32 count, u32 dim) {
    if (dim % WIDE == 0) rows_of<WIDE>(scores, values, rows, upstream, dscores, losses, count, dim);
    else rows_of<1>(scores, values, rows, upstream, dscores, losses, count, dim);
}
