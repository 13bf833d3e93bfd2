//! The probes of the small suites against the optimum of L2-regularised logistic regression on the same features
//! (`tests/fixtures/probe/make.py`).

use std::path::PathBuf;

use serde_json::Value;
use tessera_models::RunContext;
use tessera_models::encode::{Frozen, Pool};
use tessera_models::knn::Labelled;
use tessera_models::probe::{Probed, held_out, probe};

use super::config;
use crate::suite;

mod optimum;
use optimum::Problem;

const TRAIN: usize = 1600;
const DIM: usize = 64;
const CLASSES: usize = 10;

/// The recipe of the small suites before their probes converged.
const SHORT: &str = "{epochs: 100, batch: 256, base_lr: 1.0e-3, pooling: mean, warmup_epochs: 10, optimizer: adamw, augment: none}";

/// Features and labels of a fixture, train images first.
struct Fixture {
    name: &'static str,
    features: Vec<f32>,
    labels: Vec<u32>,
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Fixture {
    fn read(name: &'static str) -> Self {
        let bytes = std::fs::read(file(&format!("tests/fixtures/probe/{name}.npy"))).unwrap();
        let all: Vec<u8> = npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap();
        let rows = all.chunks_exact(DIM + 1);
        Self {
            name,
            features: rows
                .clone()
                .flat_map(|r| &r[..DIM])
                .map(|v| f32::from(*v))
                .collect(),
            labels: rows.map(|row| u32::from(row[DIM])).collect(),
        }
    }

    fn probe(&self, recipe: &suite::LinearProbe) -> Probed {
        let (train, val) = self.features.split_at(TRAIN * DIM);
        let (labels, truth) = self.labels.split_at(TRAIN);
        let frozen = Frozen {
            dim: DIM,
            cls: Vec::new(),
            mean: train.to_vec(),
        };
        let val = Labelled {
            features: val,
            labels: truth,
        };
        let config = config(recipe, 0, TRAIN);
        let data = (&frozen, Pool::Mean);
        probe(
            &config,
            DIM,
            CLASSES,
            &data,
            labels,
            val,
            &RunContext::default(),
        )
        .unwrap()
    }

    /// Returns the problem of fitting the images `train`.
    fn problem(&self, train: &[usize]) -> Problem {
        Problem::new(&self.features, &self.labels, DIM, CLASSES, train)
    }
}

fn recipe(text: &str) -> suite::LinearProbe {
    serde_yaml::from_str(text).unwrap()
}

/// Returns the different probes of the suites that a workstation can run.
fn shipped() -> Vec<suite::LinearProbe> {
    let mut recipes: Vec<suite::LinearProbe> = Vec::new();
    for name in ["quickstart", "cifar10", "imagenette160"] {
        let text = std::fs::read_to_string(file(&format!("suites/{name}.yaml"))).unwrap();
        let suite: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        let recipe = serde_yaml::from_value(suite["linear_probe"].clone()).unwrap();
        if !recipes.contains(&recipe) {
            recipes.push(recipe);
        }
    }
    recipes
}

#[test]
fn probes_of_small_suites_reach_the_regularised_optimum_and_a_short_one_is_reported() {
    let text = std::fs::read_to_string(file("tests/fixtures/probe/optimum.json")).unwrap();
    let sklearn: Value = serde_json::from_str(&text).unwrap();
    for fixture in ["identity", "hog"].map(Fixture::read) {
        let name = fixture.name;
        let val: Vec<usize> = (TRAIN..fixture.labels.len()).collect();
        let strengths = sklearn[name].as_object().unwrap();
        // C is chosen on the images on which the probe chooses its rate.
        let [kept, held] = held_out(&fixture.labels[..TRAIN], 0);
        let all: Vec<usize> = (0..TRAIN).collect();
        let (part, whole) = (fixture.problem(&kept), fixture.problem(&all));
        let (mut on_part, mut on_whole) = (part.zeros(), whole.zeros());
        let mut best = (f64::NEG_INFINITY, 0.0);
        for (c, expected) in strengths {
            let c: f64 = c.parse().unwrap();
            part.minimise(&mut on_part, c);
            whole.minimise(&mut on_whole, c);
            let found = whole.accuracy(&on_whole, &val);
            let expected = expected.as_f64().unwrap();
            assert!(
                (found - expected).abs() < 0.25,
                "{name}, C {c}: {found}, scikit-learn {expected}"
            );
            let on_held = part.accuracy(&on_part, &held);
            if on_held > best.0 {
                best = (on_held, found);
            }
        }
        let optimum = best.1;
        let short = fixture.probe(&recipe(SHORT));
        assert!(short.evaluation.top1 < optimum - 2.0, "{name}");
        assert!(
            short.remaining_fall > 0.03,
            "{name}: {}",
            short.remaining_fall
        );
        // The bound holds: the loss can fall by that much.
        let loss = short.history.last().unwrap().train_loss;
        let least = whole.loss(&on_whole);
        assert!(
            loss * (1.0 - short.remaining_fall) > least,
            "{name}: {loss}, {least}"
        );
        for recipe in shipped() {
            let probed = fixture.probe(&recipe);
            let (found, fall) = (probed.evaluation.top1, probed.remaining_fall);
            println!(
                "{name}: LP {found}, optimum {optimum}, fall {fall}, {:?}",
                probed.choice
            );
            assert!(
                found >= optimum - 0.5,
                "{name}: LP {found}, optimum {optimum}"
            );
            assert!(fall <= 0.005, "{name}: {fall}");
        }
    }
}
