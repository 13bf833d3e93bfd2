// Splits images into patches.
//
//   out[i, (c, p, q)] = image channel c at (row * patch + p, col * patch + q) of patch keep[i] = (image, row, col)
//   channel_last: out[i, (p, q, c)] instead, as in MAE's targets
//   patchify_u8: (pixel / 255 - mean[c]) / std[c], with f32 divisions, equal to the bit to the CPU renderer
//   normalize_rows: (x - mean) / sqrt(var + 1e-6) of each row, with unbiased variance (MAE's norm_pix_loss)
//
// images [batch, 3, side, side] in f32 or [batch, side, side, 3] in u8; keep [rows], below batch * (side / patch)^2; mean,
// std [3]; out [rows, 3 * patch * patch] in f32 or bf16. One thread per number; one warp per row in normalize_rows.
#include "common.cuh"

struct Pixel {
    u32 image, channel, y, x;
};

__device__ __forceinline__ Pixel pixel_of(u64 at, const u32 *keep, u32 side, u32 patch, u32 channel_last) {
    u32 dim = 3 * patch * patch, grid = side / patch;
    u32 i = (u32)(at % dim), source = keep[at / dim], place = source % (grid * grid);
    u32 channel = channel_last ? i % 3 : i / (patch * patch);
    u32 inner = channel_last ? i / 3 : i % (patch * patch);
    return {source / (grid * grid), channel, place / grid * patch + inner / patch, place % grid * patch + inner % patch};
}

template <typename T>
__device__ void from_floats(const float *images, const u32 *keep, T *out, u32 rows, u32 side, u32 patch,
                            u32 channel_last) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * 3 * patch * patch) return;
    Pixel p = pixel_of(at, keep, side, patch, channel_last);
    out[at] = from_float<T>(images[(((u64)p.image * 3 + p.channel) * side + p.y) * side + p.x]);
}

template <typename T>
__device__ void from_bytes(const u8 *images, const u32 *keep, const float *mean, const float *std, T *out, u32 rows,
                           u32 side, u32 patch, u32 channel_last) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * 3 * patch * patch) return;
    Pixel p = pixel_of(at, keep, side, patch, channel_last);
    float value = images[(((u64)p.image * side + p.y) * side + p.x) * 3 + p.channel];
    out[at] = from_float<T>((value / 255.0f - mean[p.channel]) / std[p.channel]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
patchify_f32(const float *images, const u32 *keep, float *out, u32 rows, u32 side, u32 patch, u32 channel_last) {
    from_floats(images, keep, out, rows, side, patch, channel_last);
}

extern "C" __global__ void __launch_bounds__(THREADS)
patchify_bf16(const float *images, const u32 *keep, bf16 *out, u32 rows, u32 side, u32 patch, u32 channel_last) {
    from_floats(images, keep, out, rows, side, patch, channel_last);
}

extern "C" __global__ void __launch_bounds__(THREADS)
patchify_u8_f32(const u8 *images, const u32 *keep, const float *mean, const float *std, float *out, u32 rows,
                u32 side, u32 patch, u32 channel_last) {
    from_bytes(images, keep, mean, std, out, rows, side, patch, channel_last);
}

extern "C" __global__ void __launch_bounds__(THREADS)
patchify_u8_bf16(const u8 *images, const u32 *keep, const float *mean, const float *std, bf16 *out, u32 rows,
                 u32 side, u32 patch, u32 channel_last) {
    from_bytes(images, keep, mean, std, out, rows, side, patch, channel_last);
}

extern "C" __global__ void __launch_bounds__(THREADS)
normalize_rows_f32(float *values, u32 rows, u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    values += (u64)row * dim;
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = lane; i < dim; i += 32) sum += values[i];
    float mean = warp_sum(sum) / dim;
    for (u32 i = lane; i < dim; i += 32) squares += (values[i] - mean) * (values[i] - mean);
    float scale = 1.0f / sqrtf(warp_sum(squares) / (dim - 1.0f) + 1e-6f);
    for (u32 i = lane; i < dim; i += 32) values[i] = (values[i] - mean) * scale;
}
