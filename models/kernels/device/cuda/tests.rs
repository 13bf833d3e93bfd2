//! Tests that need no GPU: kernels compile, launches pass the arguments that kernels declare, and kernels compiled by a host compiler
//! compute what the references do.

mod arguments;
mod gpu;
mod host;
mod numerics;
mod ops;
mod ptx;
mod resident;
mod sass;
#[cfg(feature = "cuda")]
mod timing;
mod vision;

use crate::device::launch::{Float, Launch};
use crate::ops::{
    adamw, attention, bias_gelu, count, cross_entropy, flat, gather, hog, kmeans, lars, layer_norm,
    linear, patchify, resample, squared_error,
};

/// At least one launch of every kernel, and attention with every head size.
fn every_launch() -> Vec<Launch> {
    let mut all = Vec::new();
    for float in [Float::F32, Float::Bf16] {
        all.push(gather::launch::place(float, 5, 3, 4, 8).unwrap());
        all.push(linear::launch::add_bias(float, 3, 8).unwrap());
        all.extend(linear::launch::column_sums(float, 3, 8, "sums").unwrap());
        all.extend(linear::launch::column_sums_of(float, 3, 2, 8, "sums").unwrap());
        all.push(bias_gelu::launch::forward(float, 3, 8).unwrap());
        all.push(bias_gelu::launch::backward(float, 3, 8).unwrap());
        all.extend(cross_entropy::launch::forward(float, 3, 8, 0.1).unwrap());
        all.push(cross_entropy::launch::backward(float, 3, 8, 0.1).unwrap());
        all.push(gather::launch::gather(float, 5, 3, 8).unwrap());
        all.push(gather::launch::restore(float, 5, 3, 8).unwrap());
        let images = patchify::launch::Images {
            batch: 2,
            side: 8,
            patch: 4,
            order: patchify::Order::ChannelLast,
        };
        all.push(patchify::launch::from_floats(float, images, 3).unwrap());
        all.push(patchify::launch::from_bytes(float, images, 3).unwrap());
    }
    let (f32, bf16) = (Float::F32, Float::Bf16);
    for floats in [[f32; 2], [bf16; 2], [f32, bf16]] {
        all.push(layer_norm::launch::forward(floats, 3, 8, 1e-6).unwrap());
        for add in [false, true] {
            all.push(layer_norm::launch::partial_backward(floats, 3, 8, 1e-6, add).unwrap());
        }
    }
    for size in (16..=128).step_by(16) {
        let sizes = attention::Sizes {
            batch: 2,
            tokens: 5,
            heads: 3,
            size,
        };
        all.push(attention::launch::forward(sizes).unwrap());
        all.extend(attention::launch::backward(sizes).unwrap());
    }
    all.push(linear::launch::totals(3, 8, ["partial", "sums"], true).unwrap());
    let flat = flat::Flat::of(&[5, 2000]);
    all.push(adamw::launch::step(&flat, [0.9, 0.95], 1.0).unwrap());
    all.push(adamw::launch::step_rounded(&flat, [0.9, 0.95], 1.0).unwrap());
    all.push(linear::launch::add_rounded_bias(3, 8).unwrap());
    all.extend(squared_error::launch::squared_error(8, 3, 40).unwrap());
    all.extend(lars::launch::step(&flat, 0.9).unwrap());
    all.push(patchify::launch::normalize(3, 8).unwrap());
    all.push(kmeans::launch::bias(5, 8).unwrap());
    all.push(kmeans::launch::assign(3, 5, 8).unwrap());
    all.push(kmeans::launch::accumulate(3, 5, 8, 1.0).unwrap());
    all.push(kmeans::launch::runs(3, 8).unwrap());
    all.push(kmeans::launch::largest(3, 8).unwrap());
    all.push(count::launch::pairs(3, 4, 5, 6).unwrap());
    let of = resample::launch::Crop {
        size: [9, 7],
        from: [1.0, 0.5],
        length: [5.0, 6.0],
        flip: true,
    };
    let tables = resample::launch::Tables::of(&[of], 4);
    all.extend(resample::launch::resample(&tables, 4).unwrap());
    all.push(hog::launch::hog(2, 8, 4).unwrap());
    all
}
