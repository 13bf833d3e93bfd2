//! The step on a device, emulated on the host, beside the CPU's; and counted on a ledger, at full size.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device as CandleDevice, Tensor};
use tessera_kernels::device::launcher::Device;
use tessera_kernels::device::ledger::Ledger;
use tessera_testing::{emulated, relative_error, tell, under_test};

use super::model::{Numbers, Resident};
use super::{Shape, counts, memory};
use crate::error::Result;
use crate::gradients::Gradient;
use crate::objective::Objective as _;
use crate::optim::{AdamW, Group, Optimizer as _, adamw_steps};
use crate::params::ParamStore;
use crate::pretrain::config::{BETAS, slots};
use crate::pretrain::masks::{Mask, Masked};
use crate::pretrain::{MaskedPrediction, PretrainConfig, PretrainData, pretrain};
use crate::rng::keyed_rng;
use crate::targets::{Groups, TargetSpec, Targets};
use crate::testing::{formula, gradients, set_by_formula, values};
use crate::vit::{self, Preset, VitConfig};
use crate::{Compute, Precision, Progress, RunContext};
use rand::Rng as _;

mod counted;
mod recorded;

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
        34
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
        epochs: 2,
        batch: 17,
        ..crate::pretrain::tests::config()
    }
}

fn with() -> Numbers {
    Numbers::of(&config())
}

fn shape() -> Shape {
    Shape {
        mask_ratio: 0.75,
        residual_stream: Precision::Bf16,
    }
}

