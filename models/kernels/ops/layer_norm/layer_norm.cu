// Layer norm over the last dimension.
//
//   y = n * weight + bias,  n = (x - mean) * scale,  scale = 1 / sqrt(var + eps)
//   dx = scale * (d - mean(d) - n * mean(d * n)),  d = grad * weight
//   dweight = sum over rows of grad * n,  dbias = sum over rows of grad
//
// x, y, grad, base, dx [rows, DIM] in f32 or bf16 (in "_f32_bf16", x in f32 and the others in bf16); weight, bias [DIM] and all sums in f32. One warp per row, which it
// keeps in registers: every number is read once, and all reads of a row start before the first sum over the warp. The backward adds `base`, the gradient that reaches x past the norm, to dx in the
// variants "_add", and sums the parameters' gradients on the way: dweight and dbias [parts, DIM] hold sums of rows_of_part rows each, and
// column_totals in linear.cu adds those. There are no atomics, so the bytes are reproducible.
// Compiled once per DIM, so that a lane's sums are registers.
#include "columns.cuh"

// Columns next to each other that a lane processes, and how many times.
constexpr int W = DIM % WIDE == 0 ? WIDE : 1;
constexpr int PACKS = (DIM + 32 * W - 1) / (32 * W);

struct Moments {
    float mean, scale;
};

// The numbers of a row that a lane processes; zeros after the last column.
struct Row {
    Pack<W> packs[PACKS];
};

__device__ __forceinline__ u32 column_of(int pack) { return (pack * 32 + threadIdx.x % 32) * W; }

template <typename T> __device__ __forceinline__ Row load_row(const T *row) {
    Row out = {};
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (column_of(p) < DIM) out.packs[p] = load<W>(row + column_of(p));
    return out;
}

__device__ __forceinline__ Moments moments_of(const Row &row, float eps) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        for (int j = 0; j < W; j++) sum += row.packs[p].v[j];
    float mean = warp_sum(sum) / DIM;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        for (int j = 0; j < W && column_of(p) < DIM; j++) {
            float off = row.packs[p].v[j] - mean;
            squares += off * off;
        }
    return {mean, 1.0f / sqrtf(warp_sum(squares) / DIM + eps)};
}

template <typename X, typename T>
__device__ void forward(const X *x, const float *weight, const float *bias, T *y, float eps, u32 rows) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    Row values = load_row(x + (u64)row * DIM);
    Moments m = moments_of(values, eps);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        u32 i = column_of(p);
        if (i >= DIM) continue;
        Pack<W> v = values.packs[p], w = load<W>(weight + i), b = load<W>(bias + i);
        for (int j = 0; j < W; j++) v.v[j] = (v.v[j] - m.mean) * m.scale * w.v[j] + b.v[j];
        store<W>(y + (u64)row * DIM + i, v);
    }
}

// A block processes rows_of_part rows; warp w processes the rows w, w + 8, ... of them.
template <bool ADD, typename X, typename T>
__device__ void backward(const X *x, const float *weight, const T *grad, const T *base, T *dx, float *dweight,
                         float *dbias, float eps, u32 rows, u32 rows_of_part) {
    u32 first = blockIdx.x * rows_of_part, last = min(first + rows_of_part, rows);
    Pack<W> weights[PACKS] = {}, biases[PACKS] = {};
    for (u32 row = first + threadIdx.x / 32; row < last; row += WARPS) {
        u64 start = (u64)row * DIM;
        Row n = load_row(x + start), g = load_row(grad + start), other = {};
        if (ADD) other = load_row(base + start);
        Moments m = moments_of(n, eps);
        float sum = 0.0f, slope = 0.0f;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            u32 i = column_of(p);
            if (i >= DIM) continue;
            Pack<W> w = load<W>(weight + i);
            for (int j = 0; j < W; j++) {
                float &normal = n.packs[p].v[j], &slope_of = g.packs[p].v[j];
                normal = (normal - m.mean) * m.scale;
                weights[p].v[j] += slope_of * normal;
                biases[p].v[j] += slope_of;
                slope_of *= w.v[j];
                sum += slope_of;
                slope += slope_of * normal;
            }
        }
        float center = warp_sum(sum) / DIM;
        slope = warp_sum(slope) / DIM;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (column_of(p) >= DIM) continue;
            Pack<W> out = other.packs[p];
            for (int j = 0; j < W; j++)
                out.v[j] += m.scale * (g.packs[p].v[j] - center - n.packs[p].v[j] * slope);
            store<W>(dx + start + column_of(p), out);
        }
    }
    u64 part = (u64)blockIdx.x * DIM;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        write_columns<W>(dweight + part, weights[p], p * 32 * W, DIM);
        write_columns<W>(dbias + part, biases[p], p * 32 * W, DIM);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward_f32(const float *x, const float *weight, const float *bias, float *y, float eps, u32 rows) {
    forward(x, weight, bias, y, eps, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_f32(const float *x, const float *weight, const float *grad, float *dx, float *dweight, float *dbias,
                       float eps, u32 rows, u32 rows_of_part) {
    backward<false, float, float>(x, weight, grad, nullptr, dx, dweight, dbias, eps, rows, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_add_f32(const float *x, const float *weight, const float *grad, const float *base, float *dx,
                           float *dweight, float *dbias, float eps, u32 rows, u32 rows_of_part) {
    backward<true>(x, weight, grad, base, dx, dweight, dbias, eps, rows, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward_bf16(const bf16 *x, const float *weight, const float *bias, bf16 *y, float eps, u32 rows) {
    forward(x, weight, bias, y, eps, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_bf16(const bf16 *x, const float *weight, const bf16 *grad, bf16 *dx, float *dweight, float *dbias,
                       float eps, u32 rows, u32 rows_of_part) {
    backward<false, bf16, bf16>(x, weight, grad, nullptr, dx, dweight, dbias, eps, rows, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_add_bf16(const bf16 *x, const float *weight, const bf16 *grad, const bf16 *base, bf16 *dx,
                           float *dweight, float *dbias, float eps, u32 rows, u32 rows_of_part) {
    backward<true>(x, weight, grad, base, dx, dweight, dbias, eps, rows, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_forward_f32_bf16(const float *x, const float *weight, const float *bias, bf16 *y, float eps, u32 rows) {
    forward(x, weight, bias, y, eps, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_f32_bf16(const float *x, const float *weight, const bf16 *grad, bf16 *dx, float *dweight, float *dbias,
                       float eps, u32 rows, u32 rows_of_part) {
    backward<false, float, bf16>(x, weight, grad, nullptr, dx, dweight, dbias, eps, rows, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_backward_add_f32_bf16(const float *x, const float *weight, const bf16 *grad, const bf16 *base, bf16 *dx,
                           float *dweight, float *dbias, float eps, u32 rows, u32 rows_of_part) {
    backward<true>(x, weight, grad, base, dx, dweight, dbias, eps, rows, rows_of_part);
}
