mod codes;
mod device;
mod feed;
mod gpu;
mod reduction;
mod resumed;
mod skipped;

use super::*;
use crate::rng::keyed_rng;
use crate::testing::{
    assert_close, assert_losses, assert_parameters, floats, formula, gradients, json,
    set_by_formula, tensor, values,
};
use candle_core::Device;
use rand::Rng;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tessera_kernels::ops::patchify::patchify;

static TINY: vit::Preset = vit::Preset {
    name: "tiny",
    width: 16,
    depth: 2,
    heads: 2,
    decoder_width: 8,
    decoder_depth: 1,
    decoder_heads: 2,
};

fn tiny() -> VitConfig {
    VitConfig {
        preset: &TINY,
        image_size: 16,
        patch_size: 4,
    }
}

struct Random {
    ids: bool,
}

impl PretrainData for Random {
    fn len(&self) -> usize {
        70
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> Result<(Tensor, Targets)> {
        let mut images = Vec::new();
        for index in indices {
            let mut rng = keyed_rng(5, "test", epoch as u64, *index as u64);
            images.extend((0..768).map(|_| rng.random_range(-1.0..1.0_f32)));
        }
        let batch = indices.len();
        let images = Tensor::from_vec(images, (batch, 3, 16, 16), &Device::Cpu)?;
        let targets = if self.ids {
            let of = |index: usize| (0..16).map(move |i| (index * 16 + i) as u32 * 7 % 5);
            let ids: Vec<u32> = indices.iter().copied().flat_map(of).collect();
            Targets::Ids(Tensor::from_vec(ids, (batch, 16), &Device::Cpu)?)
        } else {
            let patches = patchify(&images, 4, None)?;
            Targets::Values(patches.reshape((batch, 16, 48))?)
        };
        Ok((images, targets))
    }
}

fn spec(ids: bool) -> TargetSpec {
    if ids {
        TargetSpec::Ids { codebook_size: 5 }
    } else {
        TargetSpec::Values { dim: 48 }
    }
}

pub(super) fn config() -> PretrainConfig {
    PretrainConfig {
        epochs: 3,
        batch: 32,
        lr: 1e-3,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: 0.75,
        label_smoothing: 0.1,
        gradient_checkpointing: false,
        residual_stream: Precision::Bf16,
        seed: 0,
    }
}

fn context<'a>(
    state: Option<&'a std::path::Path>,
    interrupted: &'a (dyn Fn() -> bool + Sync),
) -> RunContext<'a> {
    RunContext {
        state,
        checkpoint_every: Duration::ZERO,
        interrupted,
        ..RunContext::default()
    }
}

fn bytes(params: &ParamStore) -> Vec<Vec<f32>> {
    let all = params.names().iter();
    all.map(|name| values(params.get(name).unwrap())).collect()
}

#[test]
fn every_parameter_gets_a_gradient() {
    for ids in [true, false] {
        let vit = tiny();
        let params = vit::decoder(
            vit::encoder(&vit, 0).unwrap(),
            &vit,
            spec(ids).head_width(),
            0,
        )
        .unwrap();
        let objective = MaskedPrediction {
            vit: &vit,
            config: &config(),
            data: &Random { ids },
            params: &params,
        };
        let batch: Vec<usize> = (0..32).collect();
        let (loss, grads) = gradients(&params, &objective, &batch);
        assert!(loss.is_finite());
        for ((name, _), grad) in params.trainable().zip(grads) {
            assert!(grad.iter().all(|g| g.is_finite()), "{name}");
            assert!(grad.iter().any(|g| *g != 0.0), "{name} has a zero gradient");
        }
    }
}

#[test]
fn gradient_checkpointing_changes_no_byte() {
    let run = |gradient_checkpointing| {
        let config = PretrainConfig {
            gradient_checkpointing,
            ..config()
        };
        let data = Random { ids: false };
        let cx = context(None, &|| false);
        let trained = pretrain(&tiny(), spec(false), &config, &data, &cx).unwrap();
        bytes(&trained.params)
    };
    assert!(run(false) == run(true));
}

