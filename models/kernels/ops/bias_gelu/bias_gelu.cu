// GELU with the exact error function, applied to x plus a bias over the last dimension.
//
//   y = u Phi(u),  u = x + bias,  Phi(u) = (1 + erf(u / sqrt(2))) / 2
//   dx = grad * (Phi(u) + u phi(u)),  phi(u) = exp(-u^2 / 2) / sqrt(2 pi)
//   dbias = column sums of dx (linear.cu)
//
// x, y, grad, dx [rows, dim] in f32 or bf16, bias [dim] in f32. A thread processes four numbers if dim is a multiple of
// four, otherwise one.
#include "common.cuh"

__device__ __forceinline__ float phi(float u) { return 0.5f * (1.0f + erff(u * 0.70710678118654752f)); }

template <typename T, int W> __device__ void forward(const T *x, const float *bias, T *y, u32 rows, u32 dim) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (at >= (u64)rows * dim) return;
    Pack<W> v = load<W>(x + at), b = load<W>(bias + at % dim);
    for (int j = 0; j < W; j++) {
        float u = v.v[j] + b.v[j];
        v.v[j] = u * phi(u);
    }
    store<W>(y + at, v);
}

template <typename T, int W>
__device__ void backward(const T *x, const float *bias, const T *grad, T *dx, u32 rows, u32 dim) {
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (at >= (u64)rows * dim) return;
    Pack<W> v = load<W>(x + at), b = load<W>(bias + at % dim), g = load<W>(grad + at);
    for (int j = 0; j < W; j++) {
        float u = v.v[j] + b.v[j];
        float density = 0.39894228040143268f * expf(-0.5f * u * u);
        v.v[j] = g.v[j] * (phi(u) + u * density);
    }
    store<W>(dx + at, v);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_forward_f32(const float *x, const float *bias, float *y, u32 rows, u32 dim) {
    if (dim % 4 == 0) forward<float, 4>(x, bias, y, rows, dim);
    else forward<float, 1>(x, bias, y, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_forward_bf16(const bf16 *x, const float *bias, bf16 *y, u32 rows, u32 dim) {
    if (dim % 4 == 0) forward<bf16, 4>(x, bias, y, rows, dim);
    else forward<bf16, 1>(x, bias, y, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_backward_f32(const float *x, const float *bias, const float *grad, float *dx, u32 rows, u32 dim) {
    if (dim % 4 == 0) backward<float, 4>(x, bias, grad, dx, rows, dim);
    else backward<float, 1>(x, bias, grad, dx, rows, dim);
}

extern "C" __global__ void __launch_bounds__(THREADS)
bias_gelu_backward_bf16(const bf16 *x, const float *bias, const bf16 *grad, bf16 *dx, u32 rows, u32 dim) {
    if (dim % 4 == 0) backward<bf16, 4>(x, bias, grad, dx, rows, dim);
    else backward<bf16, 1>(x, bias, grad, dx, rows, dim);
}
