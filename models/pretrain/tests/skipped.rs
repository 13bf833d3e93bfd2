//! Steps whose loss or gradients are not finite.

use super::*;
use crate::train::MOST_SKIPPED;

/// Masked prediction with an infinite loss or gradient in some steps.
struct Spoilt<'a> {
    of: MaskedPrediction<'a>,
    /// Steps of the run whose loss is infinite.
    loss: std::ops::Range<usize>,
    /// Steps whose gradient is infinite but whose loss is finite.
    gradient: std::ops::Range<usize>,
}

impl Objective for Spoilt<'_> {
    type Prepared = (usize, Masked);

    fn recomputes(&self) -> bool {
        self.of.recomputes()
    }

    fn together(&self) -> Option<usize> {
        self.of.together()
    }

    fn join(&self, shards: Vec<(usize, Masked)>) -> Result<(usize, Masked)> {
        let step = shards[0].0;
        let shards = shards.into_iter().map(|(_, shard)| shard).collect();
        Ok((step, self.of.join(shards)?))
    }

    fn shards(&self, len: usize) -> Vec<Vec<usize>> {
        self.of.shards(len)
    }

    fn prepare(
        &self,
        epoch: usize,
        step: usize,
        batch: &[usize],
        shard: &[usize],
    ) -> Result<(usize, Masked)> {
        Ok((step, self.of.prepare(epoch, step, batch, shard)?))
    }

    fn loss(&self, (step, shard): (usize, Masked), pass: &Pass) -> Result<Tensor> {
        let loss = self.of.loss(shard, pass)?;
        if self.loss.contains(&step) {
            return Ok((loss * f64::INFINITY)?);
        }
        if self.gradient.contains(&step) {
            // The derivative of the square root at zero is infinite, so this zero makes the gradient infinite and keeps the loss.
            let bias = self.of.params.get("decoder_pred.bias")?;
            let zero = (bias - bias.detach())?.sqr()?.sqrt()?.sum_all()?;
            return Ok((loss + zero)?);
        }
        Ok(loss)
    }
}

type Ranges = (std::ops::Range<usize>, std::ops::Range<usize>);

/// Trains up to twelve steps, interrupted before step `until`. Returns the loss and the number of skipped steps after each step.
fn run(
    (loss, gradient): Ranges,
    compute: &Compute,
    state: Option<&std::path::Path>,
    until: usize,
    every: Duration,
) -> (Result<Vec<EpochRecord>>, ParamStore, Vec<(f64, usize)>) {
    let vit = tiny();
    let params = vit::decoder(vit::encoder(&vit, 3).unwrap(), &vit, 5, 3).unwrap();
    let params = params.on(compute).unwrap();
    let config = PretrainConfig {
        epochs: 6,
        ..config()
    };
    let objective = Spoilt {
        of: MaskedPrediction {
            vit: &vit,
            config: &config,
            data: &Random { ids: true },
            params: &params,
        },
        loss,
        gradient,
    };
    let steps = std::sync::Mutex::new(Vec::new());
    let last = AtomicUsize::new(0);
    let progress = |at: &crate::Progress| {
        steps.lock().unwrap().push((at.loss, at.skipped));
        last.store(at.step, Ordering::SeqCst);
    };
    let interrupted = || last.load(Ordering::SeqCst) == until;
    let cx = RunContext {
        progress: &progress,
        checkpoint_every: every,
        compute: compute.clone(),
        ..context(state, &interrupted)
    };
    let history = fit(&params, &config, 70, &objective, &cx);
    (history, params, steps.into_inner().unwrap())
}

const NEVER: std::ops::Range<usize> = 0..0;

fn variables(params: &ParamStore) -> Vec<Vec<f32>> {
    params
        .trainable()
        .map(|(_, var)| crate::testing::values(var))
        .collect()
}

fn computes() -> [Compute; 3] {
    let rounded = Compute::cpu(crate::Precision::Bf16);
    [
        Compute::default(),
        Compute::default().composed(),
        rounded.within(1 << 30),
    ]
}

#[test]
fn a_bad_step_changes_nothing_and_is_counted() {
    for compute in computes() {
        let long = Duration::MAX;
        let before = run((NEVER, NEVER), &compute, None, 4, long);
        for bad in [(4..5, NEVER), (NEVER, 4..5)] {
            let after = run(bad.clone(), &compute, None, 5, long);
            assert_eq!(
                variables(&before.1),
                variables(&after.1),
                "the bad step changed the parameters"
            );
            let (loss, skipped) = after.2[4];
            assert!(!loss.is_finite() && skipped == 1);
            let (history, params, steps) = run(bad, &compute, None, 100, long);
            let history = history.unwrap();
            let skipped = history.iter().map(|epoch| epoch.skipped_steps);
            assert!(skipped.eq([0, 0, 1, 0, 0, 0]));
            // The epoch's mean is the loss of its other step.
            assert_eq!(history[2].train_loss, steps[5].0);
            assert!(params.is_finite().unwrap());
            assert_eq!(steps.last().unwrap().1, 1);
        }
    }
}

