use candle_core::Tensor;

use super::*;
use crate::encode::{Frozen, Pool};
use crate::testing::{
    assert_close, assert_losses, fixture, formula, lists, set_by_formula, values,
};

/// Returns clusters of three classes around three points.
fn points(count: usize) -> (Frozen, Vec<u32>) {
    let labels: Vec<u32> = (0..count as u32).map(|i| i % 3).collect();
    let values = labels.iter().enumerate().flat_map(|(i, label)| {
        (0..4).map(move |d| {
            f32::from(u8::from(d == *label)) * 3.0 + ((i * 31 + d as usize * 17) % 13) as f32 / 13.0
        })
    });
    let values: Vec<f32> = values.collect();
    (
        Frozen {
            dim: 4,
            cls: values.clone(),
            mean: values,
        },
        labels,
    )
}

/// Returns a recipe of `epochs` and `batch` with one rate, no warm-up and no weight decay.
fn config((epochs, batch): (usize, usize), rate: f64, lars: bool) -> ProbeConfig {
    ProbeConfig {
        epochs,
        batch,
        rates: vec![rate],
        warmup_epochs: 0.0,
        weight_decay: 0.0,
        lars,
        seed: 0,
    }
}

#[test]
fn separable_points_are_separated_by_both_optimisers() {
    let (frozen, labels) = points(90);
    let cx = RunContext::default();
    for (lars, lr) in [(true, 5.0), (false, 0.05)] {
        let config = ProbeConfig {
            warmup_epochs: 3.0,
            ..config((30, 30), lr, lars)
        };
        let val = Labelled {
            features: &frozen.cls,
            labels: &labels,
        };
        let probed = probe(&config, 4, 3, &(&frozen, Pool::Cls), &labels, val, &cx).unwrap();
        assert_eq!(
            (probed.evaluation.top1, probed.evaluation.top5),
            (100.0, 100.0),
            "lars {lars}"
        );
        assert_eq!(probed.evaluation.columns, 3);
        assert!(probed.history[29].train_loss < probed.history[0].train_loss);
    }
}

#[test]
fn explicit_gradients_match_the_graph() {
    let (frozen, labels) = points(12);
    let head = Head::new(4, 3, 1, 1, &Compute::default()).unwrap();
    let sums = head.gradients(frozen.cls.clone(), &labels).unwrap();
    let (loss, grads) = (
        sums.checked_loss().unwrap(),
        lists(&sums.gradient, &head.params),
    );
    let x = Tensor::from_vec(frozen.cls, (12, 4), &candle_core::Device::Cpu).unwrap();
    let (weight, bias) = (
        head.params.get("head.1.weight").unwrap(),
        head.params.get("head.1.bias").unwrap(),
    );
    let scores = x
        .matmul(&weight.t().unwrap())
        .unwrap()
        .broadcast_add(bias)
        .unwrap();
    let by_graph = tessera_kernels::ops::cross_entropy(&scores, labels, 0.0).unwrap();
    let store = by_graph.backward().unwrap();
    assert!((f64::from(by_graph.to_scalar::<f32>().unwrap()) - loss).abs() < 1e-6);
    for (found, var) in grads.iter().zip([weight, bias]) {
        let expected = values(store.get(var).unwrap());
        assert!(
            found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
    }
}

/// Compares BatchNorm, linear layer and LARS with PyTorch (`tests/fixtures/train/make.py`).
fn ten_steps_of_lars(compute: &Compute) {
    struct ByFormula;
    impl ProbeData for ByFormula {
        fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
            let image = |i: &usize| {
                let values = formula(200_000 + (epoch * 40 + i) as u32, 16, 1.0);
                let shift = (0.3 * (i % 5) as f64) as f32;
                values.into_iter().map(move |v| v + shift)
            };
            Ok(indices.iter().flat_map(image).collect())
        }
    }
    let head = Head::new(16, 5, 1, 0, compute).unwrap();
    set_by_formula(&head.params, 0.1);
    head.params.set("head.1.bias", vec![0.0; 5]).unwrap();
    let config = ProbeConfig {
        warmup_epochs: 2.0,
        ..config((10, 40), 5.0, true)
    };
    let labels: Vec<u32> = (0..40).map(|i| i % 5).collect();
    let val: Vec<f32> = (0..8).flat_map(|i| formula(300_000 + i, 16, 1.0)).collect();
    let queries = Labelled {
        features: &val,
        labels: &[0; 8],
    };
    let probed = train_head(
        &config,
        head,
        &ByFormula,
        &labels,
        queries,
        &RunContext::default(),
    )
    .unwrap();
    let losses: Vec<f64> = probed
        .history
        .iter()
        .map(|epoch| epoch.train_loss)
        .collect();
    assert_losses("probe", &losses);
    let expected = crate::params::read(&fixture("train/probe.safetensors")).unwrap();
    for name in probed.params.names() {
        let found = values(probed.params.get(name).unwrap());
        assert_close(name, &found, &expected[name].1, 1e-4, 0..0);
    }
    // The probe's evaluation uses the running statistics.
    let best = evaluate(&expected["scores"].1, 5, queries.labels);
    assert_eq!(probed.evaluation, best);
}

#[test]
fn ten_steps_of_lars_match_pytorch() {
    ten_steps_of_lars(&Compute::default());
    ten_steps_of_lars(&Compute::default().composed());
}

