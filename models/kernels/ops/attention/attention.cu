// Multi-head self-attention and its gradient without storing a [tokens, tokens] matrix (FlashAttention-2, Dao 2023).
//
//   P = softmax(Q K^T / sqrt(size)),  O = P V
//   delta = rowsum(dO * O),  dV = P^T dO,  dS = P * (dO V^T - delta),
//   dQ = dS K / sqrt(size),  dK = dS^T Q / sqrt(size)
//
// qkv, dqkv [batch, tokens, 3 * heads * size] in bf16, each row with queries, keys, values in this order; out, dout
// [batch, tokens, heads * size] in bf16; log_total, delta [batch * heads, tokens] in f32. Sums are f32; P and dS are rounded
// to bf16 before the second product, as in PyTorch.
//
// Compiled once per SIZE, a multiple of 16 from 16 to 128. A block has four warps. Each warp owns 16 of the block's ROWS
// (queries, or keys for dK and dV) and iterates over the other side. The block copies that side to shared memory, TILE rows
// at a time.
// The kernels use exp2 instead of exp: log_total[i] = max + log2(sum), both of scores times log2(e).
// The forward stores log_total. The backward recomputes P from it, in one kernel for dQ and one for dK and dV. One thread
// writes each number, and sums have a fixed order. Without atomics, the bytes are reproducible, at the cost of computing
// Q K^T and dO V^T twice.
#include "tensor_core.cuh"

#define STRIDE (SIZE + 8) // of a row in shared memory; avoids bank conflicts of ldmatrix
#define STEPS (SIZE / 16)
#define LOG2_E 1.4426950408889634f

// A tile of TILE rows, or the last one with 1 to TILE rows. Full tiles need no masks; the last one computes groups of 16 rows.
struct Full {
    static constexpr bool last = false;
};
struct Last {
    static constexpr bool last = true;
};

// Calls body(first row, Full or Last) for every tile of `tokens` rows.
template <typename Body> __device__ __forceinline__ void each_tile(u32 tokens, const Body &body) {
    u32 first = 0;
    for (; first + TILE <= tokens; first += TILE) body(first, Full());
    if (first < tokens) body(first, Last());
}

struct Place {
    u32 image, head, tile, width;
};

// Blocks are ordered by (image, head, tile).
__device__ __forceinline__ Place place(u32 tokens, u32 heads) {
    u32 tiles = (tokens + ROWS - 1) / ROWS, at = blockIdx.x / tiles;
    return {at / heads, at % heads, blockIdx.x % tiles, heads * SIZE};
}

// Returns the start of a head's queries (0), keys (1) or values (2).
template <typename T> __device__ __forceinline__ T *part(T *qkv, const Place &p, u32 tokens, u32 which) {
    return qkv + (u64)p.image * tokens * 3 * p.width + which * p.width + p.head * SIZE;
}

template <typename T> __device__ __forceinline__ T *head_of(T *out, const Place &p, u32 tokens) {
    return out + (u64)p.image * tokens * p.width + p.head * SIZE;
}

// Copies COUNT rows, starting at row `first`, to shared memory, 16 bytes at a time, with zeros after the last token.
template <int COUNT>
__device__ __forceinline__ void copy_rows(bf16 *to, const bf16 *from, u32 first, u32 tokens, u32 stride) {
    for (u32 at = threadIdx.x; at < COUNT * (SIZE / 8); at += THREADS) {
        u32 row = at / (SIZE / 8), column = at % (SIZE / 8) * 8;
        uint4 values = make_uint4(0, 0, 0, 0);
        if (first + row < tokens) values = *reinterpret_cast<const uint4 *>(from + (u64)(first + row) * stride + column);
        *reinterpret_cast<uint4 *>(to + row * STRIDE + column) = values;
    }
}

// Computes the C tiles [16, TILE] of s = A B^T over SIZE, for rows 16 * warp to 16 * warp + 15 of a and the `count` rows of b.
template <typename Kind>
__device__ __forceinline__ void scores(Kind, float (&s)[TILE / 8][4], const bf16 *a, const bf16 *b, u32 count) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int n = 0; n < TILE / 8; n++)
        for (int j = 0; j < 4; j++) s[n][j] = 0.0f;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 left[4];
        load_tiles(left, a + (warp * 16 + lane % 16) * STRIDE + k * 16 + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {
            if (Kind::last && n * 16 >= count) break;
            u32 right[4];
            load_tiles(right, b + (n * 16 + lane % 8 + lane / 16 * 8) * STRIDE + k * 16 + lane / 8 % 2 * 8);
            mma(s[2 * n], left, right[0], right[1]);
            mma(s[2 * n + 1], left, right[2], right[3]);
        }
    }
}

