use super::*;
use candle_core::{Device, Var};

const EPS: f32 = 1e-6;

pub(super) fn var(shape: &[usize], salt: usize, scale: f32) -> Var {
    let count = shape.iter().product();
    let number = |i: usize| (((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0) * scale;
    let values: Vec<f32> = (0..count).map(number).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

pub(super) fn parameters(width: usize) -> Vec<Var> {
    let shapes = shapes(width);
    let each = shapes.iter().enumerate();
    each.map(|(i, shape)| var(shape, i + 2, 0.4)).collect()
}

fn composed(x: &Tensor, p: &[Var], heads: usize, scales: &[Option<Vec<f32>>; 2]) -> Tensor {
    super::composed::composed(x, &fused(p, heads, scales, false)).unwrap()
}

pub(super) fn fused(
    p: &[Var],
    heads: usize,
    scales: &[Option<Vec<f32>>; 2],
    recompute: bool,
) -> Block {
    Block {
        parameters: std::array::from_fn(|i| p[i].as_tensor().clone()),
        heads,
        eps: EPS,
        scales: scales.clone(),
        only: None,
        recompute,
        composed: false,
        packs: Packs::default(),
    }
}

pub(super) fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts the accepting condition relative to the largest number, so that a NaN fails.
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= 2e-5 * largest, "{what}: {f} {e}");
    }
}

#[test]
fn output_and_all_thirteen_gradients_equal_the_composed_ones() {
    let dropped = [Some(vec![0.0, 2.0]), Some(vec![1.25, 0.0])];
    let mixed = [None, Some(vec![0.5, 1.5])];
    for (tokens, width, heads) in [(1, 4, 1), (5, 12, 3), (70, 32, 2)] {
        for scales in [[None, None], dropped.clone(), mixed.clone()] {
            let x = var(&[2, tokens, width], 1, 1.5);
            let p = parameters(width);
            let upstream = var(&[2, tokens, width], 50, 1.0);
            let loss = |y: &Tensor| (y * upstream.as_tensor()).unwrap().sum_all().unwrap();
            let expected = composed(&x, &p, heads, &scales);
            let expected_grads = loss(&expected).backward().unwrap();
            for recompute in [false, true] {
                let beside = Beside::default();
                let y = block(&x, fused(&p, heads, &scales, recompute), Some(&beside)).unwrap();
                assert_close(&flat(&y), &flat(&expected), "output");
                let mut grads = loss(&y).backward().unwrap();
                beside.lay_into(&mut grads).unwrap();
                let of = |store: &GradStore, v: &Var| flat(store.get(v).unwrap());
                assert_close(&of(&grads, &x), &of(&expected_grads, &x), "x");
                for (name, v) in PARAMETERS.iter().zip(&p) {
                    assert_close(&of(&grads, v), &of(&expected_grads, v), name);
                }
            }
        }
    }
}

/// Returns the output and the gradients of input and parameters.
pub(super) fn with_gradients(x: &Var, p: &[Var], some: Block) -> Vec<Tensor> {
    let beside = Beside::default();
    let y = block(x, some, Some(&beside)).unwrap();
    let upstream = var(y.dims(), 50, 1.0);
    let loss = (&y * upstream.as_tensor()).unwrap().sum_all().unwrap();
    let mut grads = loss.backward().unwrap();
    beside.lay_into(&mut grads).unwrap();
    let each = [x].into_iter().chain(p);
    let grads = each.map(|v| grads.get(v).unwrap().clone());
    grads.chain([y]).collect()
}

/// Matrices in bf16 round all factors of products to 8 bits; output and gradients stay f32 and near those of f32. A head of an odd size is
/// attended to in f32. A block that runs again in the backward gives the same bytes.
#[test]
fn matrices_in_bf16_round_products_only() {
    let none = [None, None];
    let dropped = [Some(vec![0.5, 2.0]), Some(vec![1.25, 1.5])];
    for (tokens, width, heads) in [(5, 12, 3), (70, 32, 2), (9, 15, 5)] {
        let x = var(&[2, tokens, width], 1, 1.5);
        let p = parameters(width);
        let short = p.iter().map(|v| match v.rank() {
            1 => v.clone(),
            _ => Var::from_tensor(&v.to_dtype(DType::BF16).unwrap()).unwrap(),
        });
        let short: Vec<Var> = short.collect();
        let only = Some(vec![3, 0, 7]);
        for (scales, only) in [(&none, None), (&dropped, None), (&none, only)] {
            let some = |p: &[Var], recompute| Block {
                only: only.clone(),
                ..fused(p, heads, scales, recompute)
            };
            let expected = with_gradients(&x, &p, some(&p, false));
            let found = with_gradients(&x, &short, some(&short, false));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!((found.dtype(), found.dims()), (DType::F32, expected.dims()));
                let square = |values: &[f32]| -> f32 { values.iter().map(|v| v * v).sum() };
                let off = square(&flat(&(found - expected).unwrap())) / square(&flat(expected));
                // A key's bias changes no attention weight: a third of the gradient of `qkv.bias` is noise.
                let allowed = if at == 4 { 0.05 } else { 0.02 };
                // Without scales, the gradient of the last bias is a sum of the output's gradient.
                let differs = off > 0.0 || at == 12;
                assert!(differs && off.sqrt() < allowed, "{at}: {}", off.sqrt());
            }
            let again = with_gradients(&x, &short, some(&short, true));
            for (again, found) in again.iter().zip(&found) {
                assert_eq!(flat(again), flat(found), "recomputed");
            }
        }
    }
}

