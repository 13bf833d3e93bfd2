//! The step on a device, emulated on the host, beside the CPU's; and counted on a ledger, at full size.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device as CandleDevice;
use tessera_testing::{tell, under_test};

use super::*;
use crate::objective::Objective as _;
use crate::pretrain::{Mask, MaskedPrediction, PretrainConfig, PretrainData, pretrain};
use crate::rng::keyed_rng;
use crate::targets::Groups;
use crate::testing::{gradients, set_by_formula, values};
use crate::vit::{self, Preset};
use crate::{Compute, Precision, Progress, RunContext};
use rand::Rng as _;

static SMALL: Preset = Preset {
    name: "small",
    width: 32,
    depth: 2,
    heads: 2,
    decoder_width: 16,
    decoder_depth: 2,
    decoder_heads: 1,
};

fn small() -> VitConfig {
    VitConfig {
        preset: &SMALL,
        image_size: 16,
        patch_size: 4,
    }
}

fn specs() -> [TargetSpec; 3] {
    [
        TargetSpec::Ids { codebook_size: 5 },
        TargetSpec::Values { dim: 48 },
        TargetSpec::Codes {
            groups: Groups::new(&[3, 3]).unwrap(),
        },
    ]
}

/// Images of noise with targets of a kind.
struct Noise(TargetSpec);

impl PretrainData for Noise {
    fn len(&self) -> usize {
        24
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> Result<(Tensor, Targets)> {
        let count = indices.len();
        let mut noise = Vec::new();
        for index in indices {
            let mut rng = keyed_rng(5, "noise", epoch as u64, *index as u64);
            noise.extend((0..768).map(|_| rng.random_range(-1.0..1.0_f32)));
        }
        let cpu = &CandleDevice::Cpu;
        let codes = |groups: usize, k: u32| {
            let codes_of = |image: usize| (0..16 * groups).map(move |i| (image + i * 7) as u32 % k);
            let codes: Vec<u32> = indices.iter().copied().flat_map(codes_of).collect();
            Tensor::from_vec(codes, (count, 16, groups), cpu)
        };
        let targets = match self.0 {
            TargetSpec::Ids { .. } => Targets::Ids(codes(1, 5)?.squeeze(2)?),
            TargetSpec::Codes { groups } => Targets::Codes(codes(2, 3)?, groups),
            TargetSpec::Values { .. } => {
                Targets::Values(Tensor::from_vec(noise.clone(), (count, 16, 48), cpu)?)
            }
        };
        Ok((Tensor::from_vec(noise, (count, 3, 16, 16), cpu)?, targets))
    }
}

fn config() -> PretrainConfig {
    PretrainConfig {
        epochs: 3,
        batch: 8,
        lr: 1e-3,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: 0.75,
        label_smoothing: 0.1,
        gradient_checkpointing: false,
        seed: 0,
    }
}

fn model(vit: &VitConfig, spec: TargetSpec) -> ParamStore {
    let encoder = vit::encoder(vit, 3).unwrap();
    let params = vit::decoder(encoder, vit, spec.head_width(), 3).unwrap();
    set_by_formula(&params, 0.1);
    params
}

/// Relative error by the root mean square.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f32| f64::from(v).powi(2);
    let off = found.iter().zip(expected).map(|(f, e)| square(f - e));
    let whole: f64 = expected.iter().map(|e| square(*e)).sum();
    (off.sum::<f64>() / whole).sqrt()
}