#[test]
fn a_skipped_step_does_not_count_for_the_optimiser() {
    let dir = tempfile::tempdir().unwrap();
    let count = |bad| {
        let state = dir.path();
        let (ended, ..) = run(bad, &Compute::default(), Some(state), 6, Duration::MAX);
        assert!(matches!(ended, Err(Error::Interrupted)));
        let (_, about) = crate::params::read_state(&state.join("state.safetensors")).unwrap();
        std::fs::remove_file(state.join("state.safetensors")).unwrap();
        let both: serde_json::Value = serde_json::from_str(&about["position"]).unwrap();
        both[1].as_u64().unwrap()
    };
    assert_eq!([count((NEVER, NEVER)), count((2..4, NEVER))], [6, 4]);
}

#[test]
fn five_bad_steps_in_a_row_end_the_run_and_it_resumes_from_a_good_one() {
    for compute in computes() {
        // These steps cross the end of an epoch.
        let bad = || (NEVER, 5..5 + MOST_SKIPPED);
        for every in [Duration::ZERO, Duration::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.safetensors");
            let (ended, _, steps) = run(bad(), &compute, Some(dir.path()), 100, every);
            let Err(Error::NotFinite {
                step,
                in_row,
                last_good,
                ..
            }) = ended
            else {
                panic!("{ended:?}")
            };
            assert_eq!((step, in_row, steps.len()), (10, MOST_SKIPPED, 10));
            assert_eq!(last_good, path.display().to_string());
            // A second run fails again and leaves the state unchanged.
            let state = std::fs::read(&path).unwrap();
            let (again, ..) = run(bad(), &compute, Some(dir.path()), 100, Duration::MAX);
            assert!(matches!(again, Err(Error::NotFinite { step: 10, .. })));
            assert_eq!(std::fs::read(&path).unwrap(), state);
            // Without the cause, resuming gives the result of an undisturbed run.
            let (history, resumed, _) = run((NEVER, NEVER), &compute, Some(dir.path()), 100, every);
            let (expected, whole, _) = run((NEVER, NEVER), &compute, None, 100, every);
            assert_eq!(history.unwrap(), expected.unwrap());
            assert_eq!(variables(&resumed), variables(&whole));
        }
    }
}

#[test]
fn training_continues_after_four_bad_steps_and_resuming_keeps_the_count() {
    let bad = || (1..1 + MOST_SKIPPED - 1, 6..7);
    let compute = Compute::default();
    let (expected, whole, steps) = run(bad(), &compute, None, 100, Duration::MAX);
    assert_eq!(steps.last().unwrap().1, MOST_SKIPPED);
    for until in 1..12 {
        let dir = tempfile::tempdir().unwrap();
        let (ended, ..) = run(bad(), &compute, Some(dir.path()), until, Duration::MAX);
        assert!(matches!(ended, Err(Error::Interrupted)), "{until}");
        let (history, params, _) = run(bad(), &compute, Some(dir.path()), 100, Duration::MAX);
        let same = |a: &EpochRecord, b: &EpochRecord| {
            let neither = a.train_loss.is_nan() && b.train_loss.is_nan();
            (neither || a.train_loss == b.train_loss)
                && (a.lr, a.skipped_steps) == (b.lr, b.skipped_steps)
        };
        let (history, expected) = (history.unwrap(), expected.as_ref().unwrap());
        assert!(
            history.iter().zip(expected).all(|(a, b)| same(a, b)),
            "{until}"
        );
        assert_eq!(variables(&params), variables(&whole), "{until}");
    }
}

#[test]
fn a_run_that_ends_with_bad_steps_or_parameters_fails() {
    let compute = Compute::default();
    let (one, ..) = run((11..12, NEVER), &compute, None, 100, Duration::MAX);
    assert_eq!(one.unwrap()[5].skipped_steps, 1);
    let (two, ..) = run((10..12, NEVER), &compute, None, 100, Duration::MAX);
    let Err(Error::NotFinite { step, in_row, .. }) = two else {
        panic!("{two:?}")
    };
    assert_eq!((step, in_row), (12, 2));
    // The first of two steps makes the parameters infinite, the second is skipped.
    let config = PretrainConfig {
        lr: f64::MAX,
        warmup_epochs: 0.0,
        epochs: 1,
        ..config()
    };
    let (data, cx) = (Random { ids: false }, context(None, &|| false));
    let ended = pretrain(&tiny(), spec(false), &config, &data, &cx).map(drop);
    assert!(matches!(ended, Err(Error::Spoilt { .. })), "{ended:?}");
}

/// Only the next step detects parameters that are not finite, so the state on disk must be older than the last update.
#[test]
fn parameters_that_are_not_finite_are_never_written() {
    for every in [Duration::ZERO, Duration::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let config = PretrainConfig {
            lr: 1e38,
            warmup_epochs: 0.0,
            epochs: 30,
            ..config()
        };
        let cx = RunContext {
            checkpoint_every: every,
            ..context(Some(dir.path()), &|| false)
        };
        let data = Random { ids: false };
        let ended = pretrain(&tiny(), spec(false), &config, &data, &cx).map(drop);
        let Err(Error::NotFinite { last_good, .. }) = &ended else {
            panic!("{ended:?}")
        };
        let (found, _) = crate::params::read_state(std::path::Path::new(last_good)).unwrap();
        for (name, (_, values)) in found.iter().filter(|(name, _)| name.starts_with("param.")) {
            assert!(values.iter().all(|v| v.abs() < 10.0), "{name}");
        }
    }
}
