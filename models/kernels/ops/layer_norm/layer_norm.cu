// Layer norm over the last dimension.
//
//   y = n * weight + bias,  n = (x - mean) * scale,  scale = 1 / sqrt(var + eps)
//   dx = scale * (d - mean(d) - n * mean(d * n)),  d = grad * weight
//   dweight = sum over rows of grad * n,  dbias = sum over rows of grad
//
// x, y, grad, dx [rows, dim] in f32 or bf16; weight, bias [dim] and all sums in f32. The variance takes a second pass over the
// row, which is then in the cache. One warp per row; moments [rows, 2] holds mean and scale for the column sums.
// Column sums: layer_norm_columns adds COLUMN_ROWS rows to partial sums [parts, 2, dim] (weight, then bias), and column_totals
// in linear.cu adds those in order. There are no atomics, so the bytes are reproducible.
#include "common.cuh"

struct Moments {
    float mean, scale;
};

template <typename T, int W> __device__ __forceinline__ Moments moments_of(const T *row, float eps, u32 dim, u32 lane) {
    float sum = 0.0f;
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> x = load<W>(row + i);
        for (int j = 0; j < W; j++) sum += x.v[j];
    }
    float mean = warp_sum(sum) / dim;
    float squares = 0.0f;
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> x = load<W>(row + i);
        for (int j = 0; j < W; j++) squares += (x.v[j] - mean) * (x.v[j] - mean);
    }
    return {mean, 1.0f / sqrtf(warp_sum(squares) / dim + eps)};
}

template <typename T, int W>
__device__ void forward(const T *x, const float *weight, const float *bias, T *y, float eps, u32 rows, u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (u64)row * dim, y += (u64)row * dim;
    Moments m = moments_of<T, W>(x, eps, dim, lane);
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> v = load<W>(x + i), w = load<W>(weight + i), b = load<W>(bias + i);
        for (int j = 0; j < W; j++) v.v[j] = (v.v[j] - m.mean) * m.scale * w.v[j] + b.v[j];
        store<W>(y + i, v);
    }
}

template <typename T, int W>
__device__ void backward(const T *x, const float *weight, const T *grad, T *dx, float *moments, float eps, u32 rows,
                         u32 dim) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += (u64)row * dim, grad += (u64)row * dim, dx += (u64)row * dim;
    Moments m = moments_of<T, W>(x, eps, dim, lane);
    float sum = 0.0f, slope = 0.0f;
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> v = load<W>(x + i), g = load<W>(grad + i), w = load<W>(weight + i);
        for (int j = 0; j < W; j++) {
            float d = g.v[j] * w.v[j];
            sum += d;
            slope += d * (v.v[j] - m.mean) * m.scale;
        }
    }
    float center = warp_sum(sum) / dim;
    slope = warp_sum(slope) / dim;
    for (u32 i = lane * W; i < dim; i += 32 * W) {
        Pack<W> v = load<W>(x + i), g = load<W>(grad + i), w = load<W>(weight + i);
        for (int j = 0; j < W; j++) {
            float n = (v.v[j] - m.mean) * m.scale;
            v.v[j] = m.scale * (g.v[j] * w.v[j] - center - n * slope);
        }
        store<W>(dx + i, v);
    }
    if (lane == 0) moments[2ull * row] = m.mean, moments[2ull * row + 1] = m.scale;
}

// A block processes 32 columns of COLUMN_ROWS rows; warp w processes the rows w, w + 8, ...
template <typename T>
__device__ void columns(const T *x, const T *grad, const float *moments, float *partial, u32 rows, u32 dim) {
    __shared__ float sums[2][WARPS][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 across = (dim + 31) / 32, part = blockIdx.x / across;
    u32 column = blockIdx.x % across * 32 + lane;
    float dweight = 0.0f, dbias = 0.0f;
    if (column < dim) {
        u32 first = part * COLUMN_ROWS, last = min(first + COLUMN_ROWS, rows);
        for (u32 row = first + warp; row < last; row += WARPS) {
            float g = to_float(grad[(u64)row * dim + column]);
            float n = (to_float(x[(u64)row * dim + column]) - moments[2ull * row]) * moments[2ull * row + 1];
            dweight += g * n;
            dbias += g;
        }
    }
    sums[0][warp][lane] = dweight;
    sums[1][warp][lane] = dbias;
    __syncthreads();
    if (warp < 2 && column < dim) {
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) total += sums[warp][w][lane];
        partial[((u64)part * 2 + warp) * dim + column] = total;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward_f32(const float *x, const float *weight, const float *bias, float *y, float eps, u32 rows, u32 dim) {
    if (dim % 4 == 0) forward<float, 4>(x, weight, bias, y, eps, rows, dim);
    else forward<float, 1>(x, weight, bias, y, eps, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward_bf16(const bf16 *x, const float *weight, const float *bias, bf16 *y, float eps, u32 rows, u32 dim) {
    if (dim % 4 == 0) forward<bf16, 4>(x, weight, bias, y, eps, rows, dim);
    else forward<bf16, 1>(x, weight, bias, y, eps, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_f32(const float *x, const float *weight, const float *grad, float *dx, float *moments, float eps,
                        u32 rows, u32 dim) {
    if (dim % 4 == 0) backward<float, 4>(x, weight, grad, dx, moments, eps, rows, dim);
    else backward<float, 1>(x, weight, grad, dx, moments, eps, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_bf16(const bf16 *x, const float *weight, const bf16 *grad, bf16 *dx, float *moments, float eps,
                         u32 rows, u32 dim) {
    if (dim % 4 == 0) backward<bf16, 4>(x, weight, grad, dx, moments, eps, rows, dim);
    else backward<bf16, 1>(x, weight, grad, dx, moments, eps, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_columns_f32(const float *x, const float *grad, const float *moments, float *partial, u32 rows, u32 dim) {
    columns(x, grad, moments, partial, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_columns_bf16(const bf16 *x, const bf16 *grad, const float *moments, float *partial, u32 rows, u32 dim) {
    columns(x, grad, moments, partial, rows, dim);
}
