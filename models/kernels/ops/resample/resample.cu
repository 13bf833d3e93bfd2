// Crops and flips images and resizes them to squares with Pillow's antialiased bicubic filter in two passes
// (tokenizers/view/resample.rs). The intermediate result has 8 bits and weights are 22-bit fixed point, so the bytes equal the CPU's.
//
//   resample_across: middle[r, x, c] = byte(sum_k weights[first_x + k] * pixels[row_at[r] + 3 (start_x + k) + c])
//   resample_down:   out[i, y, x, c] = byte(sum_k weights[first_y + k] * middle[row_of[i] + start_y + k, x, c])
//   byte(sum) = (sum + 2^21) >> 22, clamped to 0..255
//
// pixels: the rectangles of all images that the two passes read, concatenated, each [rows, columns, 3]; row_at [rows]: the start of each
// row of all rectangles; image_of [rows]: its image. across, down [images, side, 3]: start, first weight and number of weights of
// each output position; starts in across are columns of the rectangle, starts in down are rows of middle; across includes the flip.
// middle [rows, side, 3], out [images, side, side, 3]. One thread per output byte.
#include "common.cuh"

#define PRECISION 22

__device__ __forceinline__ u8 byte_of(int sum) {
    int value = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return (u8)(value < 0 ? 0 : value > 255 ? 255 : value);
}

extern "C" __global__ void __launch_bounds__(THREADS)
resample_across(const u8 *pixels, const u64 *row_at, const u32 *image_of, const u32 *across, const i32 *weights,
                u8 *middle, u32 rows, u32 side) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)rows * side * 3) return;
    u32 row = at / (side * 3), x = at / 3 % side, channel = at % 3;
    const u32 *tap = across + ((u64)image_of[row] * side + x) * 3;
    const u8 *from = pixels + row_at[row] + (u64)tap[0] * 3 + channel;
    int sum = 0;
    for (u32 k = 0; k < tap[2]; k++) sum += weights[tap[1] + k] * from[3 * k];
    middle[at] = byte_of(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS)
resample_down(const u8 *middle, const u32 *down, const i32 *weights, u8 *out, u32 images, u32 side) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 line = (u64)side * 3;
    if (at >= images * side * line) return;
    const u32 *tap = down + at / line * 3;
    const u8 *from = middle + tap[0] * line + at % line;
    int sum = 0;
    for (u32 k = 0; k < tap[2]; k++) sum += weights[tap[1] + k] * from[k * line];
    out[at] = byte_of(sum);
}
