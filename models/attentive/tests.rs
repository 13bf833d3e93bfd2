use super::*;
use crate::testing::{
    assert_close, assert_parameters_of, fixture, formula, json, numbers, set_by_formula, values,
};

const SIZES: Sizes = Sizes {
    patches: 9,
    width: 12,
    classes: 5,
};

const FORMS: [(&str, Form); 2] = [
    ("multi", Form::MultiQuery { queries: 4 }),
    ("single", Form::SingleQuery { heads: 3 }),
];

/// The tokens of `tests/fixtures/attentive/make.py`: of an image per step and position, in any order of the batch.
struct ByFormula;

impl TokenData for ByFormula {
    fn tokens(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        Ok(indices
            .iter()
            .flat_map(|at| image(40 * epoch + at))
            .collect())
    }
}

fn image(image: usize) -> Vec<f32> {
    let mut x = formula(600_000 + image as u32, SIZES.patches * SIZES.width, 1.0);
    let row = image % SIZES.patches;
    let moved = &mut x[row * SIZES.width..][..SIZES.width];
    moved
        .iter_mut()
        .for_each(|v| *v += (0.4 * (image % 5) as f64) as f32);
    x
}

/// The images 900,000 and later.
struct Later;

impl TokenData for Later {
    fn tokens(&self, _: usize, indices: &[usize]) -> Result<Vec<f32>> {
        Ok(indices.iter().flat_map(|at| image(900_000 + at)).collect())
    }
}

fn config(rates: &[f64], epochs: usize, batch: usize) -> ProbeConfig {
    ProbeConfig {
        epochs,
        batch,
        rates: rates.to_vec(),
        warmup_epochs: 2.0,
        weight_decay: 0.05,
        lars: false,
        seed: 0,
    }
}

fn labels(count: u32) -> Vec<u32> {
    (0..count).map(|i| i % 5).collect()
}

#[test]
fn ten_steps_and_the_scores_after_them_match_pytorch() {
    for (name, form) in FORMS {
        let model = Model::new(form, SIZES, 0).unwrap();
        set_by_formula(&model.params, 0.5);
        let cx = RunContext::default();
        let history = learn(
            &config(&[0.02], 10, 40),
            &model,
            (&ByFormula, &labels(40)),
            &cx,
        );
        let losses = history.unwrap().into_iter().map(|epoch| epoch.train_loss);
        let expected = numbers(&json("attentive/losses.json")[name]);
        for (step, (found, expected)) in losses.zip(&expected).enumerate() {
            let apart = (found - expected).abs();
            assert!(
                apart <= 1e-4 * expected,
                "{name}, step {step}: {found} {expected}"
            );
        }
        let file = format!("attentive/{name}.safetensors");
        let found = scores(&model, &Later, 8, &cx).unwrap();
        let (_, expected) = &crate::params::read(&fixture(&file)).unwrap()["scores"];
        assert_close(name, &found, expected, 1e-4, 0..0);
        assert_parameters_of(&file, &model.params);
    }
}

/// Central differences of the loss, in every parameter.
#[test]
fn explicit_gradients_match_differences() {
    for (name, form) in FORMS {
        let model = Model::new(form, SIZES, 3).unwrap();
        set_by_formula(&model.params, 0.4);
        let labels = labels(20);
        let loss = || {
            let tokens = Later.tokens(0, &Vec::from_iter(0..20)).unwrap();
            let mut running = head::running(&model.params).unwrap();
            model.gradients(tokens, &labels, &mut running).unwrap()
        };
        let (_, gradients) = loss();
        let mut checked = 0;
        for ((parameter, var), gradient) in model.params.trainable().zip(gradients) {
            assert_eq!(gradient.len(), var.elem_count(), "{name} {parameter}");
            let before = values(var);
            for at in (0..before.len()).step_by(7) {
                let at_step = |step: f32| {
                    let mut moved = before.clone();
                    moved[at] += step;
                    model.params.set(parameter, moved).unwrap();
                    loss().0
                };
                let step = 5e-3;
                let slope = (at_step(step) - at_step(-step)) / f64::from(2.0 * step);
                let apart = (slope - f64::from(gradient[at])).abs();
                assert!(
                    apart < 2e-3,
                    "{name} {parameter}[{at}]: {slope} {}",
                    gradient[at]
                );
                checked += 1;
            }
            model.params.set(parameter, before).unwrap();
        }
        assert!(checked > 30);
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for (_, form) in FORMS {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let run = || {
                let labels = labels(70);
                let train: (&dyn TokenData, &[u32]) = (&ByFormula, &labels);
                let cx = RunContext::default();
                attend(
                    form,
                    &config(&[0.02, 1e-9], 4, 35),
                    SIZES,
                    train,
                    train,
                    &cx,
                )
            };
            let attended = pool.install(run).unwrap();
            let all = attended.params.names().iter();
            let all = all.map(|name| values(attended.params.get(name).unwrap()));
            (all.collect::<Vec<_>>(), attended.history, attended.choice)
        };
        let one = run(1);
        assert_eq!(one, run(3));
        assert_eq!(one.2.unwrap().best, 0);
    }
}

/// A source that is interrupted after some batches.
struct Ending(std::sync::atomic::AtomicUsize);

impl TokenData for Ending {
    fn tokens(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.0.load(SeqCst);
        if left == 0 {
            return Err(Error::Interrupted);
        }
        self.0.store(left - 1, SeqCst);
        ByFormula.tokens(epoch, indices)
    }
}

#[test]
fn an_interrupted_probe_resumes_to_the_same_bytes() {
    let labels = labels(60);
    for (_, form) in FORMS {
        let run = |state, left: usize| {
            let cx = RunContext {
                state,
                ..RunContext::default()
            };
            let source = Ending(left.into());
            let train: (&dyn TokenData, &[u32]) = (&source, &labels);
            let val: (&dyn TokenData, &[u32]) = (&Later, &[0; 8]);
            attend(form, &config(&[0.02, 0.01], 3, 20), SIZES, train, val, &cx)
        };
        let whole = run(None, usize::MAX).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut rounds = 0;
        let resumed = loop {
            rounds += 1;
            match run(Some(folder.path()), 4) {
                Err(Error::Interrupted) => assert!(rounds < 40),
                done => break done.unwrap(),
            }
        };
        assert!(rounds > 4, "{rounds}");
        assert_eq!(resumed.evaluation, whole.evaluation);
        assert_eq!(resumed.history, whole.history);
        assert_eq!(resumed.choice, whole.choice);
        for name in whole.params.names() {
            let [found, expected] =
                [&resumed, &whole].map(|probe| values(probe.params.get(name).unwrap()));
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn queries_that_do_not_divide_the_width_are_refused() {
    let error = Form::MultiQuery { queries: 5 }
        .check(12)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("5 queries") && error.contains("width 12"),
        "{error}"
    );
    assert!(Form::SingleQuery { heads: 0 }.check(12).is_err());
}
