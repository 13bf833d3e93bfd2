use super::*;
use std::time::Duration;

static TINY: vit::Preset = vit::Preset {
    name: "tiny",
    width: 16,
    depth: 3,
    heads: 2,
    decoder_width: 8,
    decoder_depth: 1,
    decoder_heads: 2,
};

fn tiny() -> VitConfig {
    VitConfig {
        preset: &TINY,
        image_size: 8,
        patch_size: 4,
    }
}

/// Images whose brightness is their label.
struct Bright(usize);

impl ImageSource for Bright {
    fn len(&self) -> usize {
        self.0
    }

    fn images(&self, _: usize, indices: &[usize]) -> Result<Tensor> {
        let values = indices.iter().flat_map(|i| {
            (0..192)
                .map(move |p| (i % 2) as f32 * 2.0 - 1.0 + ((i * 7 + p * 13) % 11) as f32 / 20.0)
        });
        Ok(Tensor::from_vec(
            values.collect(),
            (indices.len(), 3, 8, 8),
            &Device::Cpu,
        )?)
    }
}

fn config() -> FinetuneConfig {
    FinetuneConfig {
        epochs: 6,
        batch: 20,
        lr: 3e-3,
        min_lr: 1e-6,
        warmup_epochs: 1.0,
        weight_decay: 0.05,
        layer_decay: 0.75,
        pool: Pool::Mean,
        label_smoothing: 0.1,
        drop_path: 0.1,
        mixup: 0.8,
        cutmix: 1.0,
        seed: 0,
    }
}

fn context<'a>() -> RunContext<'a> {
    RunContext {
        state: None,
        checkpoint_every: Duration::MAX,
        progress: &|_| (),
        interrupted: &|| false,
    }
}

fn run(config: &FinetuneConfig, threads: usize) -> Finetuned {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    let encoder = vit::encoder(&tiny(), 0).unwrap();
    let labels: Vec<u32> = (0..60).map(|i| i % 2).collect();
    let data = Bright(60);
    pool.install(|| {
        finetune(
            &tiny(),
            &encoder,
            config,
            2,
            (&data, &labels),
            (&data, &labels),
            &context(),
        )
        .unwrap()
    })
}

#[test]
fn it_learns_and_does_not_depend_on_the_number_of_threads() {
    let plain = FinetuneConfig {
        mixup: 0.0,
        cutmix: 0.0,
        ..config()
    };
    let learned = run(&plain, 1);
    assert_eq!(learned.evaluation.top1, 100.0);
    for config in [plain, config()] {
        let (one, two) = (run(&config, 1), run(&config, 2));
        assert_eq!(one.history, two.history);
        for name in one.params.names() {
            let bytes = |f: &Finetuned| {
                f.params
                    .get(name)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            assert_eq!(bytes(&one), bytes(&two), "{name}");
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    for pool in [Pool::Mean, Pool::Cls] {
        let config = FinetuneConfig {
            pool,
            drop_path: 0.0,
            ..config()
        };
        let encoder = vit::encoder(&tiny(), 0).unwrap();
        let params = with_head(&encoder, &tiny(), &config, 2).unwrap();
        // The head starts near zero; the gradient below it must be seen above rounding.
        let head = Tensor::ones((2, 16), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (_, var) = params
            .trainable()
            .find(|(n, _)| *n == "head.weight")
            .unwrap();
        var.set(
            &(head * 0.1)
                .unwrap()
                .broadcast_mul(&Tensor::new(&[[1.0_f32], [-1.0]], &Device::Cpu).unwrap())
                .unwrap(),
        )
        .unwrap();
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let objective = Classify {
            vit: &tiny(),
            config: &config,
            params: &params,
            classes: 2,
            images: &Bright(20),
            labels: &labels,
        };
        let batch: Vec<usize> = (0..20).collect();
        let (_, grads) = train::gradients(&params, &objective, 0, 0, &batch).unwrap();
        for ((name, _), grad) in params.trainable().zip(grads) {
            assert!(grad.iter().all(|g| g.is_finite()), "{name}");
            assert!(grad.iter().any(|g| *g != 0.0), "{name} has a zero gradient");
        }
    }
}

#[test]
fn layers_are_numbered_as_mae_does() {
    let numbers = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.bias",
        "blocks.0.norm1.weight",
        "blocks.11.mlp.fc1.bias",
        "fc_norm.weight",
        "head.bias",
    ]
    .map(|name| layer(name, 12));
    assert_eq!(numbers, [0, 0, 0, 1, 12, 13, 13]);
}
