//! Compares Candle operations on a GPU with those on the CPU: outputs and every gradient. Runs only if `TESSERA_GPU` is set.

use candle_core::{Device, Result, Tensor, Var};

use crate::ops::block::{Block, Packs, block, shapes};
use crate::ops::patchify::patchify;
use crate::ops::{
    attention, bias_gelu, cross_entropy, gather_rows, layer_norm, linear, restore_patches,
};
use crate::testing::{assert_near, formula};

fn gpu() -> Option<Device> {
    crate::testing::gpu_is_requested().then(|| crate::device::tensors().unwrap())
}

/// Compares output and gradients of an operation on variables of these shapes between the devices.
fn both(
    what: &str,
    gpu: &Device,
    shapes: &[&[usize]],
    allowed: f64,
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let run = |device: &Device| -> (Tensor, Vec<Tensor>) {
        let make = |(salt, shape): (u32, &&[usize])| {
            let values = formula(salt, shape.iter().product(), 1.0);
            let tensor = Tensor::from_vec(values, *shape, device).unwrap();
            Var::from_tensor(&tensor).unwrap()
        };
        let vars: Vec<Var> = (0..).zip(shapes).map(make).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = operation(&tensors).unwrap();
        let upstream = formula(99, y.elem_count(), 1.0);
        let upstream = Tensor::from_vec(upstream, y.shape(), device).unwrap();
        let grads = (&y * upstream)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let grads = vars.iter().map(|v| grads.get(v).unwrap().clone());
        (y.clone(), grads.collect())
    };
    let ((y, grads), (expected, expected_grads)) = (run(gpu), run(&Device::Cpu));
    assert_near(what, &y, &expected, allowed);
    for (at, (found, expected)) in grads.iter().zip(&expected_grads).enumerate() {
        assert_near(&format!("{what}, gradient {at}"), found, expected, allowed);
    }
}

#[test]
fn operations_on_a_gpu_equal_those_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for dim in [1028, 37] {
        both(
            "layer norm",
            &gpu,
            &[&[3, 5, dim], &[dim], &[dim]],
            1e-4,
            |t| layer_norm(&t[0], &t[1], &t[2], 1e-6),
        );
        both("bias + gelu", &gpu, &[&[3, 5, dim], &[dim]], 1e-5, |t| {
            bias_gelu(&t[0], &t[1])
        });
    }
    both(
        "linear",
        &gpu,
        &[&[3, 5, 32], &[48, 32], &[48]],
        1e-3,
        |t| linear(&t[0], &t[1], Some(&t[2])),
    );
    both("cross-entropy", &gpu, &[&[5, 300]], 1e-5, |t| {
        cross_entropy(&t[0], vec![1, 299, 0, 7, 7], 0.1)
    });
    both("gathered rows", &gpu, &[&[6, 36]], 0.0, |t| {
        gather_rows(&t[0], vec![4, 0, 5])
    });
    let places = vec![2, 0, 1, 3, 3, 1, 0, 2];
    both("restored patches", &gpu, &[&[2, 3, 20], &[20]], 1e-6, |t| {
        restore_patches(&t[0], &t[1], places.clone())
    });
    both("attention", &gpu, &[&[2, 70, 3 * 2 * 32]], 2e-2, |t| {
        attention(&t[0], 2)
    });
    let images = Tensor::from_vec(formula(1, 2 * 3 * 64, 1.0), (2, 3, 8, 8), &Device::Cpu).unwrap();
    let found = patchify(&images.to_device(&gpu).unwrap(), 4, Some(vec![5, 0])).unwrap();
    let expected = patchify(&images, 4, Some(vec![5, 0])).unwrap();
    assert_near("patches", &found, &expected, 0.0);
}

#[test]
fn a_block_on_a_gpu_equals_that_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let shapes = shapes(32);
    let mut all: Vec<&[usize]> = vec![&[2, 9, 32]];
    all.extend(shapes.iter().map(Vec::as_slice));
    for only in [None, Some(vec![3, 17, 0])] {
        both("block", &gpu, &all, 2e-2, |t| {
            let settings = Block {
                parameters: std::array::from_fn(|i| t[i + 1].clone()),
                heads: 2,
                eps: 1e-6,
                scales: [None, None],
                only: only.clone(),
                recompute: false,
                composed: false,
                packs: Packs::default(),
            };
            // The CPU also composes the block of single operations, whose gradients are in the graph.
            crate::ops::block::composed(&t[0], &settings)
        });
    }
    let x = Tensor::from_vec(formula(3, 64, 1.0), (1, 2, 32), &gpu).unwrap();
    let parameters: Vec<Tensor> = shapes
        .iter()
        .map(|s| Tensor::zeros(s.as_slice(), x.dtype(), &gpu).unwrap())
        .collect();
    let settings = Block {
        parameters: parameters.try_into().unwrap(),
        heads: 2,
        eps: 1e-6,
        scales: [None, None],
        only: None,
        recompute: false,
        composed: false,
        packs: Packs::default(),
    };
    // With zero weights, only the residual remains.
    assert_near("residual", &block(&x, settings, None).unwrap(), &x, 0.0);
}