#[test]
fn loss_and_every_gradient_are_those_of_f32_in_one_part_and_in_several() {
    let Some(device) = under_test() else {
        return;
    };
    for spec in specs() {
        let (vit, config, data) = (small(), config(), Noise(spec));
        let params = model(&vit, spec);
        let objective = MaskedPrediction {
            vit: &vit,
            config: &config,
            data: &data,
            params: &params,
        };
        let batch: Vec<usize> = (0..8).collect();
        let (expected_loss, expected) = gradients(&params, &objective, &batch);
        for parts in [&[8][..], &[2, 5, 1]] {
            let mut first = 0;
            let prepared = parts.iter().map(|count| {
                let shard: Vec<usize> = (first..first + count).collect();
                first += count;
                objective.prepare(0, 0, &batch, &shard).unwrap()
            });
            let prepared = prepared.collect();
            let (loss, found) = super::gradients(&device, (&vit, &params), 0.1, prepared).unwrap();
            let close = (loss - expected_loss).abs() < 5e-3 * expected_loss;
            assert!(close, "{loss} {expected_loss}");
            for (((name, _), found), expected) in params.trainable().zip(&found).zip(&expected) {
                let off = error(found, expected);
                // A key's bias changes no attention weight, so a third of this gradient is rounding noise.
                let allowed = if name.ends_with("qkv.bias") {
                    0.1
                } else {
                    0.05
                };
                assert!(
                    off > 0.0 && off < allowed,
                    "{spec:?}, {parts:?}, {name}: {off}"
                );
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_noticed() {
    let Some(device) = under_test() else {
        return;
    };
    let (vit, spec) = (small(), specs()[0]);
    let params = model(&vit, spec);
    let mut resident = Resident::new(&device, &vit, &params, 0.1).unwrap();
    let data = Noise(spec);
    let (images, targets) = data.shard(0, &[0, 1]).unwrap();
    for scale in [1.0, f64::NAN, 1.0] {
        resident.begin(1).unwrap();
        let masks = [0, 1].map(|image| Mask::draw(0, 0, image, 16, 0.75));
        let shard = Masked {
            images: (&images * scale).unwrap(),
            targets: targets.clone(),
            masks: masks.to_vec(),
            share: 1.0,
        };
        resident.part(vec![shard]).unwrap();
        // The next step's gradient replaces this one.
        assert_eq!(resident.loss().unwrap().is_nan(), scale.is_nan());
    }
}

/// Pretrains and returns the losses and the parameters; after `stops` polls it is interrupted.
fn run(
    compute: &Compute,
    spec: TargetSpec,
    state: Option<&std::path::Path>,
    stops: usize,
) -> (Vec<f64>, Result<Vec<Vec<f32>>>) {
    let (losses, polls) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let progress = |at: &Progress| losses.lock().unwrap().push(at.loss);
    let interrupted = || polls.fetch_add(1, Ordering::SeqCst) >= stops;
    let cx = RunContext {
        state,
        progress: &progress,
        interrupted: &interrupted,
        compute: compute.clone(),
        ..RunContext::default()
    };
    let done = pretrain(&small(), spec, &config(), &Noise(spec), &cx);
    let params = done.map(|done| {
        let all = done.params.variables();
        all.map(|(_, var)| values(var.as_tensor())).collect()
    });
    (losses.into_inner().unwrap(), params)
}

#[test]
fn training_follows_the_cpu_resumes_and_continues_on_it() {
    let Some(device) = under_test() else {
        return;
    };
    let there = Compute::default().resident_on(device, 1 << 30);
    let here = Compute::cpu(Precision::Bf16);
    for spec in [specs()[0], specs()[1]] {
        let ((expected, _), (losses, params)) =
            (run(&here, spec, None, 100), run(&there, spec, None, 100));
        assert_eq!(losses.len(), 9);
        for (found, expected) in losses.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 0.01 * expected,
                "{losses:?} {expected:?}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let (mut all, mut whole) = (Vec::new(), None);
        for stops in [2, 4, 100] {
            let (losses, params) = run(&there, spec, Some(dir.path()), stops);
            all.extend(losses);
            whole = params.ok();
        }
        assert_eq!(
            all, losses,
            "an interrupted run repeats nothing and skips nothing"
        );
        assert!(
            params.unwrap() == whole.unwrap(),
            "{spec:?}: the bytes differ"
        );
        // The state of one device is the state of another.
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = run(&there, spec, Some(dir.path()), 4);
        let (rest, _) = run(&here, spec, Some(dir.path()), 100);
        let both = first.into_iter().chain(rest);
        for (found, expected) in both.zip(&expected) {
            assert!((found - expected).abs() < 0.01 * expected, "{expected:?}");
        }
    }
}

#[test]
fn parts_follow_the_memory_and_a_model_that_does_not_fit_is_refused() {
    let device = tessera_kernels::device::ledger::Ledger::default().device();
    let (vit, spec) = (small(), specs()[0]);
    let params = model(&vit, spec);
    let images = |memory| {
        let model = (&vit, &params);
        memory::images_at_once(&device, memory, model, spec, 0.75)
    };
    let (few, many) = (images(64 << 20).unwrap(), images(256 << 20).unwrap());
    assert!(few > 16 && many > 4 * few && many < 6 * few, "{few} {many}");
    let error = images(1 << 10).unwrap_err().to_string();
    assert!(
        error.contains("needs") && error.contains("smaller backbone"),
        "{error}"
    );
    let narrow = VitConfig {
        preset: vit::preset("nano").unwrap(),
        ..vit
    };
    let error = counts(&narrow, spec, 0.75, 8).unwrap_err().to_string();
    assert!(error.contains("nano"), "{error}");
}

/// The step of ViT-S/16 at 224 px in parts of 4096 images, as `bench speed pretrain --ledger` prints it.
#[test]
fn a_step_of_vit_s_has_few_launches_and_little_traffic() {
    let vit = VitConfig {
        preset: vit::preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let spec = TargetSpec::Ids { codebook_size: 100 };
    let counts = counts(&vit, spec, 0.75, 4096).unwrap();
    let units = counts.bytes as f64 / counts.unit as f64;
    tell(&format!(
        "ViT-S/16, 224 px, 4096 images: {} launches, {units:.1} units of traffic, {:.1} GB of memory",
        counts.launches,
        counts.most_bytes as f64 / 1e9
    ));
    assert!(counts.launches <= 950, "{}", counts.launches);
    assert!(units <= 115.0, "{units}");
    assert_eq!(counts.lines["wait"].calls, 1);
    assert!(!counts.lines.contains_key("copy"));
}
