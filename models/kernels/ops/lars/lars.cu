// LARS (MAE util/lars.py) over all tensors: norms of every chunk, a factor per tensor, then one pass over all numbers.
//
//   lars_norms: partial[chunk] = (sum x^2, sum (g + decay x)^2)
//   lars_factors: factor[t] = trust[t] |x| / |g + decay x|, or 1 if trust or a norm is zero
//   lars_step: m = momentum m + factor (g + decay x),  x = x - rate m
//
// All tensors are in one flat buffer. Each starts at a multiple of CHUNK numbers and is padded with zeros, which stay zeros.
// chunk_tensor [chunks] is the tensor of each chunk, first_chunk [tensors + 1] the first chunk of each tensor; trust, decay,
// rate, factor [tensors] (trust and decay are 0 for tensors of one dimension). value, grad, moment [chunks * CHUNK], partial
// [chunks, 2], all f32. One block per chunk, four numbers per thread. Sums have a fixed order; those of a tensor are f64.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
lars_norms(const float *value, const float *grad, const u32 *chunk_tensor, const float *decay, float *partial) {
    __shared__ float space[32];
    u64 at = (u64)blockIdx.x * CHUNK + threadIdx.x * 4;
    float keep = decay[chunk_tensor[blockIdx.x]], size = 0.0f, update = 0.0f;
    Pack<4> x = load<4>(value + at), g = load<4>(grad + at);
    for (int j = 0; j < 4; j++) {
        float d = g.v[j] + keep * x.v[j];
        size += x.v[j] * x.v[j];
        update += d * d;
    }
    size = block_sum(size, space);
    update = block_sum(update, space);
    if (threadIdx.x > 0) return;
    partial[(u64)blockIdx.x * 2] = size;
    partial[(u64)blockIdx.x * 2 + 1] = update;
}

// One block per tensor: each thread adds its chunks, then the threads' sums are added in order.
extern "C" __global__ void __launch_bounds__(THREADS)
lars_factors(const float *partial, const u32 *first_chunk, const float *trust, float *factor) {
    __shared__ double sizes[THREADS];
    __shared__ double updates[THREADS];
    u32 tensor = blockIdx.x;
    double size = 0.0, update = 0.0;
    for (u32 chunk = first_chunk[tensor] + threadIdx.x; chunk < first_chunk[tensor + 1]; chunk += blockDim.x) {
        size += partial[(u64)chunk * 2];
        update += partial[(u64)chunk * 2 + 1];
    }
    sizes[threadIdx.x] = size;
    updates[threadIdx.x] = update;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 at = 1; at < blockDim.x; at++) size += sizes[at], update += updates[at];
    bool scaled = trust[tensor] > 0.0f && size > 0.0 && update > 0.0;
    factor[tensor] = scaled ? (float)(trust[tensor] * sqrt(size) / sqrt(update)) : 1.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS)
lars_step(float *value, const float *grad, float *moment, const u32 *chunk_tensor, const float *decay,
          const float *factor, const float *rate, float momentum) {
    u64 at = (u64)blockIdx.x * CHUNK + threadIdx.x * 4;
    u32 tensor = chunk_tensor[blockIdx.x];
    float keep = decay[tensor], scale = factor[tensor], lr = rate[tensor];
    Pack<4> x = load<4>(value + at), g = load<4>(grad + at), m = load<4>(moment + at);
    for (int j = 0; j < 4; j++) {
        m.v[j] = momentum * m.v[j] + (g.v[j] + keep * x.v[j]) * scale;
        x.v[j] -= lr * m.v[j];
    }
    store<4>(value + at, x);
    store<4>(moment + at, m);
}
