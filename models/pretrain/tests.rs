use super::*;
use rand::Rng;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
            let ids: Vec<u32> = (0..batch as u32 * 16).map(|i| i * 7 % 5).collect();
            Targets::Ids(Tensor::from_vec(ids, (batch, 16), &Device::Cpu)?)
        } else {
            Targets::Values(vit::split_patches(&tiny(), &images)?)
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

fn config() -> PretrainConfig {
    PretrainConfig {
        epochs: 3,
        batch: 32,
        lr: 1e-3,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        mask_ratio: 0.75,
        label_smoothing: 0.1,
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
        progress: &|_| (),
        interrupted,
    }
}

fn bytes(params: &ParamStore) -> Vec<Vec<f32>> {
    let all = params.names().iter().map(|n| {
        params
            .get(n)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    });
    all.collect()
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
        let (loss, grads) = train::gradients(&params, &objective, 0, 0, &batch).unwrap();
        assert!(loss.is_finite());
        for ((name, _), grad) in params.trainable().zip(grads) {
            assert!(grad.iter().all(|g| g.is_finite()), "{name}");
            assert!(grad.iter().any(|g| *g != 0.0), "{name} has a zero gradient");
        }
    }
}

#[test]
fn a_run_does_not_depend_on_threads_or_interruptions() {
    let run = |threads: usize| {
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
                &context(None, &|| false),
            )
            .unwrap()
        })
    };
    let whole = run(1);
    assert_eq!(bytes(&whole.params), bytes(&run(2).params));
    assert_eq!(whole.history.len(), 3);
    let dir = tempfile::tempdir().unwrap();
    // Interrupted before every step from the second on, then resumed, until it ends.
    let resumed = (0..20).find_map(|_| {
        let asked = AtomicUsize::new(0);
        let interrupted = || asked.fetch_add(1, Ordering::SeqCst) >= 1;
        match pretrain(
            &tiny(),
            spec(true),
            &config(),
            &Random { ids: true },
            &context(Some(dir.path()), &interrupted),
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
fn a_diverging_loss_stops_with_its_step() {
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
    assert!(step > 0);
}

/// `tests/fixtures/mae/make.py`: MAE in PyTorch; loss and the gradient of every parameter.
#[test]
fn loss_and_every_gradient_are_pytorchs() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/mae/torch.json")).unwrap();
    let floats = |v: &serde_json::Value| -> Vec<f32> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect()
    };
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
        let loss = masked_loss(&params, &vit, &images, &targets, &masks, 0.1).unwrap();
        let expected = case["loss"].as_f64().unwrap();
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!(
            (found - expected).abs() <= 1e-5 * expected.abs(),
            "{found} {expected}"
        );
        let grads = loss.backward().unwrap();
        for (name, var) in params.trainable() {
            let found: Vec<f32> = grads
                .get(var)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let expected = floats(&case["grads"][name]);
            let scale = expected.iter().map(|g| g.abs()).fold(0.0, f32::max);
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() <= 1e-5 * scale + 1e-7, "{name}: {f} {e}");
            }
        }
    }
}

#[test]
fn masks_keep_what_the_ratio_says_and_depend_on_epoch_and_image() {
    let mask = Mask::draw(0, 0, 0, 196, 0.75);
    assert_eq!(mask.num_kept, 49);
    let mut all = mask.shuffled.clone();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..196));
    assert_ne!(mask, Mask::draw(0, 1, 0, 196, 0.75));
    assert_ne!(mask, Mask::draw(0, 0, 1, 196, 0.75));
}
