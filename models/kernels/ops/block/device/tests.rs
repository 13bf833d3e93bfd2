//! The block on a device, emulated on the host, beside the fused block in f32.

use candle_core::Var;
use half::bf16;

use super::*;
use crate::device::launch::Dtype;
use crate::ops::block::Block;
use crate::ops::block::tests::{flat, fused, parameters, var, with_gradients};
use crate::ops::gather::launch::inverse;
use crate::testing::{relative_error, under_test};

/// Rounds numbers to bf16 and puts them on the device.
fn put(device: &Device, values: &[f32]) -> Memory {
    let values: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
    device.put(&values).unwrap()
}

fn get(device: &Device, memory: &Memory) -> Vec<f32> {
    let values = device.read::<bf16>(memory).unwrap();
    values.into_iter().map(bf16::to_f32).collect()
}

/// Returns the variable with its numbers rounded to bf16.
fn rounded(v: &Var) -> Var {
    let short = v.to_dtype(candle_core::DType::BF16).unwrap();
    Var::from_tensor(&short.to_dtype(candle_core::DType::F32).unwrap()).unwrap()
}

#[test]
fn output_and_all_gradients_are_those_of_f32() {
    let Some(device) = under_test() else {
        return;
    };
    for (tokens, width, heads, some, stream) in [
        (5, 32, 2, true, Float::Bf16),
        (5, 32, 2, true, Float::F32),
        (70, 32, 1, false, Float::Bf16),
    ] {
        let (x, p) = (
            rounded(&var(&[2, tokens, width], 1, 1.5)),
            parameters(width),
        );
        let p: Vec<Var> = p.iter().map(rounded).collect();
        let list: Option<Vec<u32>> = some.then(|| vec![3, 0, 7]);
        let none = [None, None];
        let block = Block {
            only: list.clone(),
            ..fused(&p, heads, &none, false)
        };
        let expected = with_gradients(&x, &p, block);

        let each = |to: &dyn Fn(&[f32]) -> Memory| std::array::from_fn(|i| to(&flat(&p[i])));
        let values = each(&|v| device.put(v).unwrap());
        let short = each(&|v| put(&device, v));
        let only = list.map(|list| Rows {
            inverse: device.put(&inverse(&list, 2 * tokens)).unwrap(),
            rows: device.put(&list).unwrap(),
        });
        let block = DeviceBlock {
            device: &device,
            values: &values,
            rounded: &short,
            sizes: attention::Sizes {
                batch: 2,
                tokens,
                heads,
                size: width / heads,
            },
            eps: 1e-6,
            only: only.as_ref(),
        };
        let gradients: [Memory; 12] =
            std::array::from_fn(|i| device.room(Dtype::F32, values[i].len()).unwrap());
        // The second part of a batch adds the same gradients again.
        for add in [false, true] {
            let x = match stream {
                Float::F32 => device.put(&flat(&x)).unwrap(),
                Float::Bf16 => put(&device, &flat(&x)),
            };
            let (y, kept) = block.forward(x).unwrap();
            assert_eq!(y.float(), stream);
            let upstream = var(expected[13].dims(), 50, 1.0);
            let sums = std::array::from_fn(|i| Sum {
                to: &gradients[i],
                add,
            });
            let grad = put(&device, &flat(&upstream));
            let dx = block.backward(kept, grad, &sums).unwrap();
            let (y, allowed) = match stream {
                Float::F32 => (device.read::<f32>(&y).unwrap(), 0.005),
                Float::Bf16 => (get(&device, &y), 0.01),
            };
            let off = relative_error(&y, &flat(&expected[13]));
            assert!(off < allowed, "{stream:?}: {off}");
            assert!(relative_error(&get(&device, &dx), &flat(&expected[0])) < 0.02);
            let times = if add { 2.0 } else { 1.0 };
            for (at, memory) in gradients.iter().enumerate() {
                let found = device.read::<f32>(memory).unwrap();
                let found: Vec<f32> = found.iter().map(|v| v / times).collect();
                let off = relative_error(&found, &flat(&expected[1 + at]));
                // A key's bias changes no attention weight: a third of the gradient of `qkv.bias` is noise.
                let allowed = if at == QKV + 1 { 0.05 } else { 0.02 };
                assert!(off < allowed, "{at}: {off}");
            }
        }
    }
}
