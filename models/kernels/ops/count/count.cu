// Co-occurrence of tokens and classes.
//
//   counts[id, labels[image]] += 1 for every id of every image
//
// ids [images * patches], labels [images], counts [codes, classes] (added to; 64-bit, so exact in any order), outside [1]: the
// number of ids with an id or label out of range, which are not counted (added to). One thread per id.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
count_pairs(const u32 *ids, const u32 *labels, u64 *counts, u64 *outside, u32 images, u32 patches, u32 codes,
            u32 classes) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)images * patches) return;
    u32 id = ids[at], label = labels[at / patches];
    if (id < codes && label < classes) atomicAdd(counts + (u64)id * classes + label, 1ull);
    else atomicAdd(outside, 1ull);
}
