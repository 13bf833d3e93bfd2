use half::bf16;

use super::super::{Operand, Rounding};
use super::*;
use crate::testing::{formula, tell};

const ALL: [Form; 3] = [Form::Plain, Form::RightTransposed, Form::LeftTransposed];

/// Computes the product of numbers rounded by the crate `half`, in f64.
fn loops(form: Form, a: &[f32], b: &[f32], [rows, inner, cols]: [usize; 3]) -> Vec<f64> {
    let [[_, a_wide], [_, b_wide]] = form.operands([rows, inner, cols]);
    let at = |all: &[f32], wide: usize, row: usize, col: usize| {
        bf16::from_f32(all[row * wide + col]).to_f64()
    };
    let cell = |i: usize, j: usize| {
        let each = (0..inner).map(|k| match form {
            Form::Plain => at(a, a_wide, i, k) * at(b, b_wide, k, j),
            Form::RightTransposed => at(a, a_wide, i, k) * at(b, b_wide, j, k),
            Form::LeftTransposed => at(a, a_wide, k, i) * at(b, b_wide, k, j),
        });
        each.sum()
    };
    let cells = (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j)));
    cells.map(|(i, j)| cell(i, j)).collect()
}

/// Runs `work` on this machine as it is, and once more with the tile registers' definition in loops.
fn on_all_units(work: fn()) {
    work();
    #[cfg(target_arch = "x86_64")]
    super::super::amx::definition::with(|| {
        assert_eq!(has_amx(), has_bf16());
        work();
    });
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= 2e-4 + 2e-6 * expected.abs(),
            "{what}: {found} {expected}"
        );
    }
}

/// Sizes that do not fill a tile, of several panels and chunks, and those that `gemm` computes.
#[test]
fn a_packed_right_factor_changes_no_byte() {
    on_all_units(packed_right_factors);
}

fn packed_right_factors() {
    for size in [
        [1, 1, 1],
        [17, 64, 17],
        [50, 33, 130],
        [65, 1100, 300],
        [64, 2300, 40],
        [300, 192, 576],
        [7, 1100, 401],
    ] {
        for (form, rounding) in ALL
            .into_iter()
            .flat_map(|form| [(form, Rounding::Exact), (form, Rounding::Bf16)])
        {
            let [left, right] = form.operands(size);
            let a = formula(1, left[0] * left[1], 2.0);
            let b = formula(2, right[0] * right[1], 2.0);
            let [a, b] = [(a, left), (b, right)].map(|(v, size)| Operand::new(v, size, rounding));
            let bias = formula(3, size[2], 1.0);
            let of = |b: &Operand<'_>| product_of(form, Start::Row(&bias), a.factor(), b.factor());
            let mut packed: [Packed; 3] = Default::default();
            for (form, packed) in ALL.into_iter().zip(&mut packed) {
                // The second time, the memory has numbers.
                for factor in [a.factor(), b.factor()] {
                    factor.pack(form, packed);
                }
            }
            let found = of(&b.clone().with(&packed));
            assert!(of(&b) == found, "{form:?} {rounding:?} {size:?}");

            // Numbers of a packed factor are read from the packs only, where there are tiles.
            let rows = size[0] > 100;
            if rows && packed[0].lanes(Form::Plain).is_some() {
                let zeros = Operand::new(vec![0.0; right[0] * right[1]], right, rounding);
                assert!(of(&zeros.with(&packed)) == found, "{form:?} {rounding:?}");
            }
        }
    }
}

/// Odd sizes, sizes of less than a tile, of several chunks, of several blocks of rows or columns, and those of the smallest models.
#[test]
fn products_equal_loops_over_rounded_numbers() {
    if !has_bf16() {
        tell("bf16 products in f32: this machine has no instruction for them");
    }
    on_all_units(products);
}

