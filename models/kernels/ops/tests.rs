mod bf16;

use super::*;
use candle_core::{Device, Result, Tensor, Var};

fn numbers(count: usize, offset: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 6.0 + offset)
        .collect()
}

fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Asserts the accepting condition, so that a NaN fails.
fn assert_close(found: &[f32], expected: &[f64], atol: f64, rtol: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        let close = (f64::from(*f) - e).abs() <= atol + rtol * e.abs();
        assert!(close, "{what}[{at}]: found {f}, expected {e}");
    }
}

/// Returns the gradients of `sum(y * upstream)`.
fn gradients(y: &Tensor, upstream: &[f32], of: &[&Var]) -> Vec<Vec<f32>> {
    let upstream = Tensor::from_vec(upstream.to_vec(), y.shape(), &Device::Cpu).unwrap();
    let grads = (y * upstream)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    of.iter().map(|v| flat(grads.get(v).unwrap())).collect()
}

#[test]
fn the_gpu_backward_with_products_gives_the_same_gradients() {
    for (shape, to) in [(vec![3, 7], 5), (vec![2, 3, 8], 4)] {
        let (from, count) = (*shape.last().unwrap(), shape.iter().product());
        let x = var(&numbers(count, 0.0), &shape);
        let weight = var(&numbers(to * from, 0.3), &[to, from]);
        let y = linear(&x, &weight, None).unwrap();
        let upstream = numbers(y.elem_count(), 0.1);
        let expected = gradients(&y, &upstream, &[&x, &weight]);
        let upstream = Tensor::from_vec(upstream, y.shape(), &Device::Cpu).unwrap();
        let (dx, dw) = linear::products::backward(&x, &weight, &upstream).unwrap();
        assert_eq!(dx.as_ref().unwrap().dims(), shape);
        assert_close(&flat(&dx.unwrap()), &wide(&expected[0]), 1e-4, 1e-5, "dx");
        assert_close(&flat(&dw), &wide(&expected[1]), 1e-4, 1e-5, "dw");
        let (none, _) = linear::products::backward(&x.detach(), &weight, &y).unwrap();
        assert!(none.is_none(), "the input needs no gradient");
    }
}

#[test]
fn bias_gelu_and_its_gradients() {
    let far = (-800..=800).map(|i| i as f32 / 100.0);
    let far: Vec<f32> = far.chain([-40.0, 40.0, 0.0]).collect();
    let cases = [
        (far.len(), 1, far),
        (3, 7, numbers(21, 0.0)),
        (2, 1030, numbers(2060, 3.0)),
    ];
    for (rows, dim, xs) in cases {
        let bs = numbers(dim + 3, 0.5)[3..].to_vec();
        let bs = if dim == 1 { vec![0.0] } else { bs };
        let (x, b) = (var(&xs, &[rows, dim]), var(&bs, &[dim]));
        let y = bias_gelu(&x, &b).unwrap();
        let upstream = numbers(xs.len(), 0.0);
        let [dx, db] = &gradients(&y, &upstream, &[&x, &b])[..] else {
            panic!("two gradients")
        };
        let biased = xs
            .iter()
            .enumerate()
            .map(|(i, x)| f64::from(x + bs[i % dim]));
        let biased: Vec<f64> = biased.collect();
        let expected: Vec<f64> = biased
            .iter()
            .map(|v| bias_gelu::reference::gelu(*v))
            .collect();
        assert_close(&flat(&y), &expected, 1e-6, 1e-6, "gelu");
        let slopes = biased.iter().zip(&upstream);
        let slopes = slopes.map(|(x, g)| bias_gelu::reference::derivative(*x) * f64::from(*g));
        let slopes: Vec<f64> = slopes.collect();
        assert_close(dx, &slopes, 3e-6, 1e-6, "gradient");
        let mut sums = vec![0.0; dim];
        slopes
            .iter()
            .enumerate()
            .for_each(|(i, s)| sums[i % dim] += s);
        assert_close(db, &sums, 1e-5 * rows as f64, 1e-5, "gradient of the bias");
    }
}

