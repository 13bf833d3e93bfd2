// AdamW over all tensors in one launch.
//
//   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
//   x = decay x - rate m / (sqrt(v) / correction + 1e-8)
//
// All tensors are in one flat buffer. Each starts at a multiple of CHUNK numbers and is padded with zeros, which stay zeros.
// chunk_tensor [chunks] is the tensor of each chunk; rate and decay [tensors] are the numbers of each tensor (see adamw/mod.rs).
// adamw_rounded also writes the new values in bf16 to rounded [chunks * CHUNK].
// value, grad, first, second [chunks * CHUNK] are f32 master weights, gradient sums and moments. One block per chunk, four
// numbers per thread.
#include "common.cuh"

// Returns the new values.
__device__ __forceinline__ Pack<4> update(float *value, const float *grad, float *first, float *second, u64 at, float lr,
                                          float keep, float b1, float b2, float correction) {
    Pack<4> x = load<4>(value + at), g = load<4>(grad + at), m = load<4>(first + at), v = load<4>(second + at);
    for (int j = 0; j < 4; j++) {
        m.v[j] = b1 * m.v[j] + (1.0f - b1) * g.v[j];
        v.v[j] = b2 * v.v[j] + (1.0f - b2) * g.v[j] * g.v[j];
        x.v[j] = x.v[j] * keep - lr * m.v[j] / (sqrtf(v.v[j]) / correction + 1e-8f);
    }
    store<4>(value + at, x);
    store<4>(first + at, m);
    store<4>(second + at, v);
    return x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw(float *value, const float *grad, float *first, float *second, const u32 *chunk_tensor, const float *rate,
      const float *decay, float b1, float b2, float correction) {
    u64 at = (u64)blockIdx.x * CHUNK + threadIdx.x * 4;
    u32 tensor = chunk_tensor[blockIdx.x];
    update(value, grad, first, second, at, rate[tensor], decay[tensor], b1, b2, correction);
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_rounded(float *value, const float *grad, float *first, float *second, bf16 *rounded, const u32 *chunk_tensor,
              const float *rate, const float *decay, float b1, float b2, float correction) {
    u64 at = (u64)blockIdx.x * CHUNK + threadIdx.x * 4;
    u32 tensor = chunk_tensor[blockIdx.x];
    Pack<4> x = update(value, grad, first, second, at, rate[tensor], decay[tensor], b1, b2, correction);
    *reinterpret_cast<uint2 *>(rounded + at) = make_uint2(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]));
}
