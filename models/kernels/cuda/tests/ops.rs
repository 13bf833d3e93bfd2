//! Candle's operations on a GPU against the same on the CPU, output and every gradient; then a whole masked loss. Only where
//! `TESSERA_GPU` asks for it.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::kernels::block::{Block, block, shapes};
use crate::kernels::patchify::patchify;
use crate::kernels::{
    attention, bias_gelu, cross_entropy, gather_rows, layer_norm, linear, restore_patches,
};
use crate::pretrain::{Mask, PretrainConfig, PretrainData, masked_loss, pretrain};
use crate::testing::{formula, set_by_formula};
use crate::vit::{self, Pass, Preset, VitConfig};
use crate::{Compute, ParamStore, Precision, RunContext, TargetSpec, Targets};

fn gpu() -> Option<Device> {
    super::gpu::asked_for().then(|| Device::new_cuda(0).unwrap())
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.flatten_all().unwrap();
    tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// Root of the mean square of differences over that of what is expected: one number per tensor, a NaN fails.
fn assert_near(what: &str, found: &Tensor, expected: &Tensor, allowed: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (flat(found), flat(expected));
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| square(f - e))
        .sum();
    let whole: f64 = expected.iter().map(|e| square(*e)).sum();
    let off = (off / whole.max(1e-12)).sqrt();
    assert!(off <= allowed, "{what}: off by {off}, {allowed} allowed");
}

/// Output and gradients of an operation on variables of these shapes, on both devices.
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
fn operations_on_a_gpu_are_those_on_the_cpu() {
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
fn a_block_on_a_gpu_is_that_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let shapes = shapes(32);
    let mut all: Vec<&[usize]> = vec![&[2, 9, 32]];
    all.extend(shapes.iter().map(Vec::as_slice));
    for only in [None, Some(vec![3, 17, 0])] {
        both("block", &gpu, &all, 2e-2, |t| {
            let made = Block {
                parameters: std::array::from_fn(|i| t[i + 1].clone()),
                heads: 2,
                eps: 1e-6,
                scales: [None, None],
                only: only.clone(),
                recompute: false,
                composed: false,
            };
            // On the CPU too out of single operations, whose gradients are in the graph.
            crate::kernels::block::composed(&t[0], &made)
        });
    }
    let x = Tensor::from_vec(formula(3, 64, 1.0), (1, 2, 32), &gpu).unwrap();
    let parameters: Vec<Tensor> = shapes
        .iter()
        .map(|s| Tensor::zeros(s.as_slice(), x.dtype(), &gpu).unwrap())
        .collect();
    let made = Block {
        parameters: parameters.try_into().unwrap(),
        heads: 2,
        eps: 1e-6,
        scales: [None, None],
        only: None,
        recompute: false,
        composed: false,
    };
    // All weights zero: what is left is the residual.
    assert_near("residual", &block(&x, made, None).unwrap(), &x, 0.0);
}

static SMALL: Preset = Preset {
    name: "small",
    width: 64,
    depth: 2,
    heads: 2,
    decoder_width: 32,
    decoder_depth: 2,
    decoder_heads: 2,
};

fn small() -> (VitConfig, ParamStore) {
    let vit = VitConfig {
        preset: &SMALL,
        image_size: 32,
        patch_size: 4,
    };
    let params = vit::encoder(&vit, 3).unwrap();
    let params = vit::decoder(params, &vit, 10, 3).unwrap();
    set_by_formula(&params, 0.1);
    (vit, params)
}

/// Images and ids of an image's index.
struct Made;

impl PretrainData for Made {
    fn len(&self) -> usize {
        48
    }

    fn shard(&self, _: usize, indices: &[usize]) -> crate::Result<(Tensor, Targets)> {
        let (count, cpu) = (indices.len(), &Device::Cpu);
        let images = indices
            .iter()
            .flat_map(|i| formula(7 + *i as u32, 3 * 32 * 32, 1.0));
        let images = Tensor::from_vec(images.collect(), (count, 3, 32, 32), cpu)?;
        let ids: Vec<u32> = indices
            .iter()
            .flat_map(|i| vec![*i as u32 % 10; 64])
            .collect();
        Ok((
            images,
            Targets::Ids(Tensor::from_vec(ids, (count, 64), cpu)?),
        ))
    }
}

#[test]
fn a_masked_loss_and_every_gradient_on_a_gpu_are_those_on_the_cpu() {
    if gpu().is_none() {
        return;
    }
    let (vit, params) = small();
    let masks: Vec<Mask> = (0..3)
        .map(|image| Mask::draw(1, 0, image, 64, 0.75))
        .collect();
    let run = |compute: &Compute| {
        let params = params.copy(|_| true).unwrap().on(compute).unwrap();
        let (images, ids) = Made.shard(0, &[0, 1, 2]).unwrap();
        let pass = Pass::training(false);
        let loss = masked_loss(&params, &vit, &images, &ids, &masks, 0.0, &pass).unwrap();
        let grads = pass.gradients(&loss).unwrap();
        let grads = params.leaves().map(|(name, leaf)| {
            let grad = grads
                .get(leaf)
                .unwrap_or_else(|| panic!("{name} got no gradient"));
            (name.to_owned(), grad.clone())
        });
        (loss, grads.collect::<Vec<_>>())
    };
    for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 5e-2)] {
        let (loss, grads) = run(&Compute::cuda(precision).unwrap());
        let (expected, expected_grads) = run(&Compute::cpu(precision).composed());
        assert_near("loss", &loss, &expected, allowed / 10.0);
        for ((name, found), (_, expected)) in grads.iter().zip(&expected_grads) {
            // A key's bias changes no weight of the attention: its gradient is rounding.
            if !name.ends_with("qkv.bias") {
                assert_near(name, found, expected, allowed);
            }
        }
    }
}

#[test]
fn a_pretraining_on_a_gpu_has_the_losses_of_the_cpu() {
    if gpu().is_none() {
        return;
    }
    let (vit, _) = small();
    let config = PretrainConfig {
        epochs: 6,
        batch: 24,
        lr: 1e-3,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: 0.75,
        label_smoothing: 0.0,
        gradient_checkpointing: false,
        seed: 0,
    };
    let losses = |compute: Compute| {
        let losses = std::sync::Mutex::new(Vec::new());
        let cx = RunContext {
            state: None,
            checkpoint_every: std::time::Duration::MAX,
            progress: &|at| losses.lock().unwrap().push(at.loss),
            interrupted: &|| false,
            compute,
            workers: 0,
        };
        let target = TargetSpec::Ids { codebook_size: 10 };
        pretrain(&vit, target, &config, &Made, &cx).unwrap();
        losses.into_inner().unwrap()
    };
    for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 2e-2)] {
        let expected = losses(Compute::cpu(precision).composed());
        let found = losses(Compute::cuda(precision).unwrap());
        assert_eq!(found.len(), 12);
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() <= allowed * e, "{precision:?}: {f} {e}");
        }
        // Twice the same.
        assert_eq!(found, losses(Compute::cuda(precision).unwrap()));
    }
}
