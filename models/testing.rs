//! Helpers of tests that compare with PyTorch: the formula of `tests/fixtures/reference.py`, and readers of fixtures.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
pub use tessera_testing::formula;

use crate::gradients::{Alone, Gradient, Gradients, Reduction, layout};
use crate::objective::Objective;
use crate::params::ParamStore;

/// `reference.salt_of`.
fn salt_of(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, byte| {
        (h ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// `reference.set_by_formula`: sets every trainable parameter.
pub fn set_by_formula(params: &ParamStore, scale: f64) {
    for (name, var) in params.trainable() {
        let mut values = formula(salt_of(name), var.elem_count(), scale);
        if name.contains("norm") && name.ends_with("weight") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        var.set(&tensor(values, var.dims())).unwrap();
    }
}

pub fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns the path of a file under `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(path)
}

pub fn json(path: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

pub fn numbers(list: &serde_json::Value) -> Vec<f64> {
    let list = list.as_array().unwrap();
    list.iter().map(|x| x.as_f64().unwrap()).collect()
}

pub fn floats(list: &serde_json::Value) -> Vec<f32> {
    numbers(list).into_iter().map(|v| v as f32).collect()
}

/// Asserts that losses are within 1e-4 of the fixture's.
pub fn assert_losses(name: &str, found: &[f64]) {
    let expected = numbers(&json("train/losses.json")[name]);
    assert_eq!(found.len(), expected.len(), "{name}");
    for (step, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (f - e).abs() <= 1e-4 * e.abs(),
            "{name}, step {step}: {f} {e}"
        );
    }
}

/// Asserts that parameters are within 1e-4 of the fixture's, relative to the tensor's largest value.
pub fn assert_parameters(name: &str, params: &ParamStore) {
    assert_parameters_of(&format!("train/{name}.safetensors"), params);
}

/// As [`assert_parameters`], with the fixture's path. `scores` are no parameter.
pub fn assert_parameters_of(path: &str, params: &ParamStore) {
    let expected = crate::params::read(&fixture(path)).unwrap();
    let parameters = expected.iter().filter(|(key, _)| *key != "scores");
    for (key, (shape, expected)) in parameters {
        let found = params.get(key).unwrap();
        assert_eq!(found.dims(), shape, "{key}");
        let found = values(found);
        // A key's bias changes no attention weight: its gradient is rounding noise, which AdamW scales to full steps.
        let skip = match key.ends_with("qkv.bias") {
            true => found.len() / 3..found.len() / 3 * 2,
            false => 0..0,
        };
        assert_close(key, &found, expected, 1e-4, skip);
    }
}

/// Asserts that numbers are within `tolerance` relative to the largest expected one, except at the positions `skip`.
pub fn assert_close(
    what: &str,
    found: &[f32],
    expected: &[f32],
    tolerance: f32,
    skip: std::ops::Range<usize>,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f32, |s, e| s.max(e.abs()));
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        let near = (f - e).abs() <= tolerance * scale;
        assert!(
            near || skip.contains(&at),
            "{what}[{at}]: {f}, expected {e}, scale {scale}"
        );
    }
}

/// Computes loss and gradients of one batch.
pub fn gradients(
    params: &ParamStore,
    objective: &impl Objective,
    batch: &[usize],
) -> (f64, Vec<Vec<f32>>) {
    let mut gradients = Gradients::new(params, &Alone).unwrap();
    let loss = of_batch(&mut gradients, params, objective, &Alone, batch).unwrap();
    (loss, lists(gradients.gradient(), params))
}

/// Returns a gradient in either form as a list per variable.
pub fn lists(gradient: &Gradient, params: &ParamStore) -> Vec<Vec<f32>> {
    match gradient {
        Gradient::Lists(lists) => lists.clone(),
        Gradient::Resident => panic!("the gradient is with the parameters"),
        Gradient::Flat(all) => {
            let (all, flat) = (values(all), layout(params));
            let ranges = (0..flat.starts.len()).map(|at| flat.range(at));
            ranges.map(|range| all[range].to_vec()).collect()
        }
    }
}

/// Computes this process's part of a batch: returns the loss and stores the gradient in `gradients`.
pub fn of_batch(
    gradients: &mut Gradients<'_>,
    params: &ParamStore,
    objective: &impl Objective,
    reduction: &impl Reduction,
    batch: &[usize],
) -> crate::Result<f64> {
    let shards = objective.shards(batch.len());
    let mine = &shards[reduction.mine(shards.len())];
    let take = |shard: usize| objective.prepare(0, 0, batch, &mine[shard]);
    gradients.of(params, objective, mine.len(), &take)
}