// Computes the C tiles [16, SIZE] of o += S B, where S is the first `count` columns of the C tiles s [16, TILE], rounded to bf16.
// The other columns of the last group of 16 are 0.
template <typename Kind>
__device__ __forceinline__ void mix(Kind, float (&o)[SIZE / 8][4], const float (&s)[TILE / 8][4], const bf16 *b, u32 count) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
        if (Kind::last && k * 16 >= count) break;
        const float(&low)[4] = s[2 * k], (&high)[4] = s[2 * k + 1];
        u32 left[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                       pack_bf16(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < STEPS; n++) {
            u32 right[4];
            load_tiles_transposed(right, b + (k * 16 + lane % 16) * STRIDE + n * 16 + lane / 16 * 8);
            mma(o[2 * n], left, right[0], right[1]);
            mma(o[2 * n + 1], left, right[2], right[3]);
        }
    }
}

// Writes the C tiles in bf16, scaled by one factor for each of the lane's two rows.
__device__ __forceinline__ void write_rows(bf16 *to, const float (&o)[SIZE / 8][4], const float (&factor)[2], u32 first,
                                           u32 tokens, u32 stride) {
    u32 lane = threadIdx.x % 32;
    for (int half = 0; half < 2; half++) {
        u32 row = first + threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        if (row >= tokens) continue;
        for (int n = 0; n < SIZE / 8; n++) {
            u32 pair = pack_bf16(o[n][2 * half] * factor[half], o[n][2 * half + 1] * factor[half]);
            *reinterpret_cast<u32 *>(to + (u64)row * stride + n * 8 + lane % 4 * 2) = pair;
        }
    }
}

// Maximum and sum over the four lanes that share a row of C tiles.
__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

__device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

extern "C" __global__ void __launch_bounds__(THREADS)
attention_forward(const bf16 *qkv, bf16 *out, float *log_total, float scale, u32 tokens, u32 heads) {
    DYNAMIC_SHARED(bf16, queries);
    bf16 *keys = queries + ROWS * STRIDE, *values = keys + TILE * STRIDE;
    Place p = place(tokens, heads);
    u32 lane = threadIdx.x % 32, first = p.tile * ROWS, stride = 3 * p.width;
    copy_rows<ROWS>(queries, part(qkv, p, tokens, 0), first, tokens, stride);

    // A warp without rows only copies.
    bool idle = first + threadIdx.x / 32 * 16 >= tokens;
    float o[SIZE / 8][4] = {}, top[2] = {MINUS_INFINITY, MINUS_INFINITY}, total[2] = {};
    each_tile(tokens, [&](u32 key, auto kind) {
        __syncthreads();
        copy_rows<TILE>(keys, part(qkv, p, tokens, 1), key, tokens, stride);
        copy_rows<TILE>(values, part(qkv, p, tokens, 2), key, tokens, stride);
        __syncthreads();
        if (idle) return;
        u32 count = tokens - key;
        float s[TILE / 8][4];
        scores(kind, s, queries, keys, count);
        for (int half = 0; half < 2; half++) {
            float higher = top[half];
            for (int n = 0; n < TILE / 8; n++)
                for (int j = 2 * half; j < 2 * half + 2; j++) {
                    bool inside = !kind.last || n * 8 + lane % 4 * 2 + j % 2 < count;
                    s[n][j] = inside ? s[n][j] * (scale * LOG2_E) : MINUS_INFINITY;
                    higher = fmaxf(higher, s[n][j]);
                }
            higher = row_max(higher);
            float shrink = exp2_fast(top[half] - higher), sum = 0.0f;
            for (int n = 0; n < TILE / 8; n++)
                for (int j = 2 * half; j < 2 * half + 2; j++) sum += s[n][j] = exp2_fast(s[n][j] - higher);
            total[half] = total[half] * shrink + sum;
            top[half] = higher;
            for (int n = 0; n < SIZE / 8; n++) o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
        }
        mix(kind, o, s, values, count);
    });

    float factor[2];
    for (int half = 0; half < 2; half++) {
        float sum = row_sum(total[half]);
        factor[half] = 1.0f / sum;
        u32 row = first + threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        if (lane % 4 == 0 && row < tokens)
            log_total[(u64)(p.image * heads + p.head) * tokens + row] = top[half] + log2f(sum);
    }
    write_rows(head_of(out, p, tokens), o, factor, first, tokens, p.width);
}

// Computes delta, with one warp per (image, token, head).
extern "C" __global__ void __launch_bounds__(THREADS)
attention_delta(const bf16 *out, const bf16 *dout, float *delta, u32 rows, u32 tokens, u32 heads) {
    u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    float sum = 0.0f;
    for (u32 i = lane; i < SIZE; i += 32) sum += to_float(out[(u64)row * SIZE + i]) * to_float(dout[(u64)row * SIZE + i]);
    sum = warp_sum(sum);
    u32 image = row / (tokens * heads), token = row / heads % tokens, head = row % heads;
    if (lane == 0) delta[(u64)(image * heads + head) * tokens + token] = sum;
}

