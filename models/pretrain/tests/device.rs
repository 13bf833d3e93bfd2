//! The code path of a device, tested on the CPU: single operations, gradients and moments in tensors, a batch in parts, bf16.

use super::*;
use crate::Precision;
use crate::testing::{fixture, numbers};
use tessera_testing::relative_error;

/// All code paths of a step in f32.
fn computes() -> [Compute; 4] {
    let composed = Compute::default().composed();
    [
        Compute::default(),
        composed.clone(),
        // A part is one shard, or the whole batch.
        composed.clone().within(1),
        composed.within(1 << 30),
    ]
}

#[test]
fn ten_steps_match_pytorch() {
    for compute in computes() {
        for (name, ids) in [("pretrain_ids", true), ("pretrain_values", false)] {
            ten_steps(name, ids, &compute);
        }
    }
}

fn losses_of(config: &PretrainConfig, ids: bool, compute: Compute) -> Vec<f64> {
    let losses = std::sync::Mutex::new(Vec::new());
    let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
    let cx = RunContext {
        progress: &progress,
        compute,
        ..context(None, &|| false)
    };
    pretrain(&tiny(), spec(ids), config, &Random { ids }, &cx).unwrap();
    losses.into_inner().unwrap()
}

#[test]
fn a_batch_in_parts_has_the_losses_of_the_whole() {
    for ids in [true, false] {
        let [parallel, rest @ ..] = computes();
        let expected = losses_of(&config(), ids, parallel);
        assert_eq!(expected.len(), 6);
        for compute in rest {
            let found = losses_of(&config(), ids, compute);
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() <= 1e-5 * e.abs(), "{f} {e}");
            }
        }
    }
}

#[test]
fn parts_are_as_large_as_memory_allows() {
    let vit = VitConfig {
        preset: vit::preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let task = Task::Pretrain { kept: 49, head: 50 };
    let at_once = |bytes| {
        Compute::cpu(Precision::Bf16)
            .within(bytes)
            .images_at_once(&vit, task)
    };
    assert_eq!(Compute::default().images_at_once(&vit, task), None);
    assert_eq!(at_once(1), Some(1), "the minimum is one image");
    // No matrix has 2^31 numbers: the largest of an image are the weights of the decoder's attention, 8 heads over 197 tokens.
    assert_eq!(at_once(1 << 50), Some(i32::MAX as usize / (8 * 197 * 197)));
    let (small, large) = (at_once(8 << 30).unwrap(), at_once(80 << 30).unwrap());
    assert!(
        small > 64 && large > 1024 && large > 9 * small,
        "{small} {large}"
    );
}

/// Bounds the error of each parameter's gradient by its norm relative to the norm of the f32 gradient.
#[test]
fn bf16_gradients_are_close_to_f32() {
    for ids in [true, false] {
        let vit = tiny();
        let of = |compute: &Compute| {
            let params = vit::encoder(&vit, 3).unwrap();
            let params = vit::decoder(params, &vit, spec(ids).head_width(), 3).unwrap();
            set_by_formula(&params, 0.1);
            let params = params.on(compute).unwrap();
            let objective = MaskedPrediction {
                vit: &vit,
                config: &config(),
                data: &Random { ids },
                params: &params,
            };
            let batch: Vec<usize> = (0..32).collect();
            let (loss, grads) = gradients(&params, &objective, &batch);
            let names = params.trainable().map(|(name, _)| name.to_owned());
            (loss, names.zip(grads).collect::<Vec<_>>())
        };
        let (expected_loss, expected) = of(&Compute::default());
        for compute in [
            Compute::cpu(Precision::Bf16),
            Compute::cpu(Precision::Bf16).within(1 << 30),
        ] {
            let (loss, found) = of(&compute);
            assert!((loss - expected_loss).abs() < 5e-3 * expected_loss);
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                assert!(
                    found.iter().any(|g| *g != 0.0),
                    "{name} has a zero gradient"
                );
                let off = relative_error(found, expected);
                // A key's bias changes no attention weight, so a third of this gradient is rounding noise.
                let allowed = if name.ends_with("qkv.bias") {
                    0.1
                } else {
                    0.05
                };
                assert!(off <= allowed, "{name}: off by {off}");
            }
        }
    }
}

