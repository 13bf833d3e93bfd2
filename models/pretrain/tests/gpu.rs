//! Masked loss and pretraining on a GPU, compared with the CPU. These tests run only if `TESSERA_GPU` is set.

use candle_core::{Device, Tensor};
use tessera_testing::{assert_near, formula, gpu_is_requested};

use crate::pretrain::{Mask, PretrainConfig, PretrainData, masked_loss, pretrain};
use crate::testing::set_by_formula;
use crate::vit::{self, Pass, Preset, VitConfig};
use crate::{Compute, Groups, ParamStore, Precision, RunContext, TargetSpec, Targets};

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

/// Images, on a device, and ids computed from the image's index.
struct FromIndex(Device);

impl PretrainData for FromIndex {
    fn len(&self) -> usize {
        48
    }

    fn shard(&self, _: usize, indices: &[usize]) -> crate::Result<(Tensor, Targets)> {
        let (count, cpu) = (indices.len(), &Device::Cpu);
        let images = indices
            .iter()
            .flat_map(|i| formula(7 + *i as u32, 3 * 32 * 32, 1.0));
        let images = Tensor::from_vec(images.collect(), (count, 3, 32, 32), cpu)?;
        let images = images.to_device(&self.0)?;
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
fn masked_loss_and_gradients_on_a_gpu_match_the_cpu() {
    if !gpu_is_requested() {
        return;
    }
    let (vit, params) = small();
    let masks: Vec<Mask> = (0..3)
        .map(|image| Mask::draw(1, 0, image, 64, 0.75))
        .collect();
    let (images, ids) = FromIndex(Device::Cpu).shard(0, &[0, 1, 2]).unwrap();
    let grouped = |sizes: [usize; 2]| {
        let codes = (0..3 * 64_u32).flat_map(|i| sizes.map(|size| i % size as u32));
        let codes = Tensor::from_vec(codes.collect(), (3, 64, 2), &Device::Cpu).unwrap();
        Targets::Codes(codes, Groups::new(&sizes).unwrap())
    };
    for targets in [ids, grouped([5, 5]), grouped([4, 6])] {
        check_loss_and_gradients((&vit, &params), &images, &targets, &masks);
    }
}

fn check_loss_and_gradients(
    (vit, params): (&VitConfig, &ParamStore),
    images: &Tensor,
    targets: &Targets,
    masks: &[Mask],
) {
    let run = |compute: &Compute| {
        let params = params.copy(|_| true).unwrap().on(compute).unwrap();
        let pass = Pass::training(false);
        let loss = masked_loss(&params, vit, images, targets, masks, 0.0, &pass).unwrap();
        let grads = pass.gradients(&loss).unwrap();
        let grads = params.leaves().map(|(name, leaf)| {
            let grad = grads
                .get(leaf)
                .unwrap_or_else(|| panic!("{name} has no gradient"));
            (name.to_owned(), grad.clone())
        });
        (loss, grads.collect::<Vec<_>>())
    };
    for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 5e-2)] {
        let (loss, grads) = run(&Compute::cuda(precision).unwrap());
        let (expected, expected_grads) = run(&Compute::cpu(precision).composed());
        assert_near("loss", &loss, &expected, allowed / 10.0);
        for ((name, found), (_, expected)) in grads.iter().zip(&expected_grads) {
            // A key's bias changes no attention weight: its gradient is rounding noise.
            if !name.ends_with("qkv.bias") {
                assert_near(name, found, expected, allowed);
            }
        }
    }
}

#[test]
fn pretraining_on_a_gpu_has_the_losses_of_the_cpu() {
    if !gpu_is_requested() {
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
        residual_stream: Precision::Bf16,
        seed: 0,
    };
    let losses_of = |compute: Compute, images: Device| {
        let losses = std::sync::Mutex::new(Vec::new());
        let cx = RunContext {
            progress: &|at| losses.lock().unwrap().push(at.loss),
            compute,
            ..RunContext::default()
        };
        let target = TargetSpec::Ids { codebook_size: 10 };
        pretrain(&vit, target, &config, &FromIndex(images), &cx).unwrap();
        losses.into_inner().unwrap()
    };
    let losses = |compute| losses_of(compute, Device::Cpu);
    for (precision, allowed) in [(Precision::F32, 1e-3), (Precision::Bf16, 2e-2)] {
        let expected = losses(Compute::cpu(precision).composed());
        let found = losses(Compute::cuda(precision).unwrap());
        assert_eq!(found.len(), 12);
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() <= allowed * e, "{precision:?}: {f} {e}");
        }
        // Training on a GPU is deterministic.
        assert_eq!(found, losses(Compute::cuda(precision).unwrap()));
        // Images that are on the GPU are copied there.
        let compute = Compute::cuda(precision).unwrap();
        let there = compute.device().clone();
        assert_eq!(found, losses_of(compute, there));
    }
}
