// Sums over the rows of a matrix, for gradients of vectors that are added to or multiplied with every row.
//
// A block has WARPS warps, each with its own rows. A lane holds the sums of W columns next to each other.
#pragma once
#include "common.cuh"

// Adds the warps' sums in order and writes those of the columns first_column, first_column + 1, ... below dim to out. With `add`, it adds
// them to out. All threads of the block must call it.
template <int W>
__device__ __forceinline__ void write_columns(float *out, const Pack<W> &sum, u32 first_column, u32 dim, bool add = false) {
    __shared__ float sums[WARPS][32 * W];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int j = 0; j < W; j++) sums[warp][j * 32 + lane] = sum.v[j];
    __syncthreads();
    for (u32 at = threadIdx.x; at < 32 * W; at += THREADS) {
        u32 column = first_column + at % 32 * W + at / 32;
        if (column >= dim) continue;
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) total += sums[w][at];
        out[column] = add ? out[column] + total : total;
    }
    __syncthreads();
}

// The place of a block that sums rows_of_part rows of 32 * W columns.
template <int W> struct Columns {
    u32 part, first_column, column, first, last;
    __device__ Columns(u32 rows, u32 dim, u32 rows_of_part) {
        u32 across = (dim + 32 * W - 1) / (32 * W);
        part = blockIdx.x / across, first_column = blockIdx.x % across * 32 * W;
        column = first_column + threadIdx.x % 32 * W;
        first = part * rows_of_part, last = min(first + rows_of_part, rows);
    }
};