static SMALL: vit::Preset = vit::Preset {
    name: "small",
    width: 64,
    depth: 4,
    heads: 2,
    decoder_width: 32,
    decoder_depth: 2,
    decoder_heads: 2,
};

/// The data of `tests/fixtures/train/bf16.py`: images whose brightness is the target, the same in every epoch.
struct Bright<'a> {
    vit: &'a VitConfig,
    params: &'a ParamStore,
    ids: bool,
}

impl Objective for Bright<'_> {
    type Prepared = Masked;

    fn recomputes(&self) -> bool {
        false
    }

    fn together(&self) -> Option<usize> {
        None
    }

    fn join(&self, shards: Vec<Masked>) -> Result<Masked> {
        Masked::join(shards, &Device::Cpu)
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        runs(len, self.vit.shard_of(len))
    }

    fn prepare(&self, _: usize, step: usize, batch: &[usize], shard: &[usize]) -> Result<Masked> {
        let numbers = || shard.iter().map(|at| (step % 2 * 32 + at) as u32);
        let bright = |n: u32| 0.5 * (n % 5) as f32 - 1.0;
        let images = numbers().flat_map(|n| {
            let values = formula(1 + n, 768, 1.0).into_iter();
            values.map(move |v| v + bright(n))
        });
        let targets = match self.ids {
            true => {
                let ids: Vec<u32> = numbers().flat_map(|n| [n % 5; 16]).collect();
                Targets::Ids(Tensor::from_vec(ids, (shard.len(), 16), &Device::Cpu)?)
            }
            false => {
                let values = numbers().flat_map(|n| {
                    let values = formula(90_000 + n, 768, 1.0).into_iter();
                    values.map(move |v| 0.25 * v + bright(n))
                });
                Targets::Values(tensor(values.collect(), &[shard.len(), 16, 48]))
            }
        };
        Ok(Masked {
            images: tensor(images.collect(), &[shard.len(), 3, 16, 16]),
            targets,
            masks: numbers().map(mask_by_formula).collect(),
            share: shard.len() as f64 / batch.len() as f64,
        })
    }

    fn loss(&self, shard: Masked, pass: &Pass) -> Result<Tensor> {
        let smoothing = if self.ids { 0.1 } else { 0.0 };
        let (images, targets, masks) = (&shard.images, &shard.targets, &shard.masks);
        let loss = masked_loss(
            self.params,
            self.vit,
            images,
            targets,
            masks,
            smoothing,
            pass,
        )?;
        Ok((loss * shard.share)?)
    }
}

fn sixty_losses(ids: bool, compute: Compute, residual_stream: Precision) -> Vec<f64> {
    let vit = VitConfig {
        preset: &SMALL,
        image_size: 16,
        patch_size: 4,
    };
    let params = vit::encoder(&vit, 0).unwrap();
    let params = vit::decoder(params, &vit, spec(ids).head_width(), 0).unwrap();
    set_by_formula(&params, 0.1);
    let params = match compute.is_resident() {
        true => params,
        false => params.on(&compute).unwrap(),
    };
    let config = PretrainConfig {
        epochs: 30,
        lr: 2e-3,
        residual_stream,
        ..config()
    };
    let objective = Bright {
        vit: &vit,
        params: &params,
        ids,
    };
    let losses = std::sync::Mutex::new(Vec::new());
    let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
    let cx = RunContext {
        progress: &progress,
        compute: compute.clone(),
        ..context(None, &|| false)
    };
    match compute.resident() {
        Some(device) => {
            let (model, settings) = ((&vit, &params), settings(&config, 64));
            resident::pretrain(
                device,
                spec(ids),
                model,
                &objective,
                &config,
                &settings,
                &cx,
            )
        }
        None => fit(&params, &config, 64, &objective, &cx),
    }
    .unwrap();
    losses.into_inner().unwrap()
}