/// A source with infinite vectors in some steps.
struct Spoilt<'a> {
    frozen: &'a Frozen,
    calls: std::sync::atomic::AtomicUsize,
    bad: std::ops::Range<usize>,
}

impl ProbeData for Spoilt<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        let mut x = (self.frozen, Pool::Cls).features(epoch, indices)?;
        let step = self.calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.bad.contains(&step) {
            x[3] = f32::INFINITY;
        }
        Ok(x)
    }
}

#[test]
fn steps_that_are_not_finite_change_nothing_and_five_end_the_probe() {
    let (frozen, labels) = points(90);
    let config = config((4, 30), 0.05, false);
    let val = Labelled {
        features: &frozen.cls,
        labels: &labels,
    };
    for compute in [Compute::default(), Compute::default().composed()] {
        let cx = RunContext {
            compute,
            ..RunContext::default()
        };
        let run = |bad| {
            let data = Spoilt {
                frozen: &frozen,
                calls: 0.into(),
                bad,
            };
            probe(&config, 4, 3, &data, &labels, val, &cx)
        };
        let probed = run(2..6).unwrap();
        let skipped = probed.history.iter().map(|epoch| epoch.skipped_steps);
        assert!(skipped.eq([1, 3, 0, 0]));
        assert!(probed.history[0].train_loss.is_finite() && probed.history[1].train_loss.is_nan());
        for name in probed.params.names() {
            let all = values(probed.params.get(name).unwrap());
            assert!(all.iter().all(|v| v.is_finite()), "{name}");
        }
        let error = run(2..7).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("5 steps in a row, the last is step 7"),
            "{error}"
        );
    }
}

#[test]
fn an_interrupted_probe_resumes_to_the_same_bytes() {
    for lars in [true, false] {
        for compute in [Compute::default(), Compute::default().composed()] {
            for rates in [&[0.05][..], &[0.5, 0.05]] {
                let config = ProbeConfig {
                    warmup_epochs: 1.0,
                    weight_decay: 0.01,
                    rates: rates.to_vec(),
                    ..config((4, 25), 0.0, lars)
                };
                resumes(&config, &compute);
            }
        }
    }
}

/// Compares a probe that is interrupted again and again with one that is not.
fn resumes(config: &ProbeConfig, compute: &Compute) {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let (frozen, labels) = points(90);
    let val = Labelled {
        features: &frozen.cls,
        labels: &labels,
    };
    let run = |state, interrupted: &(dyn Fn() -> bool + Sync), left: usize| {
        let cx = RunContext {
            state,
            interrupted,
            compute: compute.clone(),
            ..RunContext::default()
        };
        let data = Ending {
            frozen: &frozen,
            left: left.into(),
        };
        probe(config, 4, 3, &data, &labels, val, &cx)
    };
    let whole = run(None, &|| false, usize::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // 12 steps per training, 3 of two rounds. Several rates are a training more. The pass over all images at the end begins anew in every
    // round, so a round without interruption ends the probe.
    let most = 10 * config.rates.len();
    let mut rounds = 0;
    let resumed = loop {
        rounds += 1;
        let polls = AtomicUsize::new(0);
        // Rounds are interrupted alternately by the loop before the third step and by the data source in the second.
        let by_loop = rounds % 2 == 0 && rounds < most;
        let interrupted = || by_loop && polls.fetch_add(1, SeqCst) >= 2;
        let by_data = rounds % 2 == 1 && rounds < most;
        let left = if by_data { 1 } else { usize::MAX };
        match run(Some(folder.path()), &interrupted, left) {
            Err(Error::Interrupted) => assert!(rounds < most),
            done => break done.unwrap(),
        }
    };
    assert_eq!(rounds, most);
    assert_eq!(resumed.evaluation, whole.evaluation);
    assert_eq!(resumed.history, whole.history);
    assert_eq!(resumed.choice, whole.choice);
    assert_eq!(
        resumed.remaining_fall.to_bits(),
        whole.remaining_fall.to_bits()
    );
    assert_eq!(resumed.params.names(), whole.params.names());
    for name in whole.params.names() {
        let [found, expected] =
            [&resumed, &whole].map(|probed| values(probed.params.get(name).unwrap()));
        assert_eq!(found, expected, "{name}, {config:?}");
    }
}

/// A source that is interrupted after `left` steps.
struct Ending<'a> {
    frozen: &'a Frozen,
    left: std::sync::atomic::AtomicUsize,
}

impl ProbeData for Ending<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.left.load(SeqCst);
        if left == 0 {
            return Err(Error::Interrupted);
        }
        self.left.store(left - 1, SeqCst);
        (self.frozen, Pool::Cls).features(epoch, indices)
    }
}

#[test]
fn a_batch_of_one_image_is_refused() {
    let (frozen, labels) = points(1);
    let config = config((1, 8), 0.1, true);
    let val = Labelled {
        features: &frozen.cls,
        labels: &labels,
    };
    let cx = RunContext::default();
    let probed = probe(&config, 4, 3, &(&frozen, Pool::Cls), &labels, val, &cx);
    let error = probed.err().unwrap().to_string();
    assert!(error.contains("found batches of 1 images"), "{error}");
}
