//! Compares the kernels of a training step with the references: outputs and every gradient.

use super::host::{Buffer, Buffers, rounded, run};
use super::*;
use crate::device::launch::{Dtype, Float, Launch, NONE};

pub(super) const FLOATS: [Float; 2] = [Float::F32, Float::Bf16];

/// Returns numbers in [-scale, scale) plus an offset, different for every salt.
pub(super) fn numbers(salt: u32, count: usize, scale: f64, offset: f64) -> Vec<f64> {
    let numbers = crate::testing::formula(salt, count, scale);
    numbers.iter().map(|v| f64::from(*v) + offset).collect()
}

/// Asserts the accepting condition, so that a NaN fails.
pub(super) fn assert_close(found: &[f64], expected: &[f64], atol: f64, rtol: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        let close = (f - e).abs() <= atol + rtol * e.abs();
        assert!(close, "{what}[{at}]: found {f}, expected {e}");
    }
}

/// Returns the relative error of rounding to a type.
pub(super) fn step(float: Float) -> f64 {
    match float {
        Float::F32 => 2e-6,
        Float::Bf16 => 2.0_f64.powi(-8),
    }
}

pub(super) fn f32s(values: &[f64]) -> Buffer {
    Buffer::new(Dtype::F32, values)
}

pub(super) fn u32s(values: &[u32]) -> Buffer {
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    Buffer::new(Dtype::U32, &values)
}