fn model(vit: &VitConfig, spec: TargetSpec) -> ParamStore {
    let encoder = vit::encoder(vit, 3).unwrap();
    let params = vit::decoder(encoder, vit, spec.head_width(), 3).unwrap();
    set_by_formula(&params, 0.1);
    params
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
            let (loss, found) =
                super::gradients(&device, (&vit, &params), with(), prepared).unwrap();
            let close = (loss - expected_loss).abs() < 5e-3 * expected_loss;
            assert!(close, "{loss} {expected_loss}");
            for (((name, _), found), expected) in params.trainable().zip(&found).zip(&expected) {
                let off = relative_error(found, expected);
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

/// A part of two images.
fn part(spec: TargetSpec) -> Masked {
    let (images, targets) = Noise(spec).shard(0, &[0, 1]).unwrap();
    let masks = [0, 1].map(|image| Mask::draw(0, 0, image, 16, 0.75));
    Masked {
        images,
        targets,
        masks: masks.to_vec(),
        share: 1.0,
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_noticed() {
    let Some(device) = under_test() else {
        return;
    };
    let (vit, spec) = (small(), specs()[0]);
    let params = model(&vit, spec);
    let mut resident = Resident::new(&device, &vit, &params, with()).unwrap();
    let bias = resident.weights.gradient_of("decoder_embed.bias").unwrap();
    // The next step's gradient replaces the one that is not finite.
    for spoilt in [None, Some(f32::INFINITY), Some(f32::NAN), None] {
        resident.begin(1).unwrap();
        resident
            .part(resident.prepare(vec![part(spec)]).unwrap())
            .unwrap();
        if let Some(number) = spoilt {
            device.write(&bias.part(4..5), &[number]).unwrap();
        }
        assert_eq!(resident.loss().unwrap().is_nan(), spoilt.is_some());
    }
}

/// The same gradients move values and moments as on the CPU, with each parameter's own decay.
#[test]
fn an_update_is_that_of_the_cpu() {
    let Some(device) = under_test() else {
        return;
    };
    let (vit, spec) = (small(), specs()[0]);
    let params = model(&vit, spec);
    let resident = Resident::new(&device, &vit, &params, with()).unwrap();
    let config = PretrainConfig {
        weight_decay: 0.5,
        ..config()
    };
    let slots = slots(&params, &config);
    let groups: Vec<Group> = slots.iter().map(|slot| slot.group).collect();
    let start: Vec<Vec<f32>> = slots.iter().map(|s| values(s.var.as_tensor())).collect();
    let mut cpu = AdamW::new(slots, BETAS, &Compute::default()).unwrap();
    for count in 1..=3 {
        let lists = (count as u32 * 100..).zip(&start);
        let lists: Vec<Vec<f32>> = lists
            .map(|(salt, of)| formula(salt, of.len(), 0.1))
            .collect();
        for ((name, _), list) in params.trainable().zip(&lists) {
            let to = resident.weights.gradient_of(name).unwrap();
            device.write(&to, list).unwrap();
        }
        let steps = adamw_steps(groups.iter().copied(), BETAS, count, 0.02);
        resident.update(&steps).unwrap();
        cpu.step(&Gradient::Lists(lists), 0.02).unwrap();
    }
    let near = |found: &[f32], expected: &[f32]| {
        let pairs = found.iter().zip(expected);
        pairs.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max) <= 1e-6
    };
    let (moments, _) = cpu.state().unwrap();
    for which in 0..3 {
        let found = resident.weights.rows(which).unwrap();
        for (at, (name, var)) in params.trainable().enumerate() {
            let expected = match which {
                0 => values(var.as_tensor()),
                moment => moments[(moment - 1) * found.len() + at].2.clone(),
            };
            assert!(near(&found[at], &expected), "{name}, {which}");
            assert!(
                which > 0 || !near(&expected, &start[at]),
                "{name} has not moved"
            );
        }
    }
}

#[test]
fn an_id_without_a_class_and_values_of_another_width_are_refused() {
    let Some(device) = under_test() else {
        return;
    };
    let vit = small();
    for (trained, given, expected) in [
        (
            TargetSpec::Ids { codebook_size: 4 },
            specs()[0],
            "found the id 4, expected one of 0..4",
        ),
        (
            TargetSpec::Values { dim: 24 },
            specs()[1],
            "expected 384 numbers per image",
        ),
    ] {
        let params = model(&vit, trained);
        let resident = Resident::new(&device, &vit, &params, with()).unwrap();
        let error = resident
            .prepare(vec![part(given)])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Steps of a run: two epochs of two batches.
const STEPS: usize = 4;

/// The parameters before the first step.
fn initial(spec: TargetSpec) -> Vec<Vec<f32>> {
    let (vit, seed) = (small(), config().seed);
    let encoder = vit::encoder(&vit, seed).unwrap();
    let params = vit::decoder(encoder, &vit, spec.head_width(), seed).unwrap();
    let all = params.variables();
    all.map(|(_, var)| values(var.as_tensor())).collect()
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

/// Memory for a part of one shard, 16 images: a step of 17 images has two parts.
fn for_one_shard(spec: TargetSpec) -> usize {
    let (vit, device) = (small(), Ledger::default().device());
    let params = model(&vit, spec);
    let images = |memory: &usize| {
        let fits = memory::Fits {
            device: &device,
            memory: *memory,
            most: 32,
            least: 16,
        };
        memory::images_at_once(&fits, (&vit, &params), spec, shape()).ok()
    };
    let mut sizes = (1..).map(|at| at << 16);
    sizes.find(|memory| images(memory).is_some()).unwrap()
}

/// Relative distance of the parameters from others, as a share of their movement since the start.
fn distance(found: &[Vec<f32>], expected: &[Vec<f32>], start: &[Vec<f32>]) -> f64 {
    let between = |a: &[Vec<f32>], b: &[Vec<f32>]| -> f64 {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    between(found, expected) / between(expected, start)
}

#[test]
fn training_follows_the_cpu_resumes_and_continues_on_it() {
    let Some(device) = under_test() else {
        return;
    };
    let here = Compute::cpu(Precision::Bf16);
    for spec in [specs()[0], specs()[1]] {
        let there = Compute::default().resident_on(device.clone(), for_one_shard(spec));
        let (expected, theirs) = run(&here, spec, None, 100);
        let (losses, params) = run(&there, spec, None, 100);
        let (params, theirs) = (params.unwrap(), theirs.unwrap());
        assert_eq!((losses.len(), expected.len()), (STEPS, STEPS));
        let near = |found: &[f64]| {
            let pairs = found.iter().zip(&expected);
            let near = pairs.clone().all(|(f, e)| (f - e).abs() < 0.01 * e);
            assert!(near && found.len() == STEPS, "{found:?} {expected:?}");
        };
        near(&losses);
        // AdamW moves numbers of small gradients by the whole rate, whatever their rounding.
        let start = initial(spec);
        let off = distance(&params, &theirs, &start);
        assert!(
            off < 0.25,
            "{spec:?}: the parameters are {off} of their movement apart"
        );
        if spec == specs()[1] {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (mut all, mut whole) = (Vec::new(), None);
        for stops in [1, 2, 100] {
            let (losses, params) = run(&there, spec, Some(dir.path()), stops);
            all.extend(losses);
            whole = params.ok();
        }
        assert_eq!(
            all, losses,
            "an interrupted run repeats nothing and skips nothing"
        );
        assert!(params == whole.unwrap(), "{spec:?}: the bytes differ");
        // The state of one device is the state of another, moments included.
        for (first, then) in [(&there, &here), (&here, &there)] {
            let dir = tempfile::tempdir().unwrap();
            let (mut both, _) = run(first, spec, Some(dir.path()), 2);
            let (rest, params) = run(then, spec, Some(dir.path()), 100);
            both.extend(rest);
            near(&both);
            assert!(distance(&params.unwrap(), &theirs, &start) < 0.25);
        }
    }
}

#[test]
fn parts_follow_the_memory_and_what_is_not_supported_is_refused() {
    let (vit, spec) = (small(), specs()[0]);
    let params = model(&vit, spec);
    let images = |device: &Device, memory, most| {
        let fits = memory::Fits {
            device,
            memory,
            most,
            least: 16,
        };
        memory::images_at_once(&fits, (&vit, &params), spec, shape())
    };
    let ledger = Ledger::default().device();
    let of = |memory| images(&ledger, memory, 1 << 10).unwrap();
    let (few, many) = (of(16 << 20), of(32 << 20));
    assert!(
        few >= 16 && many > 2 * few && many < 1 << 10,
        "{few} {many}"
    );
    assert_eq!(of(1 << 40), 1 << 10, "no part is larger than the step");
    // A part of that many images needs no more than was asked for.
    let mut counted = memory::Counted::new(&vit, &params, spec, shape()).unwrap();
    counted.step(many).unwrap();
    assert!(counted.ledger.most_bytes() <= 32 << 20);

    let error = images(&ledger, 1 << 10, 1 << 10).unwrap_err().to_string();
    assert!(
        error.contains("for 16 images at once") && error.contains("smaller backbone"),
        "{error}"
    );
    if let Some(device) = emulated() {
        // It says that 1 GiB is free.
        let error = images(&device, 64 << 30, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("1.0 GiB free; use"), "{error}");
    }
    let narrow = VitConfig {
        preset: vit::preset("nano").unwrap(),
        ..vit
    };
    let wide = PretrainConfig {
        residual_stream: Precision::F32,
        ..config()
    };
    let cx = RunContext {
        compute: Compute::cpu(Precision::Bf16).composed(),
        ..RunContext::default()
    };
    let trained = pretrain(&narrow, spec, &wide, &Noise(spec), &cx);
    let error = trained.err().unwrap().to_string();
    assert!(error.contains("residual_stream: f32"), "{error}");
    let error = counts(&narrow, spec, shape(), 8).unwrap_err().to_string();
    assert!(error.contains("nano"), "{error}");
}
