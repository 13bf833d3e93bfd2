use super::*;
use crate::ops::patchify::Order;
use crate::ops::{
    attention, bias_gelu, count, cross_entropy, flat, gather, hog, kmeans, layer_norm, linear,
    patchify,
};

#[test]
fn blocks_cover_the_work_exactly() {
    for work in [0_u64, 1, 7, 1023, 1024, 1025, 1 << 31, (1 << 40) + 1] {
        for per_block in [1, 3, 8, 256] {
            match blocks(work, per_block) {
                Ok(blocks) => {
                    let (blocks, per_block) = (u64::from(blocks), u64::from(per_block));
                    assert!(blocks * per_block >= work, "{work} {per_block}");
                    assert!(
                        blocks == 0 || (blocks - 1) * per_block < work,
                        "{work} {per_block}"
                    );
                }
                Err(error) => {
                    let found = work.div_ceil(u64::from(per_block));
                    assert!(found >= 1 << 31);
                    assert_eq!(
                        error,
                        LaunchError::TooLarge {
                            what: "the grid",
                            found
                        }
                    );
                }
            }
        }
    }
}

#[test]
fn sizes_beyond_31_bits_are_refused() {
    assert_eq!(size("rows", (1 << 31) - 1), Ok((1 << 31) - 1));
    let text = size("rows", 1 << 31).unwrap_err().to_string();
    assert_eq!(
        text,
        "rows is 2147483648, expected at most 2147483647; use a smaller batch"
    );
    assert!(product("x", &[1 << 40, 1 << 40]).is_err());
    // The rows are few but hold more numbers than 31 bits can count. Offsets are 64-bit, so this is accepted.
    let launch = layer_norm::launch::forward([Float::Bf16; 2], 1 << 24, 1024, 1e-6).unwrap();
    assert_eq!(launch.grid, 1 << 21);
    assert!(bias_gelu::launch::forward(Float::F32, 1 << 30, 1023).is_err());
    assert!(gather::launch::gather(Float::F32, 1 << 31, 1, 4).is_err());
    assert!(kmeans::launch::assign(1 << 31, 4, 4).is_err());
    assert!(count::launch::pairs(1 << 31, 1, 4, 4).is_err());
    let sizes = attention::Sizes {
        batch: 1 << 20,
        tokens: 1 << 10,
        heads: 16,
        size: 64,
    };
    assert!(attention::launch::forward(sizes).is_err());
}

#[test]
fn without_rows_grids_are_empty_and_sums_are_refused() {
    let float = Float::F32;
    assert_eq!(
        layer_norm::launch::forward([float; 2], 0, 8, 1e-6)
            .unwrap()
            .grid,
        0
    );
    assert_eq!(bias_gelu::launch::forward(float, 0, 8).unwrap().grid, 0);
    assert_eq!(gather::launch::gather(float, 4, 0, 8).unwrap().grid, 0);
    assert_eq!(kmeans::launch::assign(0, 3, 8).unwrap().grid, 0);
    assert!(flat::Flat::of(&[]).is_empty());
    assert!(layer_norm::launch::backward(float, 0, 8, 1e-6).is_err());
    assert!(linear::launch::column_sums(float, 0, 8, "sums").is_err());
    assert!(cross_entropy::launch::forward(float, 0, 8, 0.0).is_err());
    let text = kmeans::launch::assign(3, 0, 8).unwrap_err().to_string();
    assert_eq!(text, "k-means: k is 0, expected at least 1");
}

#[test]
fn a_thread_processes_eight_numbers_if_the_row_length_allows() {
    for (dim, numbers) in [(1024, 1024), (1023, 8 * 1023), (1025, 8 * 1025), (8, 8)] {
        let grid = bias_gelu::launch::forward(Float::F32, 7, dim).unwrap().grid;
        assert_eq!(
            u64::from(grid),
            (7 * numbers as u64).div_ceil(8 * u64::from(THREADS)),
            "{dim}"
        );
    }
}

#[test]
fn every_gpu_since_ampere_has_the_shared_memory() {
    for head in (16..=128).step_by(16) {
        let sizes = attention::Sizes {
            batch: 2,
            tokens: 197,
            heads: 3,
            size: head,
        };
        let mut launches = vec![attention::launch::forward(sizes).unwrap()];
        launches.extend(attention::launch::backward(sizes).unwrap());
        for launch in &launches {
            launch.check_shared(SHARED_ANYWHERE).unwrap();
            assert!(launch.block % 32 == 0 && launch.block <= 1024);
        }
        assert_eq!(launches[0].grid, 2 * 3 * 4);
        // Only the widest head exceeds the default limit.
        assert_eq!(head < 128, launches[3].shared <= SHARED_UNASKED, "{head}");
        let error = launches[0]
            .check_shared(launches[0].shared - 1)
            .unwrap_err();
        assert!(
            error.to_string().contains("attention_forward needs"),
            "{error}"
        );
    }
    for size in [0, 8, 24, 144] {
        let sizes = attention::Sizes {
            batch: 1,
            tokens: 1,
            heads: 1,
            size,
        };
        let text = attention::launch::forward(sizes).unwrap_err().to_string();
        assert!(text.contains("a multiple of 16, from 16 to 128"), "{text}");
    }
}

#[test]
fn tensors_start_at_whole_chunks() {
    let flat = flat::Flat::of(&[1, 0, 1023, 1024, 1025]);
    assert_eq!(flat.starts, [0, 1024, 1024, 2048, 3072]);
    assert_eq!(flat.chunk_tensor, [0, 2, 3, 4, 4]);
    assert_eq!(flat.len(), 5 * 1024);
    assert_eq!(flat.first_chunks(), [0, 1, 1, 2, 3, 5]);
    assert_eq!(flat.range(4), 3072..4097);
}

#[test]
fn images_not_divisible_into_patches_are_refused() {
    for (side, patch) in [(7, 2), (8, 0), (5, 3)] {
        let order = Order::ChannelFirst;
        let images = patchify::launch::Images {
            batch: 1,
            side,
            patch,
            order,
        };
        assert!(
            patchify::launch::from_floats(Float::F32, images, 1).is_err(),
            "{side} {patch}"
        );
        assert!(hog::launch::hog(1, side, patch).is_err(), "{side} {patch}");
    }
    assert!(hog::launch::hog(1, 9, 3).is_err());
    assert!(patchify::launch::normalize(3, 1).is_err());
}
