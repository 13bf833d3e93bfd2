//! Kernels of the step without a graph: rows with positions, a bias in bf16, the squared error, AdamW's copy in bf16.

use half::bf16;

use super::host::{Buffer, rounded};
use super::numerics::{FLOATS, assert_close, f32s, numbers, outcome, step, u32s};
use crate::device::launch::{Dtype, NONE};
use crate::ops::{adamw, flat, gather, linear, squared_error};

#[test]
fn rows_get_their_positions() {
    for (dim, float) in [1, 7, 264]
        .into_iter()
        .flat_map(|dim| FLOATS.map(|f| (dim, f)))
    {
        let x = rounded(Dtype::Bf16, &numbers(1, 5 * dim, 1.0, 0.0));
        let fill = rounded(Dtype::F32, &numbers(2, dim, 1.0, 0.0));
        let positions = rounded(Dtype::F32, &numbers(3, 4 * dim, 1.0, 0.0));
        let (from, place) = ([4, NONE, 0, 2, NONE], [0, 3, 3, 1, 2]);
        let launch = gather::launch::place(float, 5, 5, 4, dim).unwrap();
        let given = vec![
            ("x", Buffer::new(Dtype::Bf16, &x)),
            ("from", u32s(&from)),
            ("fill", f32s(&fill)),
            ("positions", f32s(&positions)),
            ("place", u32s(&place)),
        ];
        let Some([out]) = outcome(&[launch], given, ["out"]) else {
            return;
        };
        let value = |row: usize, i: usize| {
            let of = match from[row] {
                NONE => fill[i],
                source => x[source as usize * dim + i],
            };
            of + positions[place[row] as usize * dim + i]
        };
        let expected: Vec<f64> = (0..5 * dim).map(|at| value(at / dim, at % dim)).collect();
        assert_close(&out, &expected, 1e-6, step(float), "out");
    }
}

#[test]
fn the_squared_error_and_its_gradient() {
    for (count, dim) in [(1, 1), (9, 7), (20, 264)] {
        let scores = rounded(Dtype::Bf16, &numbers(4, count * dim, 1.0, 0.0));
        let values = rounded(Dtype::F32, &numbers(5, 2 * count * dim, 1.0, 0.0));
        let rows: Vec<u32> = (0..count as u32).map(|row| 2 * row + row % 2).collect();
        let launches = squared_error::launch::squared_error(dim, count, values.len()).unwrap();
        let given = vec![
            ("scores", Buffer::new(Dtype::Bf16, &scores)),
            ("values", f32s(&values)),
            ("rows", u32s(&rows)),
            ("upstream", f32s(&[0.5])),
        ];
        let Some([loss, dscores]) = outcome(&launches, given, ["loss", "dscores"]) else {
            return;
        };
        let each = scores.iter().enumerate();
        let off = each.map(|(at, s)| s - values[rows[at / dim] as usize * dim + at % dim]);
        let off: Vec<f64> = off.collect();
        let mean = off.iter().map(|v| v * v).sum::<f64>() / off.len() as f64;
        assert_close(&loss, &[mean], 1e-6, 1e-5, "loss");
        let slopes: Vec<f64> = off.iter().map(|v| v / off.len() as f64).collect();
        assert_close(&dscores, &slopes, 1e-9, 2.0_f64.powi(-8), "dscores");
    }
}

#[test]
fn adamw_rounds_its_new_values() {
    let flat = flat::Flat::of(&[5, 2000]);
    let of = |salt, offset| f32s(&numbers(salt, flat.len(), 0.1, offset));
    let given = vec![
        ("value", of(6, 0.0)),
        ("grad", of(7, 0.0)),
        ("first", of(8, 0.0)),
        ("second", of(9, 0.11)),
        ("chunk_tensor", u32s(&flat.chunk_tensor)),
        ("rate", f32s(&[1e-3, 2e-3])),
        ("decay", f32s(&[0.999, 1.0])),
    ];
    let plain = adamw::launch::step(&flat, [0.9, 0.95], 0.7).unwrap();
    let both = adamw::launch::step_rounded(&flat, [0.9, 0.95], 0.7).unwrap();
    let names = ["value", "first", "second"];
    let Some(expected) = outcome(&[plain], given.clone(), names) else {
        return;
    };
    let names = ["value", "first", "second", "rounded"];
    let Some([value, first, second, short]) = outcome(&[both], given, names) else {
        return;
    };
    assert_eq!([&value, &first, &second], expected.each_ref());
    let nearest = |v: &f64| bf16::from_f32(*v as f32).to_f64();
    assert_eq!(short, value.iter().map(nearest).collect::<Vec<_>>());
}

#[test]
fn a_bias_in_bf16_is_added_to_every_row() {
    for (rows, dim) in [(3, 7), (9, 264)] {
        let x = rounded(Dtype::Bf16, &numbers(10, rows * dim, 1.0, 0.0));
        let bias = rounded(Dtype::Bf16, &numbers(11, dim, 1.0, 0.0));
        let launch = linear::launch::add_rounded_bias(rows, dim).unwrap();
        let given = [("x", &x), ("bias", &bias)];
        let given = given.map(|(name, v)| (name, Buffer::new(Dtype::Bf16, v)));
        let Some([out]) = outcome(&[launch], given.to_vec(), ["x"]) else {
            return;
        };
        let sums: Vec<f64> = (0..rows * dim).map(|i| x[i] + bias[i % dim]).collect();
        assert_eq!(out, rounded(Dtype::Bf16, &sums));
    }
}
