//! bf16 on the CPU: every operation returns its f32 result for the same numbers, rounded once. f32 parameters get the same gradients.
//! (Other tests compare the f32 operations with the references.)

use super::*;
use candle_core::DType;

/// Rounds numbers to bf16.
fn rounded(values: &[f32]) -> Vec<f32> {
    let short = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    flat(
        &short
            .to_dtype(DType::BF16)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap(),
    )
}

fn wide_of(tensor: &Tensor) -> Vec<f32> {
    flat(&tensor.to_dtype(DType::F32).unwrap())
}

/// Shapes of the arguments, and whether the bf16 form has them in bf16.
type Arguments<'a> = &'a [(&'a [usize], bool)];

fn run(
    arguments: Arguments<'_>,
    short: bool,
    operation: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let make = |(at, (shape, is_short)): (usize, &(&[usize], bool))| {
        let values = numbers(shape.iter().product(), 0.3 * at as f32);
        let tensor = Tensor::from_vec(rounded(&values), *shape, &Device::Cpu).unwrap();
        let dtype = match short && *is_short {
            true => DType::BF16,
            false => DType::F32,
        };
        Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
    };
    let vars: Vec<Var> = arguments.iter().enumerate().map(make).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = operation(&tensors).unwrap();
    let upstream = rounded(&numbers(y.elem_count(), 0.7));
    let upstream = Tensor::from_vec(upstream, y.shape(), &Device::Cpu).unwrap();
    let upstream = upstream.to_dtype(y.dtype()).unwrap();
    // Only the products with the upstream gradient are rounded; the sum is in f32.
    let loss = (&y * upstream).unwrap().to_dtype(DType::F32).unwrap();
    let grads = loss.sum_all().unwrap().backward().unwrap();
    let of = |v: &Var| grads.get(v).unwrap().clone();
    (y.clone(), vars.iter().map(of).collect())
}

fn assert_rounded_once(
    what: &str,
    arguments: Arguments<'_>,
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (y, grads) = run(arguments, true, &operation);
    let (expected, expected_grads) = run(arguments, false, &operation);
    let same = |found: &Tensor, expected: &Tensor, what: &str| {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let expected = match found.dtype() {
            DType::BF16 => rounded(&flat(expected)),
            _ => flat(expected),
        };
        assert!(expected.iter().any(|v| *v != 0.0), "{what}");
        assert_eq!(wide_of(found), expected, "{what}");
    };
    same(&y, &expected, what);
    for (at, (found, expected)) in grads.iter().zip(&expected_grads).enumerate() {
        let is_short = arguments[at].1;
        assert_eq!(found.dtype() == DType::BF16, is_short, "{what} {at}");
        same(found, expected, &format!("{what}, gradient {at}"));
    }
}

#[test]
fn operations_round_once() {
    assert_rounded_once(
        "layer norm",
        &[(&[3, 5, 37], true), (&[37], false), (&[37], false)],
        |t| layer_norm(&t[0], &t[1], &t[2], 1e-6),
    );
    let arguments: Arguments<'_> = &[(&[3, 5, 37], true), (&[37], false)];
    assert_rounded_once("bias + gelu", arguments, |t| bias_gelu(&t[0], &t[1]));
    let arguments: Arguments<'_> = &[(&[3, 5, 32], true), (&[7, 32], true), (&[7], false)];
    assert_rounded_once("linear", arguments, |t| linear(&t[0], &t[1], Some(&t[2])));
    assert_rounded_once("linear without bias", &arguments[..2], |t| {
        linear(&t[0], &t[1], None)
    });
    assert_rounded_once("attention", &[(&[2, 9, 3 * 2 * 16], true)], |t| {
        attention(&t[0], 2)
    });
    assert_rounded_once("gathered rows", &[(&[6, 20], true)], |t| {
        gather_rows(&t[0], vec![4, 0, 5])
    });
    assert_rounded_once("cross-entropy", &[(&[5, 30], true)], |t| {
        cross_entropy(&t[0], vec![1, 29, 0, 7, 7], 0.1)
    });
    let restored = |t: &[Tensor]| restore_patches(&t[0], &t[1], vec![2, 0, 1, 3, 3, 1, 0, 2]);
    assert_rounded_once("restored", &[(&[2, 3, 20], true), (&[20], true)], restored);
}

/// With a weight in bf16, f32 tokens stay f32: output and gradient are those of products with rounded numbers.
#[test]
fn a_linear_layer_of_f32_tokens_rounds_its_products_only() {
    let arguments: Arguments<'_> = &[(&[3, 5, 32], false), (&[7, 32], true), (&[7], false)];
    let operation = |t: &[Tensor]| linear(&t[0], &t[1], Some(&t[2]));
    let (y, grads) = run(arguments, true, &operation);
    let (expected, expected_grads) = run(arguments, false, &operation);
    let types = [
        y.dtype(),
        grads[0].dtype(),
        grads[1].dtype(),
        grads[2].dtype(),
    ];
    assert_eq!(types, [DType::F32, DType::F32, DType::BF16, DType::F32]);
    // The numbers of `run` are rounded already, so only the order of sums differs, and the weight's gradient is rounded at the end.
    assert_close(&flat(&y), &wide(&flat(&expected)), 1e-5, 1e-5, "output");
    for (at, allowed) in [(0, 1e-5), (1, 1.0 / 256.0), (2, 1e-5)] {
        let what = format!("gradient {at}");
        assert_close(
            &wide_of(&grads[at]),
            &wide(&flat(&expected_grads[at])),
            1e-5,
            allowed,
            &what,
        );
    }
}

/// The decoder's mask token stays f32 with bf16 tokens.
#[test]
fn an_f32_mask_token_gets_an_f32_gradient() {
    let places = vec![2, 0, 1, 3, 3, 1, 0, 2];
    let arguments: Arguments<'_> = &[(&[2, 3, 20], true), (&[20], false)];
    let (y, grads) = run(arguments, true, &|t| {
        restore_patches(&t[0], &t[1], places.clone())
    });
    assert_eq!((y.dtype(), grads[1].dtype()), (DType::BF16, DType::F32));
    assert!(flat(&grads[1]).iter().any(|g| *g != 0.0));
}

#[test]
fn a_nan_propagates_and_other_types_are_refused() {
    let x = Tensor::from_vec(vec![1.0, f32::NAN, 2.0, 3.0], (2, 2), &Device::Cpu).unwrap();
    let x = x.to_dtype(DType::BF16).unwrap();
    let one = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    let y = wide_of(&layer_norm(&x, &one, &one, 1e-6).unwrap());
    assert!(y[..2].iter().all(|v| v.is_nan()) && y[2..].iter().all(|v| v.is_finite()));
    let double = x.to_dtype(DType::F64).unwrap();
    let error = gather_rows(&double, vec![0]).unwrap_err().to_string();
    assert!(error.contains("expected f32 or bf16, found F64"), "{error}");
    let images = Tensor::zeros((1, 3, 4, 4), DType::BF16, &Device::Cpu).unwrap();
    assert!(patchify::patchify(&images, 2, None).is_err());
}

/// Tests the fallback of a GPU for sizes that the kernel does not support, such as heads of 24.
#[test]
fn composed_attention_equals_fused_attention() {
    for (tokens, heads, size) in [(1, 1, 4), (9, 2, 24), (70, 3, 32)] {
        let shape = [2, tokens, 3 * heads * size];
        let values = numbers(shape.iter().product(), 0.2);
        let x = var(&values.iter().map(|v| 0.3 * v).collect::<Vec<_>>(), &shape);
        let sizes = attention::Sizes {
            batch: 2,
            tokens,
            heads,
            size,
        };
        let upstream = numbers(2 * tokens * heads * size, 0.5);
        let y = attention::composed::composed(&x, sizes).unwrap();
        let expected = attention(&x, heads).unwrap();
        assert_eq!(y.dims(), expected.dims());
        assert_close(&flat(&y), &wide(&flat(&expected)), 2e-6, 1e-5, "output");
        let grads = gradients(&y, &upstream, &[&x]);
        let expected = gradients(&expected, &upstream, &[&x]);
        assert_close(&grads[0], &wide(&expected[0]), 1e-5, 1e-4, "gradient");
    }
}
