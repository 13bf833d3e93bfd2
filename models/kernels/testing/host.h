// Implements the part of CUDA C++ that kernels use, so that a host compiler can run them unchanged in tests without a GPU.
//
// Blocks run one after another. The threads of a block are fibers. Each runs until it waits at a barrier of its warp or block;
// then the next one runs, in ascending or descending order (a result that depends on the order lacks a barrier). Warp
// operations exchange values between two barriers. Behaviour that CUDA leaves undefined fails: a barrier that only some threads
// reach, a shuffle after a lane has exited, an unaligned ldmatrix (the compiler's sanitizer checks unaligned vectors).
// Not modelled: memory order between warps, registers, speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)

using std::min;

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <typename To, typename From> inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline float __int_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline long long __float2ll_rn(float value) { return std::llrint(value); }

struct Index {
    unsigned x;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

enum class State { Ready, AtWarp, AtBlock, Done };

struct Fiber {
    ucontext_t context;
    State state;
    std::vector<char> stack;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline bool descending;
inline void (*body)();
inline char failure[200];
inline std::vector<unsigned char> shared;
inline size_t shared_bytes;
// Values that the lanes of the running warp exchange.
inline uint64_t slots[32][6];

inline void fail(const char *what) {
    if (!failure[0]) std::snprintf(failure, sizeof failure, "%s (block %u, thread %u)", what, blockIdx.x, threadIdx.x);
}

inline unsigned char *dynamic_shared() {
    return reinterpret_cast<unsigned char *>((reinterpret_cast<uintptr_t>(shared.data()) + 127) / 128 * 128);
}

inline void wait(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
    threadIdx.x = current;
}

inline void enter() {
    threadIdx.x = current;
    body();
    fibers[current].state = State::Done;
    swapcontext(&fibers[current].context, &scheduler);
}

// Runs the lanes of a warp until all of them wait at the block's barrier or are done.
inline void run_warp(unsigned first) {
    while (!failure[0]) {
        int counts[4] = {};
        for (unsigned i = 0; i < 32; i++) {
            current = first + (descending ? 31 - i : i);
            Fiber &fiber = fibers[current];
            if (fiber.state == State::Ready) swapcontext(&scheduler, &fiber.context);
            counts[int(fiber.state)]++;
        }
        if (counts[int(State::AtWarp)] == 0) return;
        if (counts[int(State::AtWarp)] < 32) return fail("a warp operation without all lanes");
        for (unsigned i = 0; i < 32; i++) fibers[first + i].state = State::Ready;
    }
}

inline void run_block(unsigned threads) {
    for (Fiber &fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        fiber.state = State::Ready;
    }
    while (!failure[0]) {
        for (unsigned i = 0; i < threads; i += 32) run_warp(descending ? threads - 32 - i : i);
        size_t done = 0;
        for (const Fiber &fiber : fibers) done += fiber.state == State::Done;
        if (done == threads) return;
        if (done > 0) fail("a barrier that not every thread of the block reaches");
        for (Fiber &fiber : fibers) fiber.state = State::Ready;
    }
}

inline const char *run(void (*kernel)(), unsigned grid, unsigned threads, unsigned bytes, bool backwards) {
    failure[0] = 0;
    body = kernel, descending = backwards, shared_bytes = bytes;
    fibers.resize(threads);
    for (Fiber &fiber : fibers) fiber.stack.resize(64 << 10);
    shared.resize(bytes + 256);
    blockDim.x = threads, gridDim.x = grid;
    for (unsigned i = 0; i < grid && !failure[0]; i++) {
        blockIdx.x = backwards ? grid - 1 - i : i;
        // NaN until written; the surrounding bytes do not belong to the block.
        std::fill(shared.begin(), shared.end(), 0xff);
        run_block(threads);
        const unsigned char *after = dynamic_shared() + bytes;
        for (const unsigned char *at = after; at < shared.data() + shared.size(); at++)
            if (*at != 0xff) fail("a write beyond the dynamic shared memory");
    }
    return failure[0] ? failure : nullptr;
}

// Calls a kernel with arguments in the form of cuLaunchKernel: a pointer to each.
template <typename... Args> struct Call {
    static inline void (*kernel)(Args...);
    static inline void **args;

    template <size_t... I> static void with(std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_const_t<Args> *>(args[I])...);
    }
    static void now() { with(std::index_sequence_for<Args...>()); }
};

template <typename... Args>
const char *launch(void (*kernel)(Args...), unsigned count, unsigned grid, unsigned threads, unsigned bytes,
                   bool backwards, void **args) {
    if (count != sizeof...(Args)) return "wrong number of arguments";
    Call<Args...>::kernel = kernel;
    Call<Args...>::args = args;
    return run(Call<Args...>::now, grid, threads, bytes, backwards);
}

// Every lane of the warp publishes its values, then reads those of the others.
template <typename Give, typename Take> inline void exchange(Give give, Take take) {
    give(slots[current % 32]);
    wait(State::AtWarp);
    take();
    wait(State::AtWarp);
}

} // namespace host

inline void __syncthreads() { host::wait(host::State::AtBlock); }

template <typename T> inline T __shfl_xor_sync(unsigned lanes, T value, int mask) {
    if (lanes != 0xffffffffu) host::fail("a shuffle of part of a warp");
    static_assert(sizeof(T) == 4);
    T out;
    host::exchange([&](uint64_t *slot) { slot[0] = same_bits<unsigned>(value); },
                   [&] { out = same_bits<T>(unsigned(host::slots[host::current % 32 ^ mask][0])); });
    return out;
}

inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    unsigned long long before = *at;
    *at = before + value;
    return before;
}

inline unsigned atomicMax(unsigned *at, unsigned value) {
    unsigned before = *at;
    *at = before > value ? before : value;
    return before;
}
