// HOG as in MaskFeat (SlowFast HOGLayerC): Sobel gradients with reflected borders, nine unsigned bins, cells of half a
// patch, a Gaussian window of one patch, and L2 normalisation over the bins of each cell and channel.
//
//   gx = [1 0 -1; 2 0 -2; 1 0 -1] * image,  gy its transpose
//   bin = floor(9 atan2(gx, gy) / pi) mod 9, determined by comparing with the bin edges, without an angle
//   cell[bin] = sum over the cell of sqrt(gx^2 + gy^2) window(y mod patch, x mod patch), divided by its L2 norm (at least 1e-12)
//
// images [batch, 3, side, side] and window [patch, patch] in f32; out [batch, (side / patch)^2, 3 * 9 * 2 * 2], each patch
// in the order (channel, bin, cell row, cell column). One thread per cell and channel.
#include "common.cuh"

#define BINS 9

__device__ __forceinline__ int reflect(int at, int side) { return at < 0 ? 1 : at >= side ? side - 2 : at; }

__device__ __forceinline__ int bin_of(float gx, float gy) {
    const float cosines[4] = {0.9396926f, 0.76604444f, 0.5f, 0.17364818f};
    const float sines[4] = {0.34202014f, 0.6427876f, 0.8660254f, 0.9848077f};
    bool fold = gx < 0.0f || (gx == 0.0f && gy < 0.0f);
    float x = fold ? -gx : gx, y = fold ? -gy : gy;
    int bin = 0;
    for (int edge = 0; edge < 4; edge++) {
        float across = x * cosines[edge], along = y * sines[edge];
        bin += int(across >= along) + int(-across >= along);
    }
    // This close to pi, atan2 in f32 returns pi, which belongs to bin 0.
    return gx > 0.0f && gx < gy * -3.2e-8f ? 0 : bin;
}

extern "C" __global__ void __launch_bounds__(THREADS)
hog(const float *images, const float *window, float *out, u32 batch, u32 side, u32 patch) {
    u32 cell = patch / 2, cells = side / cell, grid = side / patch;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)batch * 3 * cells * cells) return;
    u32 col = at % cells, row = at / cells % cells, channel = at / cells / cells % 3, image = at / cells / cells / 3;
    const float *plane = images + ((u64)image * 3 + channel) * side * side;
    float bins[BINS] = {};
    for (u32 y = row * cell; y < (row + 1) * cell; y++) {
        const float *above = plane + (u64)reflect(int(y) - 1, side) * side, *here = plane + (u64)y * side;
        const float *below = plane + (u64)reflect(int(y) + 1, side) * side;
        for (u32 x = col * cell; x < (col + 1) * cell; x++) {
            int l = reflect(int(x) - 1, side), r = reflect(int(x) + 1, side);
            float gx = above[l] - above[r] + 2.0f * (here[l] - here[r]) + below[l] - below[r];
            float gy = above[l] - below[l] + 2.0f * (above[x] - below[x]) + above[r] - below[r];
            float weight = sqrtf(gx * gx + gy * gy) * window[y % patch * patch + x % patch];
            int bin = bin_of(gx, gy);
            // The loop replaces bins[bin], because an array indexed at run time does not stay in registers.
            for (int b = 0; b < BINS; b++) bins[b] += b == bin ? weight : 0.0f;
        }
    }
    float squares = 0.0f;
    for (int b = 0; b < BINS; b++) squares += bins[b] * bins[b];
    float scale = 1.0f / fmaxf(sqrtf(squares), 1e-12f);
    u64 to = ((u64)image * grid * grid + row / 2 * grid + col / 2) * (3 * BINS * 4);
    to += channel * BINS * 4 + row % 2 * 2 + col % 2;
    for (int b = 0; b < BINS; b++) out[to + b * 4] = bins[b] * scale;
}
