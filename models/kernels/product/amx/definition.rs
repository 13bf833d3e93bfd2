//! The definition of `tdpbf16ps` in loops.

use std::cell::Cell;

use super::{INNER, Rows, SIDE, Sums, Unit};
use crate::testing::{formula, tell};

thread_local! {
    pub(super) static IS_USED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a machine whose tiles are computed by their definition.
pub(in crate::product) fn with(work: impl FnOnce()) {
    IS_USED.set(true);
    work();
    IS_USED.set(false);
}

/// Implements [`Unit::sums`].
pub(super) fn sums(a: Rows<'_>, b: Rows<'_>, columns: [usize; 2], depth: usize, sums: &mut Sums) {
    for row in 0..SIDE {
        for column in 0..SIDE {
            let from = columns[column / INNER] + column % INNER;
            let lane = |k: usize| {
                let (a, b) = (a.lanes[row * a.stride + k], b.lanes[k * b.stride + from]);
                (halves(a), halves(b))
            };
            sums.0[row][column] = (0..depth).step_by(INNER).fold(0.0, |sum, first| {
                let lanes = (first..first + INNER).map(lane);
                let [lower, upper] = lanes.fold([0.0_f32; 2], |both, (a, b)| {
                    [0, 1].map(|half| flushed(a[half].mul_add(b[half], both[half])))
                });
                flushed(sum + flushed(lower + upper))
            });
        }
    }
}

/// The lower and the upper number of a pair.
fn halves(lane: f32) -> [f32; 2] {
    let bits = lane.to_bits();
    [bits << 16, bits & 0xffff_0000].map(|bits| flushed(f32::from_bits(bits)))
}

fn flushed(value: f32) -> f32 {
    match value.is_subnormal() {
        true => 0.0_f32.copysign(value),
        false => value,
    }
}

/// If a machine computed the instruction otherwise, results of equal keys would differ.
#[test]
fn registers_have_the_bits_of_the_definition() {
    if Unit::find() != Some(Unit::Registers) {
        return tell("SKIPPED: this machine has no AMX");
    }
    for (depth, a_stride, b_stride, columns) in [
        (16, 16, 32, [0, 16]),
        (48, 61, 64, [16, 48]),
        (512, 515, 16, [0, 0]),
    ] {
        let lanes = |seed, len: usize| -> Vec<f32> {
            let all = formula(seed, 2 * len, 3.0);
            // Some numbers are subnormal in bf16, and some products in f32.
            let scaled = all.iter().zip([1.0, 1.0, 1e-39, 1e-19].into_iter().cycle());
            let bits = scaled.map(|(v, scale)| half::bf16::from_f32(v * scale).to_bits());
            let bits: Vec<u32> = bits.map(u32::from).collect();
            let lane = |pair: &[u32]| f32::from_bits(pair[0] | pair[1] << 16);
            bits.chunks_exact(2).map(lane).collect()
        };
        let (a, b) = (lanes(1, SIDE * a_stride), lanes(2, depth * b_stride));
        let [a, b] = [(&a, a_stride), (&b, b_stride)].map(|(lanes, stride)| Rows { lanes, stride });
        let [found, expected] = [Unit::Registers, Unit::Definition].map(|unit| {
            let mut sums = Sums([[f32::NAN; SIDE]; SIDE]);
            unit.sums(a, b, columns, depth, &mut sums);
            sums.0
                .as_flattened()
                .iter()
                .map(|v| v.to_bits())
                .collect::<Vec<u32>>()
        });
        assert!(found == expected, "{depth} {columns:?}");
    }
}