#[test]
fn training_does_not_depend_on_threads_or_interruptions() {
    let run = |threads: usize, workers: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            pretrain(
                &tiny(),
                spec(true),
                &config(),
                &Random { ids: true },
                &RunContext {
                    workers,
                    ..context(None, &|| false)
                },
            )
            .unwrap()
        })
    };
    let whole = run(1, 0);
    for (threads, workers) in [(2, 0), (1, 1), (2, 3)] {
        let other = run(threads, workers);
        assert!(bytes(&whole.params) == bytes(&other.params), "{workers}");
        assert_eq!(whole.history, other.history);
    }
    assert_eq!(whole.history.len(), 3);
    let dir = tempfile::tempdir().unwrap();
    // Each round runs one step and is interrupted before the next, while loaders are far ahead.
    let resumed = (0..20).find_map(|round| {
        let polls = AtomicUsize::new(0);
        let interrupted = || polls.fetch_add(1, Ordering::SeqCst) >= 1;
        match pretrain(
            &tiny(),
            spec(true),
            &config(),
            &Random { ids: true },
            &RunContext {
                workers: round % 3,
                ..context(Some(dir.path()), &interrupted)
            },
        ) {
            Ok(done) => Some(done),
            Err(Error::Interrupted) => None,
            Err(error) => panic!("{error}"),
        }
    });
    let resumed = resumed.expect("twenty rounds of one step are enough for six");
    assert_eq!(resumed.history, whole.history);
    assert_eq!(bytes(&resumed.params), bytes(&whole.params));
}

#[test]
fn a_diverging_loss_is_an_error_with_its_step() {
    let config = PretrainConfig {
        lr: 1e30,
        warmup_epochs: 0.0,
        epochs: 30,
        ..config()
    };
    let result = pretrain(
        &tiny(),
        spec(false),
        &config,
        &Random { ids: false },
        &context(None, &|| false),
    );
    let Err(Error::NotFinite { step, .. }) = result else {
        panic!("did not diverge")
    };
    assert!(step > 1);
}

/// A single step in the warm-up has rate 0.
#[test]
fn training_that_changes_nothing_is_refused() {
    for (epochs, warmup_epochs, fits) in [(1, 1.0, false), (1, 0.0, true), (2, 1.0, true)] {
        let config = PretrainConfig {
            epochs,
            warmup_epochs,
            batch: 4096,
            ..config()
        };
        let (data, cx) = (Random { ids: false }, context(None, &|| false));
        let trained = pretrain(&tiny(), spec(false), &config, &data, &cx).map(drop);
        match trained {
            Ok(()) => assert!(fits, "{epochs}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!fits && error.contains("warmup_epochs: 0"), "{error}");
            }
        }
    }
}

/// Compared with MAE in PyTorch (`tests/fixtures/mae/make.py`).
#[test]
fn loss_and_every_gradient_match_pytorch() {
    let fixture = json("mae/torch.json");
    let vit = VitConfig {
        preset: &TINY,
        image_size: 8,
        patch_size: 4,
    };
    let images = Tensor::from_vec(floats(&fixture["images"]), (2, 3, 8, 8), &Device::Cpu).unwrap();
    let masks: Vec<Mask> = fixture["shuffled"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| Mask {
            shuffled: floats(m).iter().map(|v| *v as u32).collect(),
            num_kept: 2,
        })
        .collect();
    for (case, ids) in [("ids", true), ("values", false)] {
        let case = &fixture[case];
        let width = if ids { 5 } else { 48 };
        let params = vit::decoder(vit::encoder(&vit, 0).unwrap(), &vit, width, 0).unwrap();
        for (name, var) in params.trainable() {
            let values = floats(&case["params"][name]);
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
        let targets = if ids {
            let ids: Vec<u32> = floats(&case["targets"]).iter().map(|v| *v as u32).collect();
            Targets::Ids(Tensor::from_vec(ids, (2, 4), &Device::Cpu).unwrap())
        } else {
            Targets::Values(
                Tensor::from_vec(floats(&case["targets"]), (2, 4, 48), &Device::Cpu).unwrap(),
            )
        };
        let pass = Pass::training(ids);
        let loss = masked_loss(&params, &vit, &images, &targets, &masks, 0.1, &pass).unwrap();
        let expected = case["loss"].as_f64().unwrap();
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!(
            (found - expected).abs() <= 1e-5 * expected.abs(),
            "{found} {expected}"
        );
        let grads = pass.gradients(&loss).unwrap();
        for (name, var) in params.trainable() {
            let found = values(grads.get(var).unwrap());
            let expected = floats(&case["grads"][name]);
            let scale = expected.iter().map(|g| g.abs()).fold(0.0, f32::max);
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() <= 1e-5 * scale + 1e-7, "{name}: {f} {e}");
            }
        }
    }
}

