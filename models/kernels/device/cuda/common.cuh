// Shared by all kernels: number types, vector loads and stores, sums over a warp or block in a fixed order.
//
// NVRTC compiles this file without toolkit headers; in tests without a GPU, a host compiler compiles it with host.h.
// Contract of every kernel: buffers start at a multiple of 16 bytes and are as long as the launch declares (launch.rs), blocks are
// one-dimensional, sizes are below 2^31, and offsets are computed in 64 bits. The launch also defines the constants in capitals
// that no file defines (THREADS, WARPS, ...).
#pragma once

#ifdef TESSERA_HOST
#include "host.h"
#define DYNAMIC_SHARED(T, name) T *name = reinterpret_cast<T *>(host::dynamic_shared())
#else
#define DYNAMIC_SHARED(T, name)                                                                                        \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];                                              \
    T *name = reinterpret_cast<T *>(dynamic_shared_bytes)
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// The upper half of an f32.
struct bf16 {
    unsigned short bits;
};

#define MINUS_INFINITY __int_as_float(0xff800000)
#define ALL_LANES 0xffffffffu

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(bf16 value) { return __uint_as_float(u32(value.bits) << 16); }

// bf16_bits rounds to nearest, ties to even. pack_bf16 packs two bf16 into one register, the first in the lower half. A NaN stays
// a NaN. exp2_fast is 2^value; results below 2^-126 are 0.
#ifdef TESSERA_HOST
inline u32 bf16_bits(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline u32 pack_bf16(float first, float second) { return bf16_bits(first) | (bf16_bits(second) << 16); }
inline float exp2_fast(float value) {
    float power = exp2f(value);
    return power < 1.17549435e-38f ? 0.0f : power;
}
#else
__device__ __forceinline__ u32 bf16_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ __forceinline__ u32 pack_bf16(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
__device__ __forceinline__ float exp2_fast(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}
#endif

template <typename T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float value) {
    bf16 out;
    out.bits = (unsigned short)bf16_bits(value);
    return out;
}

// W numbers of a row. W is WIDE if the row length is a multiple of WIDE, otherwise 1: bf16 then take 16 bytes.
#define WIDE 8

template <int W> struct Pack {
    float v[W];
};

template <int W> __device__ __forceinline__ Pack<W> load(const float *from) {
    Pack<W> out;
    if constexpr (W % 4 == 0) {
        for (int j = 0; j < W; j += 4) {
            float4 all = *reinterpret_cast<const float4 *>(from + j);
            out.v[j] = all.x, out.v[j + 1] = all.y, out.v[j + 2] = all.z, out.v[j + 3] = all.w;
        }
    } else {
        out.v[0] = *from;
    }
    return out;
}

template <int W> __device__ __forceinline__ Pack<W> load(const bf16 *from) {
    Pack<W> out;
    if constexpr (W == 8) {
        uint4 all = *reinterpret_cast<const uint4 *>(from);
        u32 pairs[4] = {all.x, all.y, all.z, all.w};
        for (int j = 0; j < 4; j++) {
            out.v[2 * j] = __uint_as_float(pairs[j] << 16);
            out.v[2 * j + 1] = __uint_as_float(pairs[j] & 0xffff0000u);
        }
    } else {
        out.v[0] = to_float(*from);
    }
    return out;
}

template <int W> __device__ __forceinline__ void store(float *to, const Pack<W> &values) {
    if constexpr (W % 4 == 0) {
        for (int j = 0; j < W; j += 4)
            *reinterpret_cast<float4 *>(to + j) =
                make_float4(values.v[j], values.v[j + 1], values.v[j + 2], values.v[j + 3]);
    } else {
        *to = values.v[0];
    }
}

template <int W> __device__ __forceinline__ void store(bf16 *to, const Pack<W> &values) {
    if constexpr (W == 8) {
        u32 pairs[4];
        for (int j = 0; j < 4; j++) pairs[j] = pack_bf16(values.v[2 * j], values.v[2 * j + 1]);
        *reinterpret_cast<uint4 *>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    } else {
        *to = from_float<bf16>(values.v[0]);
    }
}

// Sum and maximum over the 32 lanes of a warp, returned in every lane. The maximum ignores NaN; the sum does not.
__device__ __forceinline__ float warp_sum(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(ALL_LANES, value, lane);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, lane));
    return value;
}

// Sum and maximum over a block of up to 32 whole warps, returned in every thread. `space` is 32 numbers of shared memory.
__device__ __forceinline__ float block_sum(float value, float *space) {
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) space[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_sum(lane < warps ? space[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float value, float *space) {
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) space[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_max(lane < warps ? space[lane] : MINUS_INFINITY);
}
