// Softmax cross-entropy of the predicted patches' scores, with label smoothing as in PyTorch.
//
//   log_total[r] = log sum_c exp(scores[r, c]), after subtracting the row's maximum
//   losses[r] = (1 - s) (log_total - scores[r, id]) + s (log_total - mean_c scores[r, c])
//   loss = mean over rows of losses
//   dscores[r, c] = upstream / rows * (exp(scores[r, c] - log_total) - (1 - s) [c = id] - s / classes)
//
// scores, dscores [rows, classes] in f32 or bf16; ids [rows] (the caller checks that they are below classes); log_total, losses
// [rows]; loss [1]. One block per row: the maximum, then the sum; one pass backward. A NaN propagates.
#include "common.cuh"

template <typename T>
__device__ void forward(const T *scores, const u32 *ids, float *log_total, float *losses, float smoothing, u32 classes) {
    __shared__ float space[32];
    u32 row = blockIdx.x;
    scores += (u64)row * classes;
    float top = MINUS_INFINITY, plain = 0.0f, sum = 0.0f;
    for (u32 c = threadIdx.x; c < classes; c += blockDim.x) {
        float score = to_float(scores[c]);
        top = fmaxf(top, score);
        plain += score;
    }
    top = block_max(top, space);
    for (u32 c = threadIdx.x; c < classes; c += blockDim.x) sum += expf(to_float(scores[c]) - top);
    sum = block_sum(sum, space);
    plain = block_sum(plain, space);
    if (threadIdx.x == 0) {
        float total = top + logf(sum);
        log_total[row] = total;
        losses[row] = (1.0f - smoothing) * (total - to_float(scores[ids[row]])) + smoothing * (total - plain / classes);
    }
}

template <typename T>
__device__ void backward(const T *scores, const u32 *ids, const float *log_total, const float *upstream, T *dscores,
                         float smoothing, u32 rows, u32 classes) {
    u32 row = blockIdx.x, id = ids[row];
    float factor = upstream[0] / rows, total = log_total[row], share = smoothing / classes;
    scores += (u64)row * classes, dscores += (u64)row * classes;
    for (u32 c = threadIdx.x; c < classes; c += blockDim.x) {
        float q = share + (c == id ? 1.0f - smoothing : 0.0f);
        dscores[c] = from_float<T>(factor * (expf(to_float(scores[c]) - total) - q));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward_f32(const float *scores, const u32 *ids, float *log_total, float *losses, float smoothing,
                          u32 classes) {
    forward(scores, ids, log_total, losses, smoothing, classes);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_forward_bf16(const bf16 *scores, const u32 *ids, float *log_total, float *losses, float smoothing,
                           u32 classes) {
    forward(scores, ids, log_total, losses, smoothing, classes);
}

// One block: each thread adds its rows in f64, then the threads' sums are added in order.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_mean(const float *losses, float *loss, u32 rows) {
    __shared__ double sums[THREADS];
    double sum = 0.0;
    for (u32 row = threadIdx.x; row < rows; row += blockDim.x) sum += losses[row];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 at = 1; at < blockDim.x; at++) sum += sums[at];
    loss[0] = (float)(sum / rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward_f32(const float *scores, const u32 *ids, const float *log_total, const float *upstream,
                           float *dscores, float smoothing, u32 rows, u32 classes) {
    backward(scores, ids, log_total, upstream, dscores, smoothing, rows, classes);
}

extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward_bf16(const bf16 *scores, const u32 *ids, const float *log_total, const float *upstream,
                            bf16 *dscores, float smoothing, u32 rows, u32 classes) {
    backward(scores, ids, log_total, upstream, dscores, smoothing, rows, classes);
}
