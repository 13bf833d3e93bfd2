// HOG as in MaskFeat (SlowFast HOGLayerC): Sobel gradients with reflected borders, nine unsigned bins, cells of half a
// patch, a Gaussian window of one patch, and L2 normalisation over the bins of each cell and channel.
//
//   gx = [1 0 -1; 2 0 -2; 1 0 -1] * image,  gy its transpose
//   bin = floor(9 atan2(gx, gy) / pi) mod 9, determined exactly by comparing with the bin edges (tokenizers/features/hog.rs)
//   cell[bin] = sum over the cell of sqrt(gx^2 + gy^2) window(y mod patch, x mod patch), divided by its L2 norm (at least 1e-12)
//
// images [batch, side, side, 3] bytes and window [patch, patch] in f32; out [batch, (side / patch)^2, 3 * 9 * 2 * 2], each patch
// in the order (channel, bin, cell row, cell column). One thread per cell and channel. It adds in the order of the CPU (first the rows
// of each column, then the columns) without fused operations, so the values are equal to the bit.
#include "common.cuh"

#define BINS 9

__device__ __forceinline__ int reflect(int at, int side) { return at < 0 ? 1 : at >= side ? side - 2 : at; }

__device__ __forceinline__ int bin_of(int gx, int gy) {
    const int cosines[4] = {10347, 2399, 780, 2239}, sines[4] = {3766, 2013, 1351, 12698};
    bool fold = gx < 0 || (gx == 0 && gy < 0);
    int x = fold ? -gx : gx, y = fold ? -gy : gy;
    int bin = 0;
    for (int edge = 0; edge < 4; edge++) {
        int across = x * cosines[edge], along = y * sines[edge];
        bin += int(across >= along) + int(-across >= along);
    }
    return bin;
}

extern "C" __global__ void __launch_bounds__(THREADS)
hog(const u8 *images, const float *window, float *out, u32 batch, u32 side, u32 patch) {
    u32 cell = patch / 2, cells = side / cell, grid = side / patch;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)batch * 3 * cells * cells) return;
    u32 col = at % cells, row = at / cells % cells, channel = at / cells / cells % 3, image = at / cells / cells / 3;
    const u8 *plane = images + (u64)image * side * side * 3 + channel;
    float bins[BINS] = {};
    for (u32 x = col * cell; x < (col + 1) * cell; x++) {
        int l = 3 * reflect(int(x) - 1, side), r = 3 * reflect(int(x) + 1, side), at = 3 * x;
        float column[BINS] = {};
        for (u32 y = row * cell; y < (row + 1) * cell; y++) {
            const u8 *above = plane + (u64)reflect(int(y) - 1, side) * side * 3, *here = plane + (u64)y * side * 3;
            const u8 *below = plane + (u64)reflect(int(y) + 1, side) * side * 3;
            int gx = above[l] - above[r] + 2 * (here[l] - here[r]) + below[l] - below[r];
            int gy = above[l] - below[l] + 2 * (above[at] - below[at]) + above[r] - below[r];
            float weight = __fmul_rn(sqrtf(float(gx * gx + gy * gy)), window[y % patch * patch + x % patch]);
            int bin = bin_of(gx, gy);
            // The loop replaces column[bin], because an array indexed at run time does not stay in registers.
            for (int b = 0; b < BINS; b++) column[b] += b == bin ? weight : 0.0f;
        }
        for (int b = 0; b < BINS; b++) bins[b] += column[b];
    }
    float squares = 0.0f;
    for (int b = 0; b < BINS; b++) squares += __fmul_rn(bins[b], bins[b]);
    float scale = 1.0f / fmaxf(sqrtf(squares), 1e-12f);
    u64 to = ((u64)image * grid * grid + row / 2 * grid + col / 2) * (3 * BINS * 4);
    to += channel * BINS * 4 + row % 2 * 2 + col % 2;
    for (int b = 0; b < BINS; b++) out[to + b * 4] = bins[b] * scale;
}