#[test]
fn linear_and_its_gradients() {
    for sizes in [[1, 1, 1], [3, 7, 5], [17, 33, 1030], [70, 1030, 3]] {
        let [rows, from, to] = sizes;
        let (xs, ws) = (
            numbers(rows * from, 0.0),
            numbers(to * from + 1, 0.2)[1..].to_vec(),
        );
        let (bs, upstream) = (numbers(to, 9.0), numbers(rows * to, 0.1));
        let (x, w, b) = (
            var(&xs, &[rows, from]),
            var(&ws, &[to, from]),
            var(&bs, &[to]),
        );
        let [y, dx, dw, db] =
            linear::reference::linear(&wide(&xs), &wide(&ws), &wide(&bs), &wide(&upstream), sizes);
        let found = linear(&x, &w, Some(&b)).unwrap();
        assert_close(&flat(&found), &y, 1e-3, 1e-5, "linear");
        let grads = gradients(&found, &upstream, &[&x, &w, &b]);
        for (found, expected) in grads.iter().zip([&dx, &dw, &db]) {
            assert_close(found, expected, 1e-3, 1e-5, "gradient");
        }
        let plain = linear(&x, &w, None).unwrap();
        let shifted = flat(&plain.broadcast_add(&b).unwrap());
        assert_close(&shifted, &y, 1e-3, 1e-5, "without bias");
        let grads = gradients(&plain, &upstream, &[&x, &w]);
        assert_close(&grads[0], &dx, 1e-3, 1e-5, "gradient without bias");
        assert_close(&grads[1], &dw, 1e-3, 1e-5, "gradient without bias");
    }
}

