// Products of bf16 tiles on tensor cores with f32 sums (PTX ISA: mma.sync.m16n8k16, ldmatrix; compute_80 and later).
//
// With g = lane / 4 and t = lane % 4, each lane holds these elements:
//   A [16, 16]: a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..), two neighbours each;
//   B [16, 8]:  b0 (2t.., g), b1 (2t + 8.., g), two neighbours of a column each;
//   C [16, 8]:  c[0], c[1] (g, 2t..), c[2], c[3] (g + 8, 2t..).
// The C tiles of columns 16k and 16k + 8, rounded to bf16, are therefore the A tile of those columns: attention weights
// pass from one product to the next without leaving the registers.
#pragma once
#include "common.cuh"

#ifdef TESSERA_HOST
#include "tensor_core.h"
#else
// c += A B
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four 8 x 8 tiles from shared memory. Lane i passes the address of row i % 8 of tile i / 8. It receives from every tile
// (row g, columns 2t, 2t + 1) or, transposed, (rows 2t, 2t + 1, column g).
__device__ __forceinline__ void load_tiles(u32 (&out)[4], const bf16 *row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}

__device__ __forceinline__ void load_tiles_transposed(u32 (&out)[4], const bf16 *row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
}
#endif
