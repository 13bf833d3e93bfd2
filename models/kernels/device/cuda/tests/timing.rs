//! Times kernels on a GPU at the sizes of a step of ViT-S/16 at 224 px, for `check-gpu.sh`.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::cuda_backend::cudarc::driver::DevicePtr as _;

use crate::device::cuda::gpu::Gpu;
use crate::device::launch::{Access, Buffer, Dtype, Float, Launch};
use crate::ops::{adamw, attention, bias_gelu, cross_entropy, flat, kmeans, layer_norm};
use crate::testing::formula;

/// Launches per measurement, after one warm-up launch that also compiles.
const REPEATS: u32 = 20;

/// Returns a buffer's contents: numbers in [-1, 1), because products of zeros draw less power; ids and rows are zeros.
fn contents(of: &Buffer) -> Vec<u8> {
    // A repeated block is as good as a long one.
    let numbers = formula(7, of.len.clamp(16, 1 << 16), 1.0);
    let bits = |value: &f32| value.to_bits();
    let block: Vec<u8> = match of.dtype {
        Dtype::F32 => numbers.iter().flat_map(|v| bits(v).to_le_bytes()).collect(),
        Dtype::Bf16 => {
            let upper = |v| (bits(v) >> 16) as u16;
            numbers
                .iter()
                .flat_map(|v| upper(v).to_le_bytes())
                .collect()
        }
        _ => vec![0; 1 << 16],
    };
    let len = (of.len * of.dtype.size()).max(16);
    block.into_iter().cycle().take(len).collect()
}

/// Returns the milliseconds of consecutive launches.
#[expect(unsafe_code, reason = "launches a kernel")]
fn milliseconds(gpu: &Gpu, launches: &[Launch]) -> f64 {
    let buffers = launches.iter().flat_map(Launch::buffers);
    let mut held = HashMap::new();
    for of in buffers {
        let upload = || gpu.upload(&contents(of)).unwrap();
        held.entry(of.name).or_insert_with(upload);
    }
    let once = || {
        for launch in launches {
            // SAFETY: buffers have the declared sizes and outlive the wait; zeros are valid ids and rows.
            unsafe { gpu.launch(launch, |of| held[of.name].device_ptr(gpu.stream()).0) }.unwrap();
        }
    };
    once();
    gpu.wait().unwrap();
    let start = Instant::now();
    (0..REPEATS).for_each(|_| once());
    gpu.wait().unwrap();
    start.elapsed().as_secs_f64() * 1e3 / f64::from(REPEATS)
}

/// Returns the minimum number of bytes that launches read and write.
fn bytes(launches: &[Launch]) -> f64 {
    let of = |launch: &Launch| -> usize {
        let each = launch.buffers();
        let moved = each.map(|b| match b.access {
            Access::Update => 2 * b.len * b.dtype.size(),
            Access::Read | Access::Write => b.len * b.dtype.size(),
        });
        moved.sum()
    };
    launches.iter().map(of).sum::<usize>() as f64
}

/// A name, consecutive launches, and the floating-point operations of their matrix products.
type Case = (&'static str, Vec<Launch>, f64);

/// Number of images in a batch.
const BATCH: usize = 1024;

/// Memory-bound kernels, on the encoder's visible tokens of width 384.
fn elementwise() -> Vec<Case> {
    let (bf16, rows, dim) = (Float::Bf16, BATCH * 50, 384);
    let flat = flat::Flat::of(&[22_000_000]);
    vec![
        (
            "layer norm",
            vec![layer_norm::launch::forward([bf16; 2], rows, dim, 1e-6).unwrap()],
            0.0,
        ),
        (
            "layer norm back",
            layer_norm::launch::backward(bf16, rows, dim, 1e-6)
                .unwrap()
                .into(),
            0.0,
        ),
        (
            "bias + gelu",
            vec![bias_gelu::launch::forward(bf16, rows, 4 * dim).unwrap()],
            0.0,
        ),
        (
            "bias + gelu back",
            vec![bias_gelu::launch::backward(bf16, rows, 4 * dim).unwrap()],
            0.0,
        ),
        (
            "cross-entropy",
            cross_entropy::launch::forward(bf16, 150_000, 8192, 0.0)
                .unwrap()
                .into(),
            0.0,
        ),
        (
            "adamw",
            vec![adamw::launch::step(&flat, [0.9, 0.95], 1.0).unwrap()],
            0.0,
        ),
        (
            "k-means sums",
            vec![kmeans::launch::accumulate(100_000, 50, 768, 1.0).unwrap()],
            0.0,
        ),
    ]
}

/// Compute-bound kernels: attention over the encoder's visible tokens and over all decoder tokens, and K-means.
fn products() -> Vec<Case> {
    let sizes = |tokens, heads, size| attention::Sizes {
        batch: BATCH,
        tokens,
        heads,
        size,
    };
    let (encoder, decoder) = (sizes(50, 6, 64), sizes(197, 8, 32));
    vec![
        (
            "attention",
            vec![attention::launch::forward(encoder).unwrap()],
            flops(encoder, 2),
        ),
        (
            "attention back",
            attention::launch::backward(encoder).unwrap().into(),
            flops(encoder, 5),
        ),
        (
            "attention, 197",
            vec![attention::launch::forward(decoder).unwrap()],
            flops(decoder, 2),
        ),
        (
            "attention back, 197",
            attention::launch::backward(decoder).unwrap().into(),
            flops(decoder, 5),
        ),
        (
            "k-means, 768/50",
            vec![kmeans::launch::assign(100_000, 50, 768).unwrap()],
            2.0 * 1e5 * 50.0 * 768.0,
        ),
        (
            "k-means, 768/8192",
            vec![kmeans::launch::assign(100_000, 8192, 768).unwrap()],
            2.0 * 1e5 * 8192.0 * 768.0,
        ),
    ]
}

#[test]
fn kernels_are_timed() {
    if !crate::testing::gpu_is_requested() {
        return;
    }
    let gpu = Gpu::open().unwrap_or_else(|error| panic!("{error}"));
    println!("{}", crate::device::cuda::gpu::describe().unwrap());
    println!(
        "{:<20} {:>9} {:>9} {:>9}",
        "kernel", "ms", "GB/s", "TFLOP/s"
    );
    for (name, launches, work) in elementwise().into_iter().chain(products()) {
        let ms = milliseconds(&gpu, &launches);
        let (rate, speed) = (bytes(&launches) / ms / 1e6, work / ms / 1e9);
        println!("{name:<20} {ms:>9.3} {rate:>9.0} {speed:>9.1}");
    }
}

/// Returns the operations of `products` matrix products of tokens by tokens by head size. Recomputation is not counted.
fn flops(sizes: attention::Sizes, products: usize) -> f64 {
    let square = sizes.tokens * sizes.tokens * sizes.size;
    (2 * products * square * sizes.batch * sizes.heads) as f64
}
