// K-means: the best centre of every row, and the sums of each centre's rows.
//
//   kmeans_assign: id[r] = the lowest c with the largest rows[r] . centers[c] + bias[c]; best[r] = that score
//   kmeans_bias: bias[c] = -|centers[c]|^2 / 2, so that the largest score is the smallest Euclidean distance
//   kmeans_update: sums[id[r]] += round(rows[r] * scale) and counts[id[r]] += 1, in 64-bit integers
//   kmeans_runs: per run of RUN rows, with the squared distance d[r] = |rows[r]|^2 - 2 best[r], at least 0:
//     squares = sum |rows[r]|^2, inertia = sum d[r], far = max d[r] and far_row = its row (the lowest in a tie), failed = the
//     lowest row whose d[r] is not finite, or n. Such rows are left out of the sums.
//   kmeans_largest: largest = max |rows|, as bits; a NaN exceeds infinity (initialise with 0)
//
// rows [n, dim], centers [k, dim], bias [k], best [n] in f32; id [n]; sums [k, dim], counts [k]; results of runs [runs]; largest [1].
// Assignment: a block compares ROWS rows with CENTERS centres at a time. Each thread computes 8 x 4 products in registers from
// tiles in shared memory, DEPTH dimensions at a time, and holds the best of its rows so far: scores are never written. A NaN
// never wins; a row of NaN has the score -infinity.
// Update: integer addition does not depend on the order of atomics, so the sums are reproducible. `scale` is a power of two
// derived from the largest value and n (launch.rs), so that no sum overflows.
// Runs: one block per run; each warp sums its rows, then the warps' sums are added in order.
#include "common.cuh"

// Copies DEPTH columns of COUNT rows, starting at row `first`, transposed, with zeros outside.
template <int COUNT>
__device__ __forceinline__ void copy_tile(float *to, const float *from, u32 first, u32 rows, u32 column, u32 dim) {
    for (u32 at = threadIdx.x; at < COUNT * DEPTH; at += THREADS) {
        u32 row = at / DEPTH, d = at % DEPTH;
        bool inside = first + row < rows && column + d < dim;
        to[d * (COUNT + 4) + row] = inside ? from[(u64)(first + row) * dim + column + d] : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
kmeans_assign(const float *rows, const float *centers, const float *bias, u32 *id, float *best, u32 n, u32 k, u32 dim) {
    __shared__ __align__(16) float left[DEPTH * (ROWS + 4)];
    __shared__ __align__(16) float right[DEPTH * (CENTERS + 4)];
    // Sixteen adjacent threads share eight rows; each has four centres.
    u32 mine = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4, first = blockIdx.x * ROWS;
    float top[8];
    u32 top_id[8];
    for (int i = 0; i < 8; i++) top[i] = MINUS_INFINITY, top_id[i] = 0;
    for (u32 center = 0; center < k; center += CENTERS) {
        float sums[8][4] = {};
        for (u32 d = 0; d < dim; d += DEPTH) {
            __syncthreads();
            copy_tile<ROWS>(left, rows, first, n, d, dim);
            copy_tile<CENTERS>(right, centers, center, k, d, dim);
            __syncthreads();
#pragma unroll
            for (int depth = 0; depth < DEPTH; depth++) {
                Pack<4> a = load<4>(left + depth * (ROWS + 4) + mine), b = load<4>(left + depth * (ROWS + 4) + mine + 4);
                Pack<4> c = load<4>(right + depth * (CENTERS + 4) + column);
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++) {
                        sums[i][j] += a.v[i] * c.v[j];
                        sums[i + 4][j] += b.v[i] * c.v[j];
                    }
            }
        }
        for (int j = 0; j < 4; j++) {
            u32 c = center + column + j;
            if (c >= k) continue;
            float offset = bias[c];
            for (int i = 0; i < 8; i++)
                if (sums[i][j] + offset > top[i]) top[i] = sums[i][j] + offset, top_id[i] = c;
        }
    }
    for (int i = 0; i < 8; i++) {
        for (int lane = 8; lane > 0; lane /= 2) {
            float other = __shfl_xor_sync(ALL_LANES, top[i], lane);
            u32 other_id = __shfl_xor_sync(ALL_LANES, top_id[i], lane);
            bool wins = other > top[i] || (other == top[i] && other_id < top_id[i]);
            if (wins) top[i] = other, top_id[i] = other_id;
        }
        u32 row = first + mine + i;
        if (threadIdx.x % 16 == 0 && row < n) id[row] = top_id[i], best[row] = top[i];
    }
}

// One warp per centre.
extern "C" __global__ void __launch_bounds__(THREADS)
kmeans_bias(const float *centers, float *bias, u32 k, u32 dim) {
    u32 center = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (center >= k) return;
    float sum = 0.0f;
    for (u32 i = threadIdx.x % 32; i < dim; i += 32) {
        float value = centers[(u64)center * dim + i];
        sum += value * value;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) bias[center] = -0.5f * sum;
}

// One warp per row.
extern "C" __global__ void __launch_bounds__(THREADS)
kmeans_update(const float *rows, const u32 *id, i64 *sums, u64 *counts, float scale, u32 n, u32 dim) {
    u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= n) return;
    u64 center = id[row];
    for (u32 i = threadIdx.x % 32; i < dim; i += 32) {
        i64 value = __float2ll_rn(rows[(u64)row * dim + i] * scale);
        atomicAdd(reinterpret_cast<u64 *>(sums + center * dim + i), (u64)value);
    }
    if (threadIdx.x % 32 == 0) atomicAdd(counts + center, 1ull);
}

