// mma.sync.m16n8k16 and ldmatrix.x4 for host.h, with the register layout of the PTX ISA (see tensor_core.cuh).
#pragma once

inline float bf16_half(uint64_t pair, int which) { return __uint_as_float(unsigned(pair >> (16 * which)) << 16); }

inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    auto give = [&](uint64_t *slot) {
        for (int i = 0; i < 4; i++) slot[i] = a[i];
        slot[4] = b0, slot[5] = b1;
    };
    auto take = [&] {
        int lane = host::current % 32;
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (int k = 0; k < 16; k++) {
                int holds = k % 8 / 2;
                float left = bf16_half(host::slots[row % 8 * 4 + holds][k / 8 * 2 + row / 8], k % 2);
                float right = bf16_half(host::slots[column * 4 + holds][4 + k / 8], k % 2);
                c[i] += left * right;
            }
        }
    };
    host::exchange(give, take);
}

// Returns row `row` of the 8 x 8 tile `tile`; another lane provided its address.
inline const bf16 *tile_row(int tile, int row) { return reinterpret_cast<const bf16 *>(host::slots[tile * 8 + row][0]); }

inline void give_row(uint64_t *slot, const bf16 *row) {
    slot[0] = reinterpret_cast<uintptr_t>(row);
    size_t offset = slot[0] - reinterpret_cast<uintptr_t>(host::dynamic_shared());
    if (slot[0] % 16) host::fail("ldmatrix: a row is not aligned to 16 bytes");
    if (offset + 16 > host::shared_bytes) host::fail("ldmatrix: a row lies outside the shared memory");
}

inline void load_tiles(u32 (&out)[4], const bf16 *row) {
    auto take = [&] {
        int lane = host::current % 32;
        for (int tile = 0; tile < 4; tile++) {
            const bf16 *at = tile_row(tile, lane / 4) + lane % 4 * 2;
            out[tile] = at[0].bits | u32(at[1].bits) << 16;
        }
    };
    host::exchange([&](uint64_t *slot) { give_row(slot, row); }, take);
}

inline void load_tiles_transposed(u32 (&out)[4], const bf16 *row) {
    auto take = [&] {
        int lane = host::current % 32;
        for (int tile = 0; tile < 4; tile++) {
            u32 first = tile_row(tile, lane % 4 * 2)[lane / 4].bits, second = tile_row(tile, lane % 4 * 2 + 1)[lane / 4].bits;
            out[tile] = first | second << 16;
        }
    };
    host::exchange([&](uint64_t *slot) { give_row(slot, row); }, take);
}