#[test]
fn attention_and_its_gradient() {
    // One token, odd sizes, more tokens than a tile of queries, widely spread scores.
    for (sizes, scale) in [
        ([1, 1, 1, 1], 1.0),
        ([2, 5, 3, 7], 1.0),
        ([1, 65, 2, 16], 0.3),
        ([2, 197, 1, 8], 1.5),
        ([1, 1030, 1, 4], 1.0),
    ] {
        let [batch, tokens, heads, size] = sizes;
        let values: Vec<f32> = numbers(batch * tokens * 3 * heads * size, 0.2);
        let values: Vec<f32> = values.iter().map(|v| v * scale).collect();
        let qkv = var(&values, &[batch, tokens, 3 * heads * size]);
        let y = attention(&qkv, heads).unwrap();
        let upstream = numbers(batch * tokens * heads * size, 0.1);
        let found = &gradients(&y, &upstream, &[&qkv])[0];
        let [out, grad] = attention::reference::attention(&wide(&values), &wide(&upstream), sizes);
        assert_close(&flat(&y), &out, 2e-5, 1e-5, "attention");
        assert_close(found, &grad, 2e-4, 1e-4, "gradient");
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    for (rows, classes, offset) in [(1, 1, 0.0), (4, 17, 50.0), (3, 65, -20.0), (2, 1100, 0.0)] {
        for smoothing in [0.0, 0.1_f32] {
            let xs = numbers(rows * classes, offset);
            let ids: Vec<u32> = (0..rows).map(|r| (r * 31 % classes) as u32).collect();
            let x = var(&xs, &[rows, classes]);
            let loss = cross_entropy(&x, ids.clone(), smoothing).unwrap();
            let (expected, grad) =
                cross_entropy::reference::cross_entropy(&wide(&xs), &ids, f64::from(smoothing));
            assert_close(&flat(&loss), &[expected], 1e-5, 1e-5, "loss");
            let found = &gradients(&loss, &[3.0], &[&x])[0];
            let grad: Vec<f64> = grad.iter().map(|g| 3.0 * g).collect();
            assert_close(found, &grad, 1e-6, 1e-5, "gradient");
        }
    }
    let x = var(&[0.0; 6], &[2, 3]);
    assert!(cross_entropy(&x, vec![0, 3], 0.0).is_err());
    assert!(cross_entropy(&x, vec![0], 0.0).is_err());
}

#[test]
fn rows_are_gathered_and_their_gradients_scattered() {
    let values = numbers(5 * 3, 0.0);
    let x = var(&values, &[5, 3]);
    let y = gather_rows(&x, vec![4, 0, 2]).unwrap();
    let expected = [&values[12..15], &values[0..3], &values[6..9]].concat();
    assert_eq!(flat(&y), expected);
    let upstream = numbers(9, 1.0);
    let grad = &gradients(&y, &upstream, &[&x])[0];
    let zeros = [0.0; 3];
    let expected = [
        &upstream[3..6],
        &zeros,
        &upstream[6..9],
        &zeros,
        &upstream[0..3],
    ]
    .concat();
    assert_eq!(*grad, expected);
    assert!(gather_rows(&x, vec![1, 1]).is_err());
    assert!(gather_rows(&x, vec![5]).is_err());
}

#[test]
fn rows_and_patches_equal_the_references_at_any_size() {
    for (batch, patches, kept, dim) in [(1, 1, 1, 1), (2, 5, 2, 7), (3, 9, 4, 1030)] {
        let tokens = 1 + kept;
        let (xs, ms) = (numbers(batch * tokens * dim, 0.0), numbers(dim, 8.0));
        let places: Vec<u32> = (0..batch * patches)
            .map(|i| ((i % patches * 4 + i / patches) % patches) as u32)
            .collect();
        let x = var(&xs, &[batch, tokens, dim]);
        let y = restore_patches(&x, &var(&ms, &[dim]), places.clone()).unwrap();
        let expected = gather::reference::restore(&xs, &ms, &places, batch, tokens);
        assert_eq!(flat(&y), expected);
        let rows = x.reshape((batch * tokens, dim)).unwrap();
        let index: Vec<u32> = (0..(batch * tokens) as u32).rev().step_by(2).collect();
        let found = gather_rows(&rows, index.clone()).unwrap();
        assert_eq!(flat(&found), gather::reference::gather(&xs, &index, dim));
    }
}

#[test]
fn patches_are_restored_with_the_mask_token() {
    // Two images of four patches, two of them visible: class token, then the visible patches in shuffled order.
    let (xs, ms) = (numbers(2 * 3 * 2, 0.0), numbers(2, 8.0));
    let (x, m) = (var(&xs, &[2, 3, 2]), var(&ms, &[2]));
    let restore = vec![3, 0, 2, 1, 1, 2, 0, 3];
    let y = restore_patches(&x, &m, restore).unwrap();
    let row = |at: usize| &xs[at * 2..at * 2 + 2];
    let images = [
        [row(0), &ms, row(1), &ms, row(2)].concat(),
        [row(3), row(5), &ms, row(4), &ms].concat(),
    ];
    assert_eq!(flat(&y), images.concat());
    let upstream = numbers(20, 0.5);
    let found = gradients(&y, &upstream, &[&x, &m]);
    let up = |at: usize| &upstream[at * 2..at * 2 + 2];
    assert_eq!(
        found[0],
        [up(0), up(2), up(4), up(5), up(8), up(6)].concat()
    );
    let sum = |d: usize| [1, 3, 7, 9].iter().map(|at| up(*at)[d]).sum::<f32>();
    assert_eq!(found[1], [sum(0), sum(1)]);
}

#[test]
fn images_are_split_into_patches_and_back() {
    use super::patchify::{Order, normalize, patchify, split};
    for (batch, side, patch) in [(1, 1, 1), (2, 6, 3), (1, 16, 4), (2, 64, 16)] {
        let values = numbers(batch * 3 * side * side, 2.0);
        let x = var(&values, &[batch, 3, side, side]);
        let all = patchify::reference::patchify(&values, batch, side, patch);
        let y = patchify(&x, patch, None).unwrap();
        assert_eq!(flat(&y), all);
        assert_eq!(split(&values, side, patch, Order::ChannelFirst), all);
        let dim = 3 * patch * patch;
        let last = all
            .chunks(dim)
            .flat_map(|row| (0..dim).map(move |i| row[i % 3 * patch * patch + i / 3]));
        let last: Vec<f32> = last.collect();
        assert_eq!(split(&values, side, patch, Order::ChannelLast), last);
        // The gradient of all patches restores the images.
        assert_eq!(gradients(&y, &all, &[&x])[0], values);
        let kept = patchify(&x, patch, Some(vec![0])).unwrap();
        assert_eq!(flat(&kept), all[..dim]);
        let grad = &gradients(&kept, &vec![1.0; dim], &[&x])[0];
        assert_eq!(grad.iter().sum::<f32>(), dim as f32);
    }
    let mut rows = numbers(2 * 1030, 100.0);
    let before = wide(&rows);
    normalize(&mut rows, 1030);
    for (row, before) in rows.chunks(1030).zip(before.chunks(1030)) {
        let mean = before.iter().sum::<f64>() / 1030.0;
        let variance = before.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1029.0;
        let expected: Vec<f64> = before
            .iter()
            .map(|v| (v - mean) / (variance + 1e-6).sqrt())
            .collect();
        assert_close(row, &expected, 1e-4, 1e-4, "normalised");
    }
    assert!(patchify(&var(&[0.0; 75], &[1, 3, 5, 5]), 2, None).is_err());
}

#[test]
fn optimisers_follow_their_definitions() {
    for n in [1, 7, 1030, 70_000] {
        let (xs, grad) = (numbers(n, 0.1), numbers(n + 2, 0.0)[2..].to_vec());
        let x = var(&xs, &[n]);
        let (mut first, mut second) = (numbers(n, 0.3), vec![0.5; n]);
        let (lr, decay, betas) = (0.01, 0.05, [0.9, 0.95]);
        let before = [wide(&xs), wide(&first), wide(&second)];
        let step = adamw::Step {
            rate: (lr / (1.0 - 0.9_f64.powi(3))) as f32,
            decay: (1.0 - lr * decay) as f32,
            betas: [0.9, 0.95],
            correction: (1.0 - 0.95_f64.powi(3)).sqrt() as f32,
        };
        adamw::adamw(&x, &grad, [&mut first, &mut second], step).unwrap();
        let expected = (0..n).map(|i| {
            let state = [before[0][i], before[1][i], before[2][i]];
            adamw::reference::step(state, f64::from(grad[i]), lr, decay, betas, 3)
        });
        let expected: Vec<[f64; 3]> = expected.collect();
        for (which, found) in [flat(&x), first, second].iter().enumerate() {
            let expected: Vec<f64> = expected.iter().map(|e| e[which]).collect();
            assert_close(found, &expected, 1e-6, 1e-5, "adamw");
        }
        for trust in [None, Some(0.001)] {
            let x = var(&xs, &[n]);
            let mut moment = numbers(n, 0.7);
            let before = wide(&moment);
            let step = lars::Step {
                lr: 0.3,
                weight_decay: 0.05,
                momentum: 0.9,
                trust: trust.map(|t: f64| t as f32),
            };
            lars::lars(&x, &grad, &mut moment, step).unwrap();
            let numbers = [0.3, 0.05, 0.9];
            let [values, moments] =
                lars::reference::step(&wide(&xs), &wide(&grad), &before, numbers, trust);
            assert_close(&flat(&x), &values, 1e-5, 1e-5, "lars");
            assert_close(&moment, &moments, 1e-5, 1e-5, "momentum");
        }
    }
}

#[test]
fn layer_norm_and_its_gradients() {
    for (rows, dim, offset, tolerance) in [
        (1, 1, 0.0, 1e-5),
        (3, 7, 0.0, 1e-5),
        (5, 96, 100.0, 2e-4),
        (2, 1030, -1000.0, 2e-3),
    ] {
        let (xs, ws, bs) = (
            numbers(rows * dim, offset),
            numbers(dim, 1.0),
            numbers(dim + 3, 0.0),
        );
        let (x, w, b) = (
            var(&xs, &[rows, dim]),
            var(&ws, &[dim]),
            var(&bs[3..], &[dim]),
        );
        let y = layer_norm(&x, &w, &b, 1e-6).unwrap();
        let upstream = numbers(rows * dim + 5, 0.0)[5..].to_vec();
        let found = gradients(&y, &upstream, &[&x, &w, &b]);
        let mut expected: [Vec<f64>; 4] = Default::default();
        for row in 0..rows {
            let at = row * dim..(row + 1) * dim;
            let [y, dx, dw, db] = layer_norm::reference::row(
                &wide(&xs[at.clone()]),
                &wide(&ws),
                &wide(&bs[3..]),
                &wide(&upstream[at]),
                1e-6,
            );
            expected[0].extend(y);
            expected[1].extend(dx);
            for (total, part) in [(2, dw), (3, db)] {
                expected[total].resize(dim, 0.0);
                expected[total]
                    .iter_mut()
                    .zip(part)
                    .for_each(|(t, p)| *t += p);
            }
        }
        let what = format!("{rows}x{dim}+{offset}");
        assert_close(&flat(&y), &expected[0], tolerance, tolerance, &what);
        for (found, expected) in found.iter().zip(&expected[1..]) {
            assert_close(found, expected, tolerance * 3.0, tolerance, &what);
        }
    }
}

#[test]
fn strided_arguments_give_the_same_results() {
    let values = numbers(24, 0.0);
    let x = var(&values, &[4, 6]);
    let turned = x.t().unwrap();
    let plain = turned.contiguous().unwrap();
    let (w, b) = (
        var(&numbers(8, 0.0), &[2, 4]),
        var(&[0.5, -0.5, 1.0, 2.0], &[4]),
    );
    let same = |op: &dyn Fn(&Tensor) -> Tensor| assert_eq!(flat(&op(&turned)), flat(&op(&plain)));
    same(&|x| bias_gelu(x, &b).unwrap());
    same(&|x| layer_norm(x, &b, &b, 1e-6).unwrap());
    same(&|x| linear(x, &w, None).unwrap());
    same(&|x| cross_entropy(x, vec![1; 6], 0.1).unwrap());
    same(&|x| gather_rows(x, vec![5, 1]).unwrap());
    // The upstream gradient of a transposed result is strided, too.
    let y = linear(&plain, &w, None).unwrap();
    let upstream = numbers(12, 0.0);
    let strided = gradients(&y.t().unwrap(), &upstream, &[&w]);
    let turned: Vec<f32> = (0..12).map(|i| upstream[i % 2 * 6 + i / 2]).collect();
    assert_close(
        &strided[0],
        &wide(&gradients(&y, &turned, &[&w])[0]),
        1e-5,
        1e-6,
        "strided",
    );
}

#[test]
fn a_nan_propagates() {
    let x = var(&[1.0, f32::NAN, 2.0], &[1, 3]);
    let all_nan = |t: &Tensor| assert!(flat(t).iter().all(|v| v.is_nan()));
    let (w, b) = (var(&[1.0; 3], &[3]), var(&[0.0; 3], &[3]));
    all_nan(&layer_norm(&x, &w, &b, 1e-6).unwrap());
    all_nan(&cross_entropy(&x, vec![0], 0.0).unwrap());
    all_nan(&attention(&x.reshape((1, 1, 3)).unwrap(), 1).unwrap());
    assert!(flat(&bias_gelu(&x, &b).unwrap())[1].is_nan());
}