#[test]
fn masks_follow_the_ratio_and_depend_on_epoch_and_image() {
    let mask = Mask::draw(0, 0, 0, 196, 0.75);
    assert_eq!(mask.num_kept, 49);
    let mut all = mask.shuffled.clone();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..196));
    assert_ne!(mask, Mask::draw(0, 1, 0, 196, 0.75));
    assert_ne!(mask, Mask::draw(0, 0, 1, 196, 0.75));
}

/// The mask of `tests/fixtures/train`: four of sixteen patches are visible.
fn mask_by_formula(n: u32) -> Mask {
    let values = formula(50_000 + n, 16, 1.0);
    let mut shuffled: Vec<u32> = (0..16).collect();
    shuffled.sort_by(|a, b| values[*a as usize].total_cmp(&values[*b as usize]));
    Mask {
        shuffled,
        num_kept: 4,
    }
}

/// Uses the images, masks and targets of `tests/fixtures/train/make.py` and ignores the loop's order.
struct ByFormula<'a> {
    vit: &'a VitConfig,
    params: &'a ParamStore,
    ids: bool,
    together: Option<usize>,
}

impl Objective for ByFormula<'_> {
    type Prepared = Masked;

    fn recomputes(&self) -> bool {
        self.ids
    }

    fn together(&self) -> Option<usize> {
        self.together
    }

    fn join(&self, shards: Vec<Masked>) -> Result<Masked> {
        Masked::join(shards, &Device::Cpu)
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        runs(len, self.vit.shard_of(len))
    }

    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Masked> {
        let share = shard.len() as f64 / batch.len() as f64;
        let numbers: Vec<u32> = shard
            .iter()
            .map(|at| (epoch * 64 + step % 2 * 32 + at) as u32)
            .collect();
        let all = |salt: u32, count: usize| -> Vec<f32> {
            let each = numbers.iter().flat_map(|n| formula(salt + n, count, 1.0));
            each.collect()
        };
        let rows = numbers.len();
        let images = tensor(all(1, 768), &[rows, 3, 16, 16]);
        let masks = numbers.iter().map(|n| mask_by_formula(*n)).collect();
        let values = all(90_000, 768);
        let targets = if self.ids {
            let first = values.chunks_exact(768).flat_map(|image| &image[..16]);
            let ids = first.map(|v| ((f64::from(*v) + 1.0) / 2.0 * 5.0) as u32);
            Targets::Ids(Tensor::from_vec(
                ids.collect::<Vec<_>>(),
                (rows, 16),
                &Device::Cpu,
            )?)
        } else {
            Targets::Values(tensor(values, &[rows, 16, 48]))
        };
        Ok(Masked {
            images,
            targets,
            masks,
            share,
        })
    }

    fn loss(&self, shard: Masked, pass: &Pass) -> Result<Tensor> {
        let smoothing = if self.ids { 0.1 } else { 0.0 };
        let loss = masked_loss(
            self.params,
            self.vit,
            &shard.images,
            &shard.targets,
            &shard.masks,
            smoothing,
            pass,
        )?;
        Ok((loss * shard.share)?)
    }
}

/// Tests schedule, groups and AdamW. Each step has two shards; PyTorch accumulates two halves.
fn ten_steps(name: &str, ids: bool, compute: &Compute) {
    let vit = tiny();
    let width = spec(ids).head_width();
    let params = vit::decoder(vit::encoder(&vit, 0).unwrap(), &vit, width, 0).unwrap();
    set_by_formula(&params, 0.1);
    let params = params.on(compute).unwrap();
    let config = PretrainConfig {
        epochs: 5,
        lr: 2e-3,
        ..config()
    };
    let task = Task::Pretrain {
        kept: 4,
        head: width,
    };
    let objective = ByFormula {
        vit: &vit,
        params: &params,
        ids,
        together: compute
            .images_at_once(&vit, task)
            .map(|n| n.div_ceil(vit.shard())),
    };
    let losses = std::sync::Mutex::new(Vec::new());
    let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
    let cx = RunContext {
        progress: &progress,
        ..context(None, &|| false)
    };
    fit(&params, &config, 64, &objective, &cx).unwrap();
    assert_losses(name, &losses.into_inner().unwrap());
    assert_parameters(name, &params);
}