fn products() {
    for size in [
        [1, 1, 1],
        [3, 5, 2],
        [17, 64, 17],
        [50, 33, 130],
        [6, 1, 7],
        [101, 2300, 40],
        [64, 192, 576],
        [401, 1030, 9],
        [7, 1100, 401],
    ] {
        for form in ALL {
            let [left, right] = form.operands(size);
            let a = formula(1, left[0] * left[1], 2.0);
            let b = formula(2, right[0] * right[1], 2.0);
            let operand = [(&a, left), (&b, right)];
            let [x, y] = operand.map(|(values, size)| Operand::new(values, size, Rounding::Bf16));
            let expected = loops(form, &a, &b, size);
            let found = product_of(form, Start::Zero, x.factor(), y.factor());
            assert_close(&found, &expected, &format!("{form:?} {size:?}"));
            let mut emulated = vec![f32::NAN; found.len()];
            let scaled = Scaled {
                form,
                start: Start::Zero,
                factor: 1.0,
            };
            let (out, stride) = (emulated.as_mut_ptr(), size[2]);
            in_f32(out, stride, scaled, x.factor(), y.factor());
            assert_close(&emulated, &expected, &format!("in f32: {form:?} {size:?}"));

            let halves = [&a, &b].map(|all| all.iter().map(|v| bf16::from_f32(*v)));
            let [p, q] = halves.map(Iterator::collect::<Vec<bf16>>);
            let (p, q) = (Operand::of_bf16(&p, left), Operand::of_bf16(&q, right));
            let same = product_of(form, Start::Zero, p.factor(), q.factor());
            assert!(same == found, "rounded before: {form:?} {size:?}");

            let [x, y] = operand.map(|(values, size)| Operand::new(values, size, Rounding::Exact));
            let exact = product_of(form, Start::Zero, x.factor(), y.factor());
            let [p, q] = operand.map(|(values, [rows, cols])| Mat::new(values, rows, cols));
            let (p, q) = (form.left(p), form.right(q));
            assert!(
                exact == crate::product::product(p, q),
                "f32: {form:?} {size:?}"
            );
        }
    }
}

#[test]
fn a_product_of_parts_starts_from_a_sum_and_is_scaled() {
    on_all_units(products_of_parts);
}

fn products_of_parts() {
    // Rounded before, so that both ways of multiplying have the same exact result.
    let rounded = |values: Vec<f32>| values.into_iter().map(|v| bf16::from_f32(v).to_f32());
    let a: Vec<f32> = rounded(formula(3, 7 * 12, 2.0)).collect();
    let b: Vec<f32> = rounded(formula(4, 9 * 12, 2.0)).collect();
    for rounding in [Rounding::Exact, Rounding::Bf16] {
        let [x, y] = [(&a, 7), (&b, 9)].map(|(all, rows)| Operand::new(all, [rows, 12], rounding));
        let x = x.factor().part((2, 5), (4, 6));
        let y = y.factor().part((1, 8), (4, 6));
        let mut out = [1.0; 5 * 10];
        let to = MatMut::strided(&mut out, 5, 8, 10);
        product_of_into(to, Form::RightTransposed, Start::There, -0.5, x, y);
        let cut = |all: &[f32], first: usize, rows: usize| -> Vec<f32> {
            let rows = all.chunks(12).skip(first).take(rows);
            rows.flat_map(|row| row[4..10].to_vec()).collect()
        };
        let (p, q) = (cut(&a, 2, 5), cut(&b, 1, 8));
        let expected = loops(Form::RightTransposed, &p, &q, [5, 6, 8]);
        for (row, expected) in out.chunks(10).zip(expected.chunks(8)) {
            let expected: Vec<f64> = expected.iter().map(|v| 1.0 - 0.5 * v).collect();
            let off = row
                .iter()
                .zip(&expected)
                .map(|(f, e)| (f64::from(*f) - e).abs());
            assert!(off.fold(0.0, f64::max) < 1e-5, "{rounding:?}");
            assert_eq!(row[8..], [1.0; 2]);
        }
    }
}

/// A row is the same alone and among others, which tiles read in place, packed, or padded.
#[test]
fn rows_do_not_depend_on_those_beside_them() {
    on_all_units(rows_alone);
}

fn rows_alone() {
    for [rows, inner, cols] in [[70, 64, 40], [33, 1100, 100], [37, 90, 17]] {
        for form in ALL {
            let [left, right] = form.operands([rows, inner, cols]);
            let [a, b] = [(7, left), (8, right)].map(|(seed, size)| {
                let values = formula(seed, size[0] * size[1], 2.0);
                Operand::new(values, size, Rounding::Bf16)
            });
            let all = product_of(form, Start::Zero, a.factor(), b.factor());
            for row in (0..rows).step_by(2) {
                // A part of columns is whole pairs.
                let count = 2.min(rows - row);
                let part = match form {
                    Form::LeftTransposed => a.factor().part((0, inner), (row, count)),
                    _ => a.factor().part((row, count), (0, inner)),
                };
                let found = product_of(form, Start::Zero, part, b.factor());
                assert!(found == all[row * cols..][..count * cols], "{form:?} {row}");
            }
        }
    }
}

