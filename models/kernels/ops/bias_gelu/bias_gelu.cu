// GELU with the exact error function, applied to x plus a bias over the last dimension.
//
//   y = u Phi(u),  u = x + bias,  Phi(u) = (1 + erf(u / sqrt(2))) / 2
//   dx = grad * (Phi(u) + u phi(u)),  phi(u) = exp(-u^2 / 2) / sqrt(2 pi)
//   dbias = column sums of dx: partial [parts, dim] holds those of rows_of_part rows each, and column_totals in linear.cu adds them
//
// x, y, grad, dx [rows, dim] in f32 or bf16, bias [dim] in f32. A thread of the forward processes WIDE numbers if dim is a multiple of
// WIDE, otherwise one.
#include "columns.cuh"

__device__ __forceinline__ float phi(float u) { return 0.5f * (1.0f + erff(u * 0.70710678118654752f)); }

template <typename T, int W> __device__ void forward(const T *x, const float *bias, T *y, u32 rows, u32 dim) {
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    u64 at = (u64)thread * W;
    if (at >= (u64)rows * dim) return;
    Pack<W> v = load<W>(x + at), b = load<W>(bias + thread % (dim / W) * W);
    for (int j = 0; j < W; j++) {
        float u = v.v[j] + b.v[j];
        v.v[j] = u * phi(u);
    }
    store<W>(y + at, v);
}

// Warp w of a block processes the rows w, w + 8, ... of its part.
template <typename T, int W>
__device__ void backward(const T *x, const float *bias, const T *grad, T *dx, float *partial, u32 rows, u32 dim,
                         u32 rows_of_part) {
    Columns<W> at(rows, dim, rows_of_part);
    Pack<W> sum = {};
    if (at.column < dim) {
        Pack<W> b = load<W>(bias + at.column);
        for (u32 row = at.first + threadIdx.x / 32; row < at.last; row += WARPS) {
            u64 i = (u64)row * dim + at.column;
            Pack<W> v = load<W>(x + i), g = load<W>(grad + i);
            for (int j = 0; j < W; j++) {
                float u = v.v[j] + b.v[j];
                float density = 0.39894228040143268f * expf(-0.5f * u * u);
                v.v[j] = g.v[j] * (phi(u) + u * density);
                sum.v[j] += v.v[j];
            }
            store<W>(dx + i, v);
        }
    }
    write_columns<W>(partial + (u64)at.part * dim, sum, at.first_column, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_forward_f32(const float *x, const float *bias, float *y, u32 rows, u32 dim) {
    if (dim % WIDE == 0) forward<float, WIDE>(x, bias, y, rows, dim);
    else forward<float, 1>(x, bias, y, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_forward_bf16(const bf16 *x, const float *bias, bf16 *y, u32 rows, u32 dim) {
    if (dim % WIDE == 0) forward<bf16, WIDE>(x, bias, y, rows, dim);
    else forward<bf16, 1>(x, bias, y, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_backward_f32(const float *x, const float *bias, const float *grad, float *dx, float *partial, u32 rows,
                       u32 dim, u32 rows_of_part) {
    if (dim % WIDE == 0) backward<float, WIDE>(x, bias, grad, dx, partial, rows, dim, rows_of_part);
    else backward<float, 1>(x, bias, grad, dx, partial, rows, dim, rows_of_part);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_backward_bf16(const bf16 *x, const float *bias, const bf16 *grad, bf16 *dx, float *partial, u32 rows,
                       u32 dim, u32 rows_of_part) {
    if (dim % WIDE == 0) backward<bf16, WIDE>(x, bias, grad, dx, partial, rows, dim, rows_of_part);
    else backward<bf16, 1>(x, bias, grad, dx, partial, rows, dim, rows_of_part);
}