/// Runs the launches and returns the named buffers; `None` without a compiler.
pub(super) fn outcome<const N: usize>(
    launches: &[Launch],
    given: Vec<(&'static str, Buffer)>,
    names: [&str; N],
) -> Option<[Vec<f64>; N]> {
    let all: Buffers = run(launches, &given)?;
    Some(names.map(|name| all[name].values()))
}

#[test]
fn layer_norm_and_its_gradients() {
    let [f32, bf16] = FLOATS;
    for [of_x, float] in [[f32, f32], [bf16, bf16], [f32, bf16]] {
        // One row, odd row counts, a width beyond one block, many column parts, means far from zero.
        for (rows, dim, offset) in [
            (1, 1, 0.0),
            (3, 7, 0.0),
            (9, 1028, 30.0),
            (1030, 36, -2.0),
            (300, 264, 0.0),
        ] {
            let dtype = float.dtype();
            let x = rounded(of_x.dtype(), &numbers(1, rows * dim, 3.0, offset));
            let weight = rounded(Dtype::F32, &numbers(2, dim, 1.0, 0.5));
            let bias = rounded(Dtype::F32, &numbers(3, dim, 1.0, 0.0));
            let grad = rounded(dtype, &numbers(4, rows * dim, 1.0, 0.1));
            let floats = [of_x, float];
            let parts = linear::launch::parts(rows);
            let totals = |name| linear::launch::totals(parts, dim, name, false).unwrap();
            let launches = [
                layer_norm::launch::forward(floats, rows, dim, 1e-6).unwrap(),
                layer_norm::launch::partial_backward(floats, rows, dim, 1e-6, false).unwrap(),
                totals(["dweights", "dweight"]),
                totals(["dbiases", "dbias"]),
            ];
            let given = vec![
                ("x", Buffer::new(of_x.dtype(), &x)),
                ("weight", f32s(&weight)),
                ("bias", f32s(&bias)),
                ("grad", Buffer::new(dtype, &grad)),
            ];
            let names = ["y", "dx", "dweight", "dbias"];
            let Some([y, dx, dweight, dbias]) = outcome(&launches, given, names) else {
                return;
            };
            let (mut dw, mut db) = (vec![0.0; dim], vec![0.0; dim]);
            let each = x.chunks(dim).zip(grad.chunks(dim)).enumerate();
            for (row, (x, grad)) in each {
                let of = layer_norm::reference::row(x, &weight, &bias, grad, 1e-6);
                let at = row * dim..(row + 1) * dim;
                let allowed = step(float).max(2e-5);
                assert_close(&y[at.clone()], &of[0], allowed, allowed, "y");
                // With one number per row, the deviation is the root of epsilon, which magnifies rounding a thousandfold.
                let exact = if dim == 1 { 1e-3 } else { allowed };
                assert_close(&dx[at], &of[1], exact, allowed, "dx");
                dw.iter_mut().zip(&of[2]).for_each(|(a, b)| *a += b);
                db.iter_mut().zip(&of[3]).for_each(|(a, b)| *a += b);
            }
            let allowed = 1e-5 * (rows as f64).sqrt() + 1e-5;
            assert_close(&dweight, &dw, allowed, 1e-4, "dweight");
            assert_close(&dbias, &db, allowed, 1e-5, "dbias");
        }
    }
}

#[test]
fn column_sums_of_all_and_of_listed_rows() {
    for float in FLOATS {
        for (rows, dim) in [(1, 1), (5, 33), (1025, 31), (513, 64)] {
            let x = rounded(float.dtype(), &numbers(5, rows * dim, 1.0, 0.2));
            let list: Vec<u32> = (0..rows as u32).rev().step_by(3).collect();
            let mut launches = linear::launch::column_sums(float, rows, dim, "all")
                .unwrap()
                .to_vec();
            let some =
                linear::launch::column_sums_of(float, rows, list.len(), dim, "some").unwrap();
            let given = || vec![("x", Buffer::new(float.dtype(), &x)), ("list", u32s(&list))];
            let sums = |rows: &[u32]| -> Vec<f64> {
                let of = |column| rows.iter().map(|row| x[*row as usize * dim + column]).sum();
                (0..dim).map(of).collect()
            };
            let every: Vec<u32> = (0..rows as u32).collect();
            let Some([all]) = outcome(&launches, given(), ["all"]) else {
                return;
            };
            assert_close(&all, &sums(&every), 1e-3, 1e-5, "all rows");
            launches = some.to_vec();
            let Some([some]) = outcome(&launches, given(), ["some"]) else {
                return;
            };
            assert_close(&some, &sums(&list), 1e-3, 1e-5, "listed rows");
        }
    }
}

#[test]
fn bias_gelu_and_its_gradients() {
    for float in FLOATS {
        for (rows, dim) in [
            (1, 1),
            (3, 7),
            (2, 1028),
            (70, 12),
            (1, 1023),
            (1, 1025),
            (600, 264),
        ] {
            let dtype = float.dtype();
            let x = rounded(dtype, &numbers(6, rows * dim, 6.0, 0.0));
            let bias = rounded(Dtype::F32, &numbers(7, dim, 0.5, 0.0));
            let grad = rounded(dtype, &numbers(8, rows * dim, 1.0, 0.0));
            let mut launches = vec![bias_gelu::launch::forward(float, rows, dim).unwrap()];
            launches.push(bias_gelu::launch::backward(float, rows, dim).unwrap());
            let sums = linear::launch::totals(
                linear::launch::parts(rows),
                dim,
                ["partial", "dbias"],
                false,
            );
            launches.push(sums.unwrap());
            let given = vec![
                ("x", Buffer::new(dtype, &x)),
                ("bias", f32s(&bias)),
                ("grad", Buffer::new(dtype, &grad)),
            ];
            let Some([y, dx, dbias]) = outcome(&launches, given, ["y", "dx", "dbias"]) else {
                return;
            };
            let inside: Vec<f64> = x
                .iter()
                .enumerate()
                .map(|(i, x)| x + bias[i % dim])
                .collect();
            let expected: Vec<f64> = inside
                .iter()
                .map(|u| bias_gelu::reference::gelu(*u))
                .collect();
            assert_close(&y, &expected, 2e-6, step(float), "y");
            let slopes = inside.iter().zip(&grad);
            let slopes = slopes.map(|(u, g)| bias_gelu::reference::derivative(*u) * g);
            let slopes: Vec<f64> = slopes.collect();
            assert_close(&dx, &slopes, 2e-6, step(float), "dx");
            // The bias gradient sums the gradient before it is rounded for the output.
            let mut sums = vec![0.0; dim];
            let each = slopes.iter().enumerate();
            each.for_each(|(i, d)| sums[i % dim] += d);
            assert_close(&dbias, &sums, 1e-5 * rows as f64, 1e-5, "dbias");
        }
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    for float in FLOATS {
        for (rows, classes, smoothing) in [(1, 1, 0.0), (3, 7, 0.1), (5, 1025, 0.0), (300, 50, 0.1)]
        {
            let dtype = float.dtype();
            let scores = rounded(dtype, &numbers(9, rows * classes, 8.0, 3.0));
            let ids: Vec<u32> = (0..rows).map(|row| (row * 31 % classes) as u32).collect();
            let smooth = f64::from(smoothing);
            let mut launches = cross_entropy::launch::forward(float, rows, classes, smoothing)
                .unwrap()
                .to_vec();
            launches
                .push(cross_entropy::launch::backward(float, rows, classes, smoothing).unwrap());
            let given = vec![
                ("scores", Buffer::new(dtype, &scores)),
                ("ids", u32s(&ids)),
                ("upstream", f32s(&[2.0])),
            ];
            let Some([loss, dscores]) = outcome(&launches, given, ["loss", "dscores"]) else {
                return;
            };
            let (expected, grad) = cross_entropy::reference::cross_entropy(&scores, &ids, smooth);
            assert_close(&loss, &[expected], 1e-6, 1e-5, "loss");
            let grad: Vec<f64> = grad.iter().map(|g| 2.0 * g).collect();
            assert_close(&dscores, &grad, 1e-6, step(float), "dscores");
        }
    }
}

#[test]
fn a_nan_propagates() {
    let launches = cross_entropy::launch::forward(Float::F32, 2, 40, 0.0).unwrap();
    let mut scores = numbers(10, 80, 1.0, 0.0);
    scores[45] = f64::NAN;
    let given = vec![("scores", f32s(&scores)), ("ids", u32s(&[1, 1]))];
    let Some([losses, loss]) = outcome(&launches, given, ["losses", "loss"]) else {
        return;
    };
    assert!(losses[0].is_finite() && losses[1].is_nan() && loss[0].is_nan());
    let sizes = attention::Sizes {
        batch: 1,
        tokens: 20,
        heads: 1,
        size: 32,
    };
    let mut qkv = numbers(11, 20 * 96, 1.0, 0.0);
    qkv[5 * 96 + 40] = f64::NAN;
    let given = vec![("qkv", Buffer::new(Dtype::Bf16, &qkv))];
    let forward = attention::launch::forward(sizes).unwrap();
    let Some([out]) = outcome(&[forward], given, ["out"]) else {
        return;
    };
    assert!(
        out.iter().all(|v| v.is_nan()),
        "every query attends to every key"
    );
}

/// Shorter than a chunk, exactly one chunk, several and a remainder, empty, one number.
const LENGTHS: [usize; 5] = [3, 1024, 2500, 0, 1];

/// Returns numbers for tensors of [`LENGTHS`], with zeros between them.
fn spread(flat: &flat::Flat, salt: u32, scale: f64, offset: f64) -> Vec<f64> {
    let values = numbers(salt, flat.len(), scale, offset);
    let mut all = vec![0.0; flat.len()];
    for at in (0..LENGTHS.len()).map(|tensor| flat.range(tensor)) {
        all[at.clone()].copy_from_slice(&values[at]);
    }
    rounded(Dtype::F32, &all)
}

#[test]
fn adamw_over_all_tensors() {
    let flat = flat::Flat::of(&LENGTHS);
    let (lr, betas, n) = (1e-3, [0.9, 0.95], 3);
    let decays = [0.05, 0.0, 0.1, 0.0, 0.05];
    let value = spread(&flat, 12, 1.0, 0.0);
    let grad = spread(&flat, 13, 0.1, 0.0);
    let first = spread(&flat, 14, 0.1, 0.0);
    let second = spread(&flat, 15, 0.01, 0.011);
    let rates = vec![lr / (1.0 - f64::powi(betas[0], n)); 5];
    let keep: Vec<f64> = decays.iter().map(|decay| 1.0 - lr * decay).collect();
    let correction = (1.0 - f64::powi(betas[1], n)).sqrt() as f32;
    let launch = adamw::launch::step(&flat, [0.9, 0.95], correction).unwrap();
    let given = vec![
        ("value", f32s(&value)),
        ("grad", f32s(&grad)),
        ("first", f32s(&first)),
        ("second", f32s(&second)),
        ("chunk_tensor", u32s(&flat.chunk_tensor)),
        ("rate", f32s(&rates)),
        ("decay", f32s(&keep)),
    ];
    let names = ["value", "first", "second"];
    let Some(after) = outcome(&[launch], given, names) else {
        return;
    };
    let mut expected = [(); 3].map(|()| vec![0.0; flat.len()]);
    for (at, tensor) in (0..flat.len()).map(|at| (at, flat.chunk_tensor[at / 1024])) {
        let before = [value[at], first[at], second[at]];
        let decay = decays[tensor as usize];
        let of = adamw::reference::step(before, grad[at], lr, decay, betas, n);
        expected.iter_mut().zip(of).for_each(|(all, v)| all[at] = v);
    }
    for ((name, found), expected) in names.iter().zip(&after).zip(&expected) {
        assert_close(found, expected, 1e-7, 1e-6, name);
    }
}

#[test]
fn lars_over_all_tensors() {
    let flat = flat::Flat::of(&LENGTHS);
    let (momentum, rates) = (0.9, [0.5, 1.0, 0.25, 1.0, 1.0]);
    let (decays, trusts) = ([0.05, 0.0, 0.1, 0.0, 0.0], [0.001, 0.0, 0.002, 0.001, 0.0]);
    let value = spread(&flat, 16, 1.0, 0.0);
    let grad = spread(&flat, 17, 0.1, 0.0);
    let moment = spread(&flat, 18, 0.1, 0.0);
    let given = vec![
        ("value", f32s(&value)),
        ("grad", f32s(&grad)),
        ("moment", f32s(&moment)),
        ("chunk_tensor", u32s(&flat.chunk_tensor)),
        ("first_chunk", u32s(&flat.first_chunks())),
        ("rate", f32s(&rates)),
        ("decay", f32s(&decays)),
        ("trust", f32s(&trusts)),
    ];
    let launches = lars::launch::step(&flat, momentum).unwrap();
    let names = ["value", "moment"];
    let Some(after) = outcome(&launches, given, names) else {
        return;
    };
    let mut expected = [(); 2].map(|()| vec![0.0; flat.len()]);
    for (tensor, trust) in trusts.iter().enumerate().filter(|(at, _)| LENGTHS[*at] > 0) {
        let at = flat.range(tensor);
        let numbers = [rates[tensor], decays[tensor], f64::from(momentum)];
        let part = |of: &[f64]| of[at.clone()].to_vec();
        let trust = (*trust > 0.0).then_some(*trust);
        let of = lars::reference::step(&part(&value), &part(&grad), &part(&moment), numbers, trust);
        for (all, of) in expected.iter_mut().zip(of) {
            all[at.clone()].copy_from_slice(&of);
        }
    }
    for ((name, found), expected) in names.iter().zip(&after).zip(&expected) {
        assert_close(found, expected, 1e-7, 1e-6, name);
    }
}

#[test]
fn a_bias_is_added_to_every_row() {
    for float in FLOATS {
        for (rows, dim) in [(1, 1), (3, 7), (5, 1028)] {
            let x = rounded(float.dtype(), &numbers(19, rows * dim, 2.0, 0.0));
            let bias = rounded(Dtype::F32, &numbers(20, dim, 1.0, 0.3));
            let launch = linear::launch::add_bias(float, rows, dim).unwrap();
            let given = vec![("x", Buffer::new(float.dtype(), &x)), ("bias", f32s(&bias))];
            let Some([y]) = outcome(&[launch], given, ["x"]) else {
                return;
            };
            let sums = x.iter().enumerate().map(|(at, x)| x + bias[at % dim]);
            assert_close(&y, &sums.collect::<Vec<_>>(), 1e-6, step(float), "x + bias");
        }
    }
}

#[test]
fn gathered_and_restored_rows_and_their_gradients() {
    for float in FLOATS {
        for (batch, patches, kept, dim) in [(1, 2, 1, 1), (3, 9, 2, 7), (2, 16, 4, 260)] {
            let dtype = float.dtype();
            let rows = batch * patches;
            let x = rounded(dtype, &numbers(16, rows * dim, 1.0, 0.0));
            let index: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
            let same = |name| (name, Buffer::new(dtype, &x));
            let launch = gather::launch::gather(float, rows, index.len(), dim).unwrap();
            let given = vec![same("x"), ("from", u32s(&index))];
            let Some([out]) = outcome(&[launch], given, ["out"]) else {
                return;
            };
            let narrow: Vec<f32> = x.iter().map(|v| *v as f32).collect();
            let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
            assert_eq!(out, wide(gather::reference::gather(&narrow, &index, dim)));
            // The backward pass writes zeros to rows that were not gathered.
            let launch = gather::launch::gather(float, index.len(), rows, dim).unwrap();
            let inverse = gather::launch::inverse(&index, rows);
            let given = vec![("x", Buffer::new(dtype, &out)), ("from", u32s(&inverse))];
            let Some([back]) = outcome(&[launch], given, ["out"]) else {
                return;
            };
            for (row, values) in back.chunks(dim).enumerate() {
                let gathered = index.contains(&(row as u32));
                let expected = &x[row * dim..][..dim];
                assert!(
                    values
                        .iter()
                        .zip(expected)
                        .all(|(v, e)| *v == if gathered { *e } else { 0.0 })
                );
            }
            restored(float, batch, patches, kept, dim);
        }
    }
}

fn restored(float: Float, batch: usize, patches: usize, kept: usize, dim: usize) {
    let (dtype, tokens) = (float.dtype(), kept + 1);
    let x = rounded(dtype, &numbers(17, batch * tokens * dim, 1.0, 0.0));
    let mask = rounded(dtype, &numbers(18, dim, 1.0, 0.0));
    let places: Vec<u32> = (0..batch * patches)
        .map(|at| ((at * 5 + at / patches) % patches) as u32)
        .collect();
    let from = gather::launch::restored(&places, batch, tokens);
    let rows = from.len();
    let launch = gather::launch::restore(float, batch * tokens, rows, dim).unwrap();
    let given = vec![
        ("x", Buffer::new(dtype, &x)),
        ("from", u32s(&from)),
        ("fill", Buffer::new(dtype, &mask)),
    ];
    let Some([out]) = outcome(&[launch], given, ["out"]) else {
        return;
    };
    let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
    let expected = gather::reference::restore(&narrow(&x), &narrow(&mask), &places, batch, tokens);
    assert_eq!(narrow(&out), expected);
    // Gradients: rows by the inverse index; the mask token's gradient is the sum over the masked rows.
    let filled: Vec<u32> = (0..rows as u32)
        .filter(|row| from[*row as usize] == NONE)
        .collect();
    let launches = linear::launch::column_sums_of(float, rows, filled.len(), dim, "dmask").unwrap();
    let given = vec![("x", Buffer::new(dtype, &out)), ("list", u32s(&filled))];
    let Some([dmask]) = outcome(&launches, given, ["dmask"]) else {
        return;
    };
    let expected: Vec<f64> = mask.iter().map(|m| m * filled.len() as f64).collect();
    assert_close(&dmask, &expected, 1e-4, 1e-5, "dmask");
}

/// Returns the root mean square of the differences, relative to that of `expected`.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    let squares: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f - e).powi(2))
        .sum();
    (squares / expected.iter().map(|e| e * e).sum::<f64>()).sqrt()
}

#[test]
fn attention_and_its_gradient() {
    // One token, less than a tile, exactly one, one more, several; several head sizes.
    let cases = [
        [1, 1, 1, 16],
        [2, 5, 3, 32],
        [1, 64, 1, 64],
        [1, 65, 2, 64],
        [1, 197, 1, 64],
        [1, 50, 2, 96],
        [1, 70, 1, 128],
    ];
    for [batch, tokens, heads, size] in cases {
        let sizes = attention::Sizes {
            batch,
            tokens,
            heads,
            size,
        };
        let width = heads * size;
        let qkv = rounded(
            Dtype::Bf16,
            &numbers(19, batch * tokens * 3 * width, 1.5, 0.1),
        );
        let grad = rounded(Dtype::Bf16, &numbers(20, batch * tokens * width, 1.0, 0.0));
        let mut launches = vec![attention::launch::forward(sizes).unwrap()];
        launches.extend(attention::launch::backward(sizes).unwrap());
        let given = vec![
            ("qkv", Buffer::new(Dtype::Bf16, &qkv)),
            ("dout", Buffer::new(Dtype::Bf16, &grad)),
        ];
        let Some([out, dqkv]) = outcome(&launches, given, ["out", "dqkv"]) else {
            return;
        };
        let [expected, dexpected] =
            attention::reference::attention(&qkv, &grad, [batch, tokens, heads, size]);
        let what = format!("{batch} x {tokens} tokens, {heads} heads of {size}");
        assert_close(&out, &expected, 0.01, 0.01, &what);
        let off = relative(&out, &expected);
        assert!(off < 4e-3, "{what}: output off by {off}");
        if tokens == 1 {
            // The weight of a single key is constant, so the gradients of queries and keys are only rounding errors.
            assert_close(&dqkv, &dexpected, 0.02, 0.01, &what);
            continue;
        }
        for part in 0..3 {
            let of = |all: &[f64]| -> Vec<f64> {
                let rows = all.chunks(3 * width);
                rows.flat_map(|row| row[part * width..][..width].to_vec())
                    .collect()
            };
            let off = relative(&of(&dqkv), &of(&dexpected));
            assert!(off < 1e-2, "{what}: gradient {part} off by {off}");
        }
    }
}
