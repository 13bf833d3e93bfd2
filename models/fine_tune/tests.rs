use super::*;
use crate::precision::Precision;
use crate::testing::{
    assert_close, assert_losses, assert_parameters, formula, gradients, json, set_by_formula,
    tensor, values,
};

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

/// Images whose brightness encodes their label.
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
        gradient_checkpointing: false,
        seed: 0,
    }
}

fn run(
    config: &FinetuneConfig,
    compute: &Compute,
    (threads, workers): (usize, usize),
) -> Finetuned {
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
            &RunContext {
                workers,
                compute: compute.clone(),
                ..RunContext::default()
            },
        )
        .unwrap()
    })
}

#[test]
fn training_learns_and_does_not_depend_on_the_number_of_threads() {
    let plain = FinetuneConfig {
        mixup: 0.0,
        cutmix: 0.0,
        ..config()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let compute = Compute::cpu(precision);
        let learned = run(&plain, &compute, (1, 0));
        assert_eq!(learned.evaluation.top1, 100.0);
        for config in [plain.clone(), config()] {
            let [one, two] = [(1, 0), (2, 2)].map(|threads| run(&config, &compute, threads));
            assert_eq!(one.history, two.history);
            for ((name, one), (_, two)) in one.params.variables().zip(two.params.variables()) {
                assert_eq!(values(one), values(two), "{name}");
            }
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
        // The head starts near zero, which would leave the gradients below it within rounding.
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
        let (_, grads) = gradients(&params, &objective, &batch);
        for ((name, _), grad) in params.trainable().zip(grads) {
            assert!(grad.iter().all(|g| g.is_finite()), "{name}");
            assert!(grad.iter().any(|g| *g != 0.0), "{name} has a zero gradient");
        }
    }
}

#[test]
fn shards_contain_mirrored_positions() {
    let config = config();
    let objective = Classify {
        vit: &tiny(),
        config: &config,
        params: &ParamStore::default(),
        classes: 2,
        images: &Bright(1),
        labels: &[],
    };
    for len in [1, 2, 16, 37, 128] {
        let shards = objective.shards(len);
        for shard in &shards {
            let mirrored: Vec<usize> = shard.iter().rev().map(|at| len - 1 - at).collect();
            assert_eq!(*shard, mirrored);
        }
        let mut all = shards.concat();
        all.sort_unstable();
        assert_eq!(all, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn layers_are_numbered_as_in_mae() {
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

/// Uses the images and mixing of `tests/fixtures/train/make.py` and ignores the loop's order.
struct ByFormula<'a>(Classify<'a>);

/// Images computed by formula from epoch and index.
struct FormulaImages;

impl ImageSource for FormulaImages {
    fn len(&self) -> usize {
        64
    }

    fn images(&self, epoch: usize, indices: &[usize]) -> Result<Tensor> {
        let image = |i: &usize| formula((1 + epoch * 64 + i) as u32, 768, 1.0);
        let values = indices.iter().flat_map(image).collect();
        Ok(tensor(values, &[indices.len(), 3, 16, 16]))
    }
}

impl Objective for ByFormula<'_> {
    type Prepared = Mixed;

    fn recomputes(&self) -> bool {
        self.0.recomputes()
    }

    fn together(&self) -> Option<usize> {
        self.0.together()
    }

    fn join(&self, shards: Vec<Mixed>) -> Result<Mixed> {
        self.0.join(shards)
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        self.0.shards(len)
    }

    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<Mixed> {
        let first = step % 2 * 32;
        let ours: Vec<usize> = (first..first + batch.len()).collect();
        let mix = match step % 2 {
            0 => Mix {
                keep: 0.25 + 0.05 * step as f64,
                cut: None,
            },
            _ => Mix {
                keep: 1.0 - 8.0 * 12.0 / 256.0,
                cut: Some([2, 10, 4, 16]),
            },
        };
        self.0.mixed(epoch, &ours, shard, Some(&mix))
    }

    fn loss(&self, shard: Mixed, pass: &Pass) -> Result<Tensor> {
        self.0.loss(shard, pass)
    }
}

/// Global pooling, layer decay, mixed soft targets and AdamW, compared with timm's ViT in PyTorch.
#[test]
fn ten_steps_match_timm() {
    let composed = Compute::default().composed();
    let computes = [
        Compute::default(),
        composed.clone(),
        composed.clone().within(1),
        composed.within(1 << 30),
    ];
    computes.iter().for_each(ten_steps);
}

fn ten_steps(compute: &Compute) {
    let vit = VitConfig {
        image_size: 16,
        ..tiny()
    };
    let config = FinetuneConfig {
        epochs: 5,
        batch: 32,
        drop_path: 0.0,
        ..config()
    };
    let params = with_head(&vit::encoder(&vit, 0).unwrap(), &vit, &config, 5).unwrap();
    set_by_formula(&params, 0.1);
    let params = params.on(compute).unwrap();
    let labels: Vec<u32> = (0..64).map(|i| i * 7 % 5).collect();
    let objective = ByFormula(Classify {
        vit: &vit,
        config: &config,
        params: &params,
        classes: 5,
        images: &FormulaImages,
        labels: &labels,
    });
    let losses = std::sync::Mutex::new(Vec::new());
    let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
    let cx = RunContext {
        progress: &progress,
        ..RunContext::default()
    };
    fit(&params, &vit, &config, 64, &objective, &cx).unwrap();
    assert_losses("finetune", &losses.into_inner().unwrap());
    assert_parameters("finetune", &params);
}

/// Compared with `tests/fixtures/train/formulas.py`.
#[test]
fn layer_scales_match_mae() {
    let expected = json("train/formulas.json");
    let vit = VitConfig {
        preset: vit::preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let params = with_head(&vit::encoder(&vit, 0).unwrap(), &vit, &config(), 10).unwrap();
    let scales = expected["layer_scale"].as_object().unwrap();
    assert_eq!(scales.len(), params.names().len());
    for (name, scale) in scales {
        params.get(name).unwrap();
        let found = layer_scale(name, 12, 0.65) as f32;
        assert_eq!(found, scale.as_f64().unwrap() as f32, "{name}");
    }
}

#[test]
fn bf16_gradients_are_close_to_f32() {
    for pool in [Pool::Mean, Pool::Cls] {
        let config = FinetuneConfig { pool, ..config() };
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let of = |compute: Compute| {
            let encoder = vit::encoder(&tiny(), 0).unwrap();
            let params = with_head(&encoder, &tiny(), &config, 2).unwrap();
            set_by_formula(&params, 0.1);
            let params = params.on(&compute).unwrap();
            let objective = Classify {
                vit: &tiny(),
                config: &config,
                params: &params,
                classes: 2,
                images: &Bright(20),
                labels: &labels,
            };
            let (_, grads) = gradients(&params, &objective, &(0..20).collect::<Vec<_>>());
            let names = params.trainable().map(|(name, _)| name.to_owned());
            names.zip(grads).collect::<Vec<_>>()
        };
        let rounded = Compute::cpu(crate::Precision::Bf16);
        let expected = of(Compute::default());
        for found in [of(rounded.clone()), of(rounded.within(1 << 30))] {
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                let square = |v: f32| f64::from(v).powi(2);
                let off = found.iter().zip(expected).map(|(f, e)| square(f - e));
                let whole: f64 = expected.iter().map(|e| square(*e)).sum();
                let off = (off.sum::<f64>() / whole).sqrt();
                assert!(whole > 0.0 && off <= 0.1, "{name}: off by {off}");
                assert!(found.iter().any(|g| *g != 0.0), "{name}");
            }
        }
    }
}

/// Training and evaluation round to bf16, in fused blocks and in single operations.
#[test]
fn training_learns_in_bf16() {
    let encoder = vit::encoder(&tiny(), 0).unwrap();
    let labels: Vec<u32> = (0..60).map(|i| i % 2).collect();
    let data = Bright(60);
    let rounded = Compute::cpu(crate::Precision::Bf16);
    for compute in [rounded.clone(), rounded.within(1 << 30)] {
        let config = FinetuneConfig {
            mixup: 0.0,
            cutmix: 0.0,
            ..config()
        };
        let cx = RunContext {
            compute,
            ..RunContext::default()
        };
        let sets: (&dyn ImageSource, &[u32]) = (&data, &labels);
        let tuned = finetune(&tiny(), &encoder, &config, 2, sets, sets, &cx).unwrap();
        assert_eq!(tuned.evaluation.top1, 100.0);
        assert!(
            !tuned.params.compute().is_composed(),
            "the result must be f32 on the CPU"
        );
    }
}

#[test]
fn features_do_not_depend_on_the_code_path() {
    let encoder = || vit::encoder(&tiny(), 0).unwrap();
    let indices: Vec<usize> = (0..60).rev().collect();
    let of = |compute: Compute| {
        let params = encoder().on(&compute).unwrap();
        encode::encode(
            &params,
            (&tiny(), vit::Layer::default()),
            &Bright(60),
            0,
            &indices,
            &|| false,
        )
        .unwrap()
    };
    let expected = of(Compute::default());
    let composed = Compute::default().composed();
    for compute in [
        composed.clone(),
        composed.clone().within(1),
        composed.within(1 << 24),
    ] {
        let found = of(compute);
        assert_close("cls", &found.cls, &expected.cls, 1e-5, 0..0);
        assert_close("mean", &found.mean, &expected.mean, 1e-5, 0..0);
    }
    let rounded = Compute::cpu(crate::Precision::Bf16);
    for compute in [rounded.clone(), rounded.composed()] {
        let rounded = of(compute);
        assert_ne!(rounded, expected);
        assert_close("cls", &rounded.cls, &expected.cls, 3e-2, 0..0);
    }
}