/// Output and gradients with packs equal those without, also after the matrices have changed and were packed again.
#[test]
fn packed_matrices_change_no_byte() {
    let (x, mut p) = (var(&[4, 20, 48], 1, 1.0), parameters(48));
    for matrix in MATRICES {
        let dtype = candle_core::DType::BF16;
        let half = p[matrix].as_detached_tensor().to_dtype(dtype).unwrap();
        p.push(Var::from_tensor(&half).unwrap());
    }
    let mut packs = Packs::default();
    for (round, halves) in [false, true, false].into_iter().enumerate() {
        let mut used = p[..12].to_vec();
        if halves {
            for (i, half) in MATRICES.into_iter().zip(&p[12..]) {
                used[i] = half.clone();
            }
        }
        for matrix in MATRICES {
            let numbers = used[matrix].as_detached_tensor();
            used[matrix].set(&(numbers * 1.5).unwrap()).unwrap();
        }
        packs.renew(&MATRICES.map(|i| used[i].as_tensor())).unwrap();
        let by = |packs: &Packs| {
            let beside = Beside::default();
            let mut settings = fused(&used, 3, &[None, None], false);
            settings.packs = packs.clone();
            let y = block(&x, settings, Some(&beside)).unwrap();
            let mut grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            beside.lay_into(&mut grads).unwrap();
            let all = used.iter().chain([&x]).map(|v| flat(grads.get(v).unwrap()));
            all.chain([flat(&y)]).collect::<Vec<_>>()
        };
        assert!(by(&packs) == by(&Packs::default()), "round {round}");
    }
}

#[test]
fn selected_rows_equal_those_of_the_whole_block() {
    let (x, p) = (var(&[2, 5, 12], 1, 1.0), parameters(12));
    let none = [None, None];
    let only = vec![7, 0, 4, 9];
    let upstream = var(&[4, 12], 50, 1.0);
    let loss = |y: &Tensor| (y * upstream.as_tensor()).unwrap().sum_all().unwrap();
    let whole = composed(&x, &p, 3, &none).reshape((10, 12)).unwrap();
    let expected = crate::ops::gather_rows(&whole, only.clone()).unwrap();
    let expected_grads = loss(&expected).backward().unwrap();
    for recompute in [false, true] {
        let some = Block {
            only: Some(only.clone()),
            ..fused(&p, 3, &none, recompute)
        };
        let beside = Beside::default();
        let apart = super::composed::composed(&x, &some).unwrap();
        assert_close(&flat(&apart), &flat(&expected), "composed");
        let y = block(&x, some, Some(&beside)).unwrap();
        assert_eq!(y.dims(), [4, 12]);
        assert_close(&flat(&y), &flat(&expected), "output");
        let mut grads = loss(&y).backward().unwrap();
        beside.lay_into(&mut grads).unwrap();
        let of = |store: &GradStore, v: &Var| flat(store.get(v).unwrap());
        assert_close(&of(&grads, &x), &of(&expected_grads, &x), "x");
        for (name, v) in PARAMETERS.iter().zip(&p) {
            assert_close(&of(&grads, v), &of(&expected_grads, v), name);
        }
    }
    let twice = Block {
        only: Some(vec![1, 1]),
        ..fused(&p, 3, &none, false)
    };
    assert!(block(&x, twice, None).is_err());
}

#[test]
fn a_block_used_twice_gets_the_sum_of_both_gradients() {
    let (x, p) = (var(&[1, 3, 8], 1, 1.0), parameters(8));
    let none = [None, None];
    let run = |x: &Tensor, beside: &Beside| {
        let once = block(x, fused(&p, 2, &none, false), Some(beside)).unwrap();
        block(&once, fused(&p, 2, &none, false), Some(beside)).unwrap()
    };
    let beside = Beside::default();
    let mut grads = run(&x, &beside).sum_all().unwrap().backward().unwrap();
    beside.lay_into(&mut grads).unwrap();
    let twice = composed(&composed(&x, &p, 2, &none), &p, 2, &none);
    let expected = twice.sum_all().unwrap().backward().unwrap();
    for (name, v) in PARAMETERS.iter().zip(&p) {
        let of = |store: &GradStore| flat(store.get(v).unwrap());
        assert_close(&of(&grads), &of(&expected), name);
    }
}

#[test]
fn wrong_sizes_and_a_backward_without_beside_are_refused() {
    let (x, p) = (var(&[2, 3, 8], 1, 1.0), parameters(8));
    let none = [None, None];
    assert!(block(&x, fused(&p, 3, &none, false), None).is_err());
    assert!(block(&x, fused(&p, 2, &[Some(vec![1.0]), None], false), None).is_err());
    let other = parameters(12);
    let error = block(&x, fused(&other, 2, &none, false), None).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("norm1.weight is [12], expected [8]"),
        "{error}"
    );
    let y = block(&x, fused(&p, 2, &none, false), None).unwrap();
    assert!(y.sum_all().unwrap().backward().is_err());
}
