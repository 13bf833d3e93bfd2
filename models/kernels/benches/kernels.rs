//! Every kernel next to the operations that it replaces: `cargo bench -p tessera-kernels`. One thread; timings exclude setup.
//! Sizes are those of one shard of a preset: `ti-32` is 16 images of 17 tokens x 192, `s-224` 8 images of 197 tokens x 256.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use candle_core::{D, Device, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_kernels::ops;
use tessera_kernels::ops::block::{Beside, Block, Packs, shapes};

fn numbers(count: usize, salt: usize) -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0;
    (0..count).map(number).collect()
}

fn var(shape: &[usize], salt: usize) -> Var {
    let values = numbers(shape.iter().product(), salt);
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Times the forward pass of `op` over `x`, and forward with backward.
fn both(c: &mut Criterion, name: &str, x: &Var, op: &dyn Fn(&Tensor) -> Tensor) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    let detached = x.as_detached_tensor();
    group.bench_function("forward", |b| b.iter(|| black_box(op(&detached))));
    group.bench_function("forward and backward", |b| {
        b.iter(|| op(x).sum_all().unwrap().backward().unwrap());
    });
    group.finish();
}

fn layers(c: &mut Criterion) {
    for (preset, rows, dim) in [("ti-32", 272, 192), ("s-224", 1576, 256)] {
        let size = format!("{rows}x{dim} {preset}");
        let (w, b) = (var(&[dim], 1), var(&[dim], 2));
        let x = var(&[rows, dim], 3);
        both(c, &format!("layer-norm {size}"), &x, &|x| {
            ops::layer_norm(x, &w, &b, 1e-6).unwrap()
        });
        let (matrix, bias) = (var(&[4 * dim, dim], 4), var(&[4 * dim], 5));
        both(c, &format!("linear {size} to {}", 4 * dim), &x, &|x| {
            ops::linear(x, &matrix, Some(&bias)).unwrap()
        });
        let wide = var(&[rows, 4 * dim], 6);
        both(
            c,
            &format!("bias-gelu {rows}x{} {preset}", 4 * dim),
            &wide,
            &|x| ops::bias_gelu(x, &bias).unwrap(),
        );
        both(
            c,
            &format!("candle gelu-erf {rows}x{} {preset}", 4 * dim),
            &wide,
            &|x| x.broadcast_add(&bias).unwrap().gelu_erf().unwrap(),
        );
    }
}

fn attention(c: &mut Criterion) {
    for (batch, tokens, heads, size) in [(16, 17, 3, 64), (8, 197, 8, 32)] {
        let qkv = var(&[batch, tokens, 3 * heads * size], 1);
        let id = format!("{batch}x{tokens} tokens, {heads} heads of {size}");
        both(c, &format!("attention {id}"), &qkv, &|x| {
            ops::attention(x, heads).unwrap()
        });
        both(c, &format!("composed attention {id}"), &qkv, &|x| {
            composed(x, heads)
        });
    }
}

/// Attention composed of Candle's differentiable operations.
fn composed(qkv: &Tensor, heads: usize) -> Tensor {
    let (batch, tokens, width) = qkv.dims3().unwrap();
    let size = width / 3 / heads;
    let qkv = qkv.reshape((batch, tokens, 3, heads, size)).unwrap();
    let qkv = qkv.permute((2, 0, 3, 1, 4)).unwrap().contiguous().unwrap();
    let part = |i: usize| qkv.get(i).unwrap().contiguous().unwrap();
    let scores = part(0).matmul(&part(1).t().unwrap()).unwrap();
    let scores = (scores / (size as f64).sqrt()).unwrap();
    let top = scores.max_keepdim(D::Minus1).unwrap();
    let exp = scores.broadcast_sub(&top).unwrap().exp().unwrap();
    let total = exp.sum_keepdim(D::Minus1).unwrap();
    let mixed = exp.broadcast_div(&total).unwrap().matmul(&part(2)).unwrap();
    mixed
        .transpose(1, 2)
        .unwrap()
        .reshape((batch, tokens, width / 3))
        .unwrap()
}