// Computes dQ of a tile of queries.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_queries(const bf16 *qkv, const bf16 *dout, const float *log_total, const float *delta, bf16 *dqkv,
                           float scale, u32 tokens, u32 heads) {
    DYNAMIC_SHARED(bf16, queries);
    bf16 *slopes = queries + ROWS * STRIDE, *keys = slopes + ROWS * STRIDE, *values = keys + TILE * STRIDE;
    Place p = place(tokens, heads);
    u32 lane = threadIdx.x % 32, first = p.tile * ROWS, stride = 3 * p.width;
    copy_rows<ROWS>(queries, part(qkv, p, tokens, 0), first, tokens, stride);
    copy_rows<ROWS>(slopes, head_of(dout, p, tokens), first, tokens, p.width);
    float whole[2], mean[2];
    for (int half = 0; half < 2; half++) {
        u32 row = first + threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        u64 at = (u64)(p.image * heads + p.head) * tokens + row;
        whole[half] = row < tokens ? log_total[at] : 0.0f;
        mean[half] = row < tokens ? delta[at] : 0.0f;
    }

    bool idle = first + threadIdx.x / 32 * 16 >= tokens;
    float dq[SIZE / 8][4] = {};
    each_tile(tokens, [&](u32 key, auto kind) {
        __syncthreads();
        copy_rows<TILE>(keys, part(qkv, p, tokens, 1), key, tokens, stride);
        copy_rows<TILE>(values, part(qkv, p, tokens, 2), key, tokens, stride);
        __syncthreads();
        if (idle) return;
        u32 count = tokens - key;
        float s[TILE / 8][4], ds[TILE / 8][4];
        scores(kind, s, queries, keys, count);
        scores(kind, ds, slopes, values, count);
        for (int n = 0; n < TILE / 8; n++)
            for (int j = 0; j < 4; j++) {
                bool inside = !kind.last || n * 8 + lane % 4 * 2 + j % 2 < count;
                float weight = inside ? exp2_fast(s[n][j] * (scale * LOG2_E) - whole[j / 2]) : 0.0f;
                ds[n][j] = weight * (ds[n][j] - mean[j / 2]);
            }
        mix(kind, dq, ds, keys, count);
    });
    write_rows(part(dqkv, p, tokens, 0), dq, {scale, scale}, first, tokens, stride);
}

// Computes dK and dV of a tile of keys. Scores are transposed: rows are keys, columns are queries.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_backward_keys(const bf16 *qkv, const bf16 *dout, const float *log_total, const float *delta, bf16 *dqkv,
                        float scale, u32 tokens, u32 heads) {
    DYNAMIC_SHARED(bf16, keys);
    bf16 *values = keys + ROWS * STRIDE, *queries = values + ROWS * STRIDE, *slopes = queries + TILE * STRIDE;
    float *whole = reinterpret_cast<float *>(slopes + TILE * STRIDE), *mean = whole + TILE;
    Place p = place(tokens, heads);
    u32 lane = threadIdx.x % 32, first = p.tile * ROWS, stride = 3 * p.width;
    u64 rows = (u64)(p.image * heads + p.head) * tokens;
    copy_rows<ROWS>(keys, part(qkv, p, tokens, 1), first, tokens, stride);
    copy_rows<ROWS>(values, part(qkv, p, tokens, 2), first, tokens, stride);

    bool idle = first + threadIdx.x / 32 * 16 >= tokens;
    float dk[SIZE / 8][4] = {}, dv[SIZE / 8][4] = {};
    each_tile(tokens, [&](u32 query, auto kind) {
        __syncthreads();
        copy_rows<TILE>(queries, part(qkv, p, tokens, 0), query, tokens, stride);
        copy_rows<TILE>(slopes, head_of(dout, p, tokens), query, tokens, p.width);
        for (u32 i = threadIdx.x; i < TILE; i += THREADS) {
            // Beyond the last query, the weight is exp2(-infinity) = 0.
            whole[i] = query + i < tokens ? log_total[rows + query + i] : -MINUS_INFINITY;
            mean[i] = query + i < tokens ? delta[rows + query + i] : 0.0f;
        }
        __syncthreads();
        if (idle) return;
        u32 count = tokens - query;
        float weights[TILE / 8][4], ds[TILE / 8][4];
        scores(kind, weights, keys, queries, count);
        for (int n = 0; n < TILE / 8; n++)
            for (int j = 0; j < 4; j++) {
                u32 column = n * 8 + lane % 4 * 2 + j % 2;
                weights[n][j] = exp2_fast(weights[n][j] * (scale * LOG2_E) - whole[column]);
            }
        mix(kind, dv, weights, slopes, count);
        scores(kind, ds, values, slopes, count);
        for (int n = 0; n < TILE / 8; n++)
            for (int j = 0; j < 4; j++) ds[n][j] = weights[n][j] * (ds[n][j] - mean[n * 8 + lane % 4 * 2 + j % 2]);
        mix(kind, dk, ds, queries, count);
    });
    write_rows(part(dqkv, p, tokens, 1), dk, {scale, scale}, first, tokens, stride);
    write_rows(part(dqkv, p, tokens, 2), dv, {1.0f, 1.0f}, first, tokens, stride);
}