extern "C" __global__ void __launch_bounds__(THREADS)
kmeans_runs(const float *rows, const float *best, float *squares, float *inertia, float *far, u32 *far_row, u32 *failed,
            u32 n, u32 dim) {
    __shared__ float square_of[WARPS], total_of[WARPS], far_of[WARPS];
    __shared__ u32 row_of[WARPS], failed_of[WARPS];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * RUN;
    u32 end = n - first < RUN ? n : first + RUN, top_row = first, bad = n;
    float square_sum = 0.0f, total = 0.0f, top = MINUS_INFINITY;
    for (u32 row = first + warp; row < end; row += WARPS) {
        float square = 0.0f;
        for (u32 i = lane; i < dim; i += 32) {
            float value = rows[(u64)row * dim + i];
            square += value * value;
        }
        square = warp_sum(square);
        float distance = square - 2.0f * best[row];
        // For an infinity or a NaN, the difference is NaN.
        if (!(distance - distance == 0.0f)) {
            bad = bad == n ? row : bad;
            continue;
        }
        distance = fmaxf(distance, 0.0f);
        square_sum += square, total += distance;
        if (distance > top) top = distance, top_row = row;
    }
    if (lane == 0) {
        square_of[warp] = square_sum, total_of[warp] = total;
        far_of[warp] = top, row_of[warp] = top_row, failed_of[warp] = bad;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 other = 1; other < WARPS; other++) {
        square_sum += square_of[other], total += total_of[other];
        bad = failed_of[other] < bad ? failed_of[other] : bad;
        bool wins = far_of[other] > top || (far_of[other] == top && row_of[other] < top_row);
        if (wins) top = far_of[other], top_row = row_of[other];
    }
    squares[blockIdx.x] = square_sum, inertia[blockIdx.x] = total;
    far[blockIdx.x] = top, far_row[blockIdx.x] = top_row, failed[blockIdx.x] = bad;
}

extern "C" __global__ void __launch_bounds__(THREADS)
kmeans_largest(const float *rows, u32 *largest, u32 n, u32 dim) {
    u64 all = (u64)n * dim;
    u32 bits = 0;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < all; at += (u64)gridDim.x * blockDim.x) {
        u32 magnitude = __float_as_uint(rows[at]) & 0x7fffffffu;
        bits = magnitude > bits ? magnitude : bits;
    }
    for (int other = 16; other > 0; other /= 2) {
        u32 theirs = __shfl_xor_sync(ALL_LANES, bits, other);
        bits = theirs > bits ? theirs : bits;
    }
    if (threadIdx.x % 32 == 0) atomicMax(largest, bits);
}