/// A part may end with a last column that has no neighbour.
#[test]
fn a_part_that_ends_with_a_lone_column_is_whole() {
    let a = formula(5, 3 * 5, 2.0);
    let operand = Operand::new(&a, [3, 5], Rounding::Bf16);
    let part = operand.factor().part((1, 2), (2, 3));
    let cut: Vec<f32> = a
        .chunks(5)
        .skip(1)
        .flat_map(|row| row[2..].to_vec())
        .collect();
    let size = Form::LeftTransposed;
    let found = product_of(size, Start::Zero, part, part);
    assert_close(&found, &loops(size, &cut, &cut, [3, 2, 3]), "lone column");
}

#[test]
fn empty_sizes_give_empty_or_zero_results() {
    let of = |size: [usize; 2]| Operand::new(vec![1.0; size[0] * size[1]], size, Rounding::Bf16);
    for (form, a, b, expected) in [
        (Form::Plain, [3, 4], [4, 0], 0),
        (Form::Plain, [0, 4], [4, 2], 0),
        (Form::Plain, [3, 0], [0, 2], 6),
        (Form::RightTransposed, [3, 0], [2, 0], 6),
    ] {
        let found = product_of(form, Start::Zero, of(a).factor(), of(b).factor());
        assert_eq!(found, vec![0.0; expected], "{form:?} {a:?} {b:?}");
    }
}

#[test]
#[should_panic(expected = "in pairs")]
fn a_part_that_splits_a_pair_is_refused() {
    let operand = Operand::new(vec![0.0; 12], [2, 6], Rounding::Bf16);
    let _ = operand.factor().part((0, 2), (1, 2));
}

#[test]
#[should_panic(expected = "factors of two types")]
fn factors_of_two_types_are_refused() {
    let [x, y] = [Rounding::Exact, Rounding::Bf16].map(|r| Operand::new(vec![0.0; 4], [2, 2], r));
    product_of(Form::Plain, Start::Zero, x.factor(), y.factor());
}

/// The bits of `vdpbf16ps` (Intel, Architecture Instruction Set Extensions): in each step the product of the upper numbers is added with one
/// rounding, then that of the lower ones, and subnormal numbers count as zero. If bf16 were multiplied in another way, or if a machine
/// computed the instruction otherwise, results of equal keys would differ.
#[test]
fn the_instruction_has_the_bits_of_its_definition() {
    if !has_bf16() || has_amx() {
        return tell("SKIPPED: this machine does not multiply bf16 by `vdpbf16ps`");
    }
    let (rows, inner, cols) = (7, 34, 19);
    let numbers = |seed, len| -> Vec<f32> {
        let all = formula(seed, len, 3.0).into_iter().enumerate();
        // The last two columns of the inner index are subnormal.
        let value = |(at, v): (usize, f32)| match at % inner {
            32.. => v * 1e-39,
            _ => v,
        };
        all.map(value).collect()
    };
    let [a, b] = [numbers(5, rows * inner), numbers(6, cols * inner)];
    let [x, y] = [(&a, rows), (&b, cols)]
        .map(|(values, rows)| Operand::new(values, [rows, inner], Rounding::Bf16));
    let found = product_of(Form::RightTransposed, Start::Zero, x.factor(), y.factor());
    let rounded = |v: f32| match bf16::from_f32(v).to_f32() {
        v if v.is_subnormal() => 0.0,
        v => v,
    };
    let cell = |i: usize, j: usize| {
        let factors = (0..inner).map(|k| (rounded(a[i * inner + k]), rounded(b[j * inner + k])));
        let factors: Vec<(f32, f32)> = factors.collect();
        let pairs = factors.chunks_exact(2);
        pairs.fold(0.0_f32, |sum, pair| {
            let upper = pair[1].0.mul_add(pair[1].1, sum);
            pair[0].0.mul_add(pair[0].1, upper)
        })
    };
    let expected: Vec<f32> = (0..rows * cols)
        .map(|at| cell(at / cols, at % cols))
        .collect();
    let differs = found
        .iter()
        .zip(&expected)
        .filter(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs.count(), 0, "{found:?} {expected:?}");
}
