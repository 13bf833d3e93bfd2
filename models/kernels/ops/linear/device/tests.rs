//! Matrix products of a device beside sums in f64.

use half::bf16;

use super::*;
use crate::testing::{formula, gpu_is_requested, relative_error, under_test};

fn rounded(salt: u32, len: usize) -> Vec<bf16> {
    let values = formula(salt, len, 1.0).into_iter();
    values.map(bf16::from_f32).collect()
}

fn floats(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

/// Returns `left right^T` of `[m, k]` and `[n, k]`, each given by a function of row and column.
fn product(
    [m, n, k]: [usize; 3],
    left: impl Fn(usize, usize) -> f64,
    right: impl Fn(usize, usize) -> f64,
) -> Vec<f32> {
    let sum = |row, col| (0..k).map(|i| left(row, i) * right(col, i)).sum::<f64>() as f32;
    (0..m * n).map(|at| sum(at / n, at % n)).collect()
}

/// Sizes of linear layers; on a GPU also those of ViT-S, and a last number of columns that is no multiple of 8.
fn sizes() -> Vec<Sizes> {
    let of = |[rows, from, to]: [usize; 3]| Sizes { rows, from, to };
    let mut all = vec![of([5, 24, 16]), of([33, 8, 40])];
    if gpu_is_requested() {
        all.extend([of([1280, 384, 1152]), of([1000, 256, 50])]);
    }
    all
}

#[test]
fn the_three_products_of_a_layer_with_bias_residual_and_sums() {
    let Some(device) = under_test() else {
        return;
    };
    for sizes in sizes() {
        let Sizes { rows, from, to } = sizes;
        let [x, w, b, r, g] = [rows * from, to * from, to, rows * to, rows * to];
        let given = [(1, x), (2, w), (3, b), (4, r), (5, g)].map(|(salt, len)| rounded(salt, len));
        let [px, pw, pb, pr, pg] = given.each_ref().map(|v| device.put(v).unwrap());
        let [x, w, b, r, g] = given.each_ref().map(|v| floats(v));
        let read = |memory: &Memory| -> Vec<f32> {
            let values = device.read::<bf16>(memory).unwrap();
            values.into_iter().map(bf16::to_f32).collect()
        };
        let wide = |values: &[f64]| -> Vec<f32> { values.iter().map(|v| *v as f32).collect() };
        let near = |what: &str, found: &[f32], expected: &[f32], allowed: f64| {
            let off = relative_error(found, expected);
            assert!(off < allowed, "{what}, {sizes:?}: {off}");
        };
        let plain = product(
            [rows, to, from],
            |row, i| x[row * from + i],
            |col, i| w[col * from + i],
        );
        for (bias, residual) in [(false, false), (true, false), (true, true), (false, true)] {
            let operands = [&px, &pw];
            let (with_bias, with_residual) = (bias.then_some(&pb), residual.then_some(&pr));
            let out = forward(&device, sizes, operands, with_bias, with_residual).unwrap();
            let expected = plain.iter().enumerate().map(|(at, v)| {
                let bias = if bias { b[at % to] } else { 0.0 };
                let residual = if residual { r[at] } else { 0.0 };
                v + (bias + residual) as f32
            });
            let expected: Vec<f32> = expected.collect();
            near("output", &read(&out), &expected, 4e-3);
        }
        // A residual stream in f32 rounds nothing: its bias is f32, too.
        let [wide_bias, wide_residual] = [&b, &r].map(|v| device.put(&wide(v)).unwrap());
        let operands = ([&px, &pw], Some(&wide_bias), Some(&wide_residual));
        let out = forward(&device, sizes, operands.0, operands.1, operands.2).unwrap();
        let others = (0..plain.len()).map(|at| plain[at] + (b[at % to] + r[at]) as f32);
        let expected: Vec<f32> = others.collect();
        near(
            "output in f32",
            &device.read::<f32>(&out).unwrap(),
            &expected,
            1e-5,
        );
        let mixed = forward(&device, sizes, operands.0, Some(&pb), operands.2);
        let error = mixed.err().unwrap().to_string();
        assert!(error.contains("bias"), "{error}");
        let dx = backward_input(&device, sizes, [&pg, &pw]).unwrap();
        let expected = product(
            [rows, from, to],
            |row, i| g[row * to + i],
            |col, i| w[i * from + col],
        );
        near("input", &read(&dx), &expected, 4e-3);
        let [dw, db] = [to * from, to].map(|len| device.room(Dtype::F32, len).unwrap());
        let sums = (0..to).map(|col| (0..rows).map(|i| g[i * to + col]).sum::<f64>() as f32);
        let sums: Vec<f32> = sums.collect();
        let expected = product(
            [to, from, rows],
            |row, i| g[i * to + row],
            |col, i| x[i * from + col],
        );
        for (add, times) in [(false, 1.0), (true, 2.0), (false, 1.0)] {
            let [sum, bias] = [&dw, &db].map(|to| Sum { to, add });
            backward_weight(&device, sizes, [&pg, &px], sum, Some(bias)).unwrap();
            let found = device.read::<f32>(&db).unwrap();
            let found: Vec<f32> = found.iter().map(|v| v / times).collect();
            near("bias", &found, &sums, 1e-5);
            let found = device.read::<f32>(&dw).unwrap();
            let found: Vec<f32> = found.iter().map(|v| v / times).collect();
            near("weight", &found, &expected, 1e-5);
        }
    }
}