/// Computes the mean relative deviation of a curve from another.
fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let each = found.iter().zip(expected).map(|(f, e)| ((f - e) / e).abs());
    each.sum::<f64>() / found.len() as f64
}

/// Both code paths in bf16 of the CPU.
fn rounded() -> [Compute; 2] {
    let fused = Compute::cpu(Precision::Bf16);
    [fused.clone(), fused.composed()]
}

/// The code paths in bf16 by name: those of the CPU, and, if long tests are asked for, those without a graph on a device, which take
/// forty minutes where the host emulates them.
fn ways() -> Vec<(&'static str, Compute, Precision)> {
    let ([fused, composed], bf16) = (rounded(), Precision::Bf16);
    let mut all = vec![
        ("fused blocks", fused, bf16),
        ("single operations", composed, bf16),
    ];
    if std::env::var_os("TESSERA_LONG_TESTS").is_none() {
        return all;
    }
    all.extend(on_a_device());
    all
}

/// The way without a graph with both types of the residual stream; without a compiler for the emulation, none.
fn on_a_device() -> Vec<(&'static str, Compute, Precision)> {
    let Some(device) = tessera_testing::under_test() else {
        return Vec::new();
    };
    let there = Compute::default().resident_on(device, 1 << 30);
    vec![
        ("launches", there.clone(), Precision::Bf16),
        (
            "launches with a residual stream in f32",
            there,
            Precision::F32,
        ),
    ]
}

/// bf16 deviates from f32 at most twice as much as PyTorch's autocast does: small differences grow over sixty steps, and single operations
/// also round the residual stream, which autocast leaves in f32.
#[test]
fn bf16_losses_follow_f32_losses_as_in_pytorch() {
    assert!(fixture("train/bf16.py").exists());
    let expected = json("train/bf16.json");
    for (name, ids) in [("ids", true), ("values", false)] {
        let [long, short] = ["f32", "bf16"].map(|which| numbers(&expected[name][which]));
        let ours = sixty_losses(ids, Compute::default(), Precision::F32);
        let (same, theirs) = (deviation(&ours, &long), deviation(&short, &long));
        assert!(same < 0.1 * theirs, "{name}: {same} {theirs}");
        for (path, compute, stream) in ways() {
            let rounded = sixty_losses(ids, compute, stream);
            let found = deviation(&rounded, &ours);
            println!(
                "{name}: f32 deviates {same:.2e} from PyTorch; bf16 by {path} deviates {found:.2e} from f32, in PyTorch {theirs:.2e}"
            );
            let close = found > 0.0 && found <= 2.0 * theirs;
            assert!(close, "{name}, {path}: {found} {theirs}");
            assert!(rounded[59] < 0.5 * rounded[0], "the loss must fall");
        }
    }
}

/// Returns the gradient of the first batch by parameter.
fn first_gradients(ids: bool, compute: &Compute, stream: Precision) -> Vec<(String, Vec<f32>)> {
    let vit = VitConfig {
        preset: &SMALL,
        image_size: 16,
        patch_size: 4,
    };
    let params = vit::encoder(&vit, 0).unwrap();
    let params = vit::decoder(params, &vit, spec(ids).head_width(), 0).unwrap();
    set_by_formula(&params, 0.1);
    let resident = compute.resident();
    let params = match resident {
        Some(_) => params,
        None => params.on(compute).unwrap(),
    };
    let objective = Bright {
        vit: &vit,
        params: &params,
        ids,
    };
    let batch: Vec<usize> = (0..32).collect();
    let grads = match resident {
        Some((device, _)) => {
            let with = resident::Numbers {
                label_smoothing: if ids { 0.1 } else { 0.0 },
                residual_stream: stream,
            };
            let part = objective.prepare(0, 0, &batch, &batch).unwrap();
            let model = (&vit, &params);
            resident::gradients(device, model, with, vec![part])
                .unwrap()
                .1
        }
        None => gradients(&params, &objective, &batch).1,
    };
    let names = params.trainable().map(|(name, _)| name.to_owned());
    names.zip(grads).collect()
}