/// Times the fused block next to a block of single operations.
fn blocks(c: &mut Criterion) {
    for (batch, tokens, width, heads) in [(16, 17, 192, 3), (8, 197, 256, 8)] {
        let shapes = shapes(width);
        let p: Vec<Var> = (0..12).map(|i| var(&shapes[i], i)).collect();
        let x = var(&[batch, tokens, width], 20);
        let id = format!("{batch}x{tokens} tokens x {width}");
        let beside = Beside::default();
        both(c, &format!("block {id}"), &x, &|x| {
            let block = Block {
                parameters: std::array::from_fn(|i| p[i].as_tensor().clone()),
                heads,
                eps: 1e-6,
                scales: [None, None],
                only: None,
                recompute: false,
                composed: false,
                packs: Packs::default(),
            };
            ops::block::block(x, block, Some(&beside)).unwrap()
        });
        both(c, &format!("block of single operations {id}"), &x, &|x| {
            let normed = ops::layer_norm(x, &p[0], &p[1], 1e-6).unwrap();
            let qkv = ops::linear(&normed, &p[2], Some(&p[3])).unwrap();
            let mixed = ops::attention(&qkv, heads).unwrap();
            let x = (x + ops::linear(&mixed, &p[4], Some(&p[5])).unwrap()).unwrap();
            let normed = ops::layer_norm(&x, &p[6], &p[7], 1e-6).unwrap();
            let hidden = ops::linear(&normed, &p[8], None).unwrap();
            let hidden = ops::bias_gelu(&hidden, &p[9]).unwrap();
            (x + ops::linear(&hidden, &p[10], Some(&p[11])).unwrap()).unwrap()
        });
    }
}

fn losses_and_rows(c: &mut Criterion) {
    for (rows, classes) in [(768, 50), (1176, 8192)] {
        let scores = var(&[rows, classes], 1);
        let ids: Vec<u32> = (0..rows).map(|r| (r * 37 % classes) as u32).collect();
        both(
            c,
            &format!("cross-entropy {rows}x{classes}"),
            &scores,
            &|x| ops::cross_entropy(x, ids.clone(), 0.0).unwrap(),
        );
    }
    let images = var(&[8, 3, 224, 224], 2);
    let keep: Vec<u32> = (0..8 * 49).map(|i| i * 4).collect();
    both(c, "patchify 8x224 px, a quarter kept", &images, &|x| {
        ops::patchify::patchify(x, 16, Some(keep.clone())).unwrap()
    });
    let x = var(&[8 * 197, 256], 3);
    let rows: Vec<u32> = (0..8 * 147).collect();
    both(c, "gather-rows 1176 of 1576x256", &x, &|x| {
        ops::gather_rows(x, rows.clone()).unwrap()
    });
    let (kept, mask) = (var(&[8, 50, 256], 4), var(&[256], 5));
    let restore: Vec<u32> = (0..8 * 196).map(|i| i * 67 % 196).collect();
    both(c, "restore-patches 8x196x256", &kept, &|x| {
        ops::restore_patches(x, &mask, restore.clone()).unwrap()
    });
}

fn optimisers(c: &mut Criterion) {
    let n = 1 << 20;
    let mut group = c.benchmark_group("optimisers 1Mi");
    group.throughput(Throughput::Elements(n as u64));
    let (x, grad) = (var(&[n], 1), numbers(n, 2));
    let (mut first, mut second) = (vec![0.0; n], vec![0.0; n]);
    let step = ops::adamw::Step {
        rate: 1e-4,
        decay: 0.999,
        betas: [0.9, 0.95],
        correction: 0.5,
    };
    group.bench_function("adamw", |b| {
        b.iter(|| ops::adamw::adamw(&x, &grad, [&mut first, &mut second], step).unwrap());
    });
    let step = ops::lars::Step {
        lr: 0.1,
        weight_decay: 0.0,
        momentum: 0.9,
        trust: Some(0.001),
    };
    group.bench_function("lars", |b| {
        b.iter(|| ops::lars::lars(&x, &grad, &mut first, step).unwrap());
    });
    group.finish();
}

criterion_group!(
    benches,
    layers,
    attention,
    blocks,
    losses_and_rows,
    optimisers
);
criterion_main!(benches);