/// How far the first gradients in bf16 are from those in f32, parameter by parameter, beside PyTorch's autocast: about as far in the mean,
/// and never much farther. A device also rounds the residual stream, which autocast leaves in f32.
#[test]
fn bf16_gradients_are_as_close_to_f32_as_those_of_pytorch() {
    let expected = json("train/bf16.json");
    let fused = Compute::cpu(Precision::Bf16);
    let mut ways = vec![("fused blocks", fused, Precision::Bf16)];
    ways.extend(on_a_device());
    for (name, ids) in [("ids", true), ("values", false)] {
        let exact = first_gradients(ids, &Compute::default(), Precision::F32);
        let theirs = expected[name]["gradients"].as_object().unwrap();
        assert_eq!(theirs.len(), exact.len());
        for (way, compute, stream) in &ways {
            let on_bf16 = compute.is_resident() && *stream == Precision::Bf16;
            let allowed = if on_bf16 { 1.3 } else { 1.1 };
            let mut ratios = Vec::new();
            for ((parameter, exact), (_, rounded)) in
                exact.iter().zip(first_gradients(ids, compute, *stream))
            {
                let ratio = relative_error(&rounded, exact) / theirs[parameter].as_f64().unwrap();
                let differs = ratio > 0.0 || parameter == "decoder_pred.bias";
                let close = ratio < 2.0 * allowed;
                assert!(
                    differs && close,
                    "{name}, {way}, {parameter}: {ratio} of PyTorch's error"
                );
                ratios.push(ratio);
            }
            let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
            println!(
                "{name}: the error of gradients in bf16 by {way} is {mean:.2} of PyTorch's in the mean"
            );
            assert!(mean < allowed, "{name}, {way}: {mean}");
        }
    }
}

#[test]
fn training_in_bf16_does_not_depend_on_threads_or_interruptions() {
    rounded()
        .into_iter()
        .for_each(same_bytes_whatever_the_threads);
}

fn same_bytes_whatever_the_threads(compute: Compute) {
    let run = |threads: usize, state: Option<&std::path::Path>, steps: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let polls = AtomicUsize::new(0);
        let interrupted = || polls.fetch_add(1, Ordering::SeqCst) >= steps;
        let cx = RunContext {
            compute: compute.clone(),
            ..context(state, &interrupted)
        };
        let data = Random { ids: true };
        let trained = || pretrain(&tiny(), spec(true), &config(), &data, &cx);
        pool.unwrap().install(trained)
    };
    let whole = run(1, None, 100).unwrap();
    assert_eq!(
        bytes(&whole.params),
        bytes(&run(2, None, 100).unwrap().params)
    );
    let dir = tempfile::tempdir().unwrap();
    let resumed = (0..20).find_map(|_| run(2, Some(dir.path()), 2).ok());
    let resumed = resumed.expect("twenty rounds of two steps are enough for six");
    assert_eq!(resumed.history, whole.history);
    assert_eq!(bytes(&resumed.params), bytes(&whole.params));
}

/// The resume state does not depend on the code path.
#[test]
fn training_resumes_on_another_device() {
    let [here, there, ..] = computes();
    let expected = losses_of(&config(), true, here.clone());
    for (first, then) in [(&here, &there), (&there, &here)] {
        let dir = tempfile::tempdir().unwrap();
        let losses = std::sync::Mutex::new(Vec::new());
        let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
        let run = |compute: &Compute, steps: usize| {
            let polls = AtomicUsize::new(0);
            let interrupted = || polls.fetch_add(1, Ordering::SeqCst) >= steps;
            let cx = RunContext {
                progress: &progress,
                compute: compute.clone(),
                ..context(Some(dir.path()), &interrupted)
            };
            pretrain(&tiny(), spec(true), &config(), &Random { ids: true }, &cx).map(drop)
        };
        assert!(matches!(run(first, 3), Err(Error::Interrupted)));
        run(then, 100).unwrap();
        let losses = losses.into_inner().unwrap();
        assert_eq!(losses.len(), expected.len());
        for (f, e) in losses.iter().zip(&expected) {
            assert!((f - e).abs() <= 1e-5 * e.abs(), "{f} {e}");
        }
    }
}
