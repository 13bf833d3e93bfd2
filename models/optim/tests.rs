use super::*;
use crate::gradients::layout;
use crate::testing::{floats, json, numbers, values};
use crate::{Compute, ParamStore};
use candle_core::{Device, Tensor, Var};

/// Compared with PyTorch's AdamW and MAE's LARS for given gradients (`tests/fixtures/optim/make.py`).
#[test]
fn five_steps_match_pytorch() {
    let fixture = json("optim/torch.json");
    let (lists, flat) = (Compute::default(), Compute::default().composed());
    let cases = ["adamw", "lars"].map(|name| [(name, &lists), (name, &flat)]);
    for (name, compute) in cases.concat() {
        let mut params = ParamStore::default();
        params
            .add("w", &[3, 4], floats(&fixture["w"]), true)
            .unwrap();
        params.add("b", &[4], floats(&fixture["b"]), true).unwrap();
        let slots: Vec<Slot> = params
            .trainable()
            .map(|(name, var)| Slot {
                name: name.into(),
                var: var.clone(),
                group: Group {
                    lr_scale: 1.0,
                    weight_decay: if name == "w" { 0.05 } else { 0.0 },
                },
            })
            .collect();
        let mut optimizer: Box<dyn Optimizer> = match name {
            "adamw" => Box::new(AdamW::new(slots, (0.9, 0.95), compute).unwrap()),
            _ => Box::new(Lars::new(slots, compute).unwrap()),
        };
        for (step, grads) in fixture["grads"].as_array().unwrap().iter().enumerate() {
            let each = ["w", "b"].map(|key| {
                let values = floats(&grads[key]);
                Tensor::from_vec(values, params.get(key).unwrap().shape(), &Device::Cpu).unwrap()
            });
            let gradient = Gradient::of(compute, &layout(&params), &[&each[0], &each[1]]);
            let is_flat = matches!(gradient, Ok(Gradient::Flat(_)));
            assert_eq!(is_flat, compute.is_composed());
            let lr = 0.1 / (step + 1) as f64;
            optimizer.step(&gradient.unwrap(), lr).unwrap();
            // Saving and restoring the state must not change the following steps.
            let (saved, steps) = optimizer.state().unwrap();
            let find = |key: &str| Some(saved.iter().find(|(name, ..)| name == key)?.2.clone());
            let mut zeros = |key: &str| find(key).map(|v| vec![0.0; v.len()]);
            optimizer.restore(&mut zeros, 0).unwrap();
            optimizer.restore(&mut { find }, steps).unwrap();
        }
        for key in ["w", "b"] {
            let found = values(params.get(key).unwrap());
            for (f, e) in found.iter().zip(floats(&fixture[name][key])) {
                assert!(
                    (f - e).abs() <= 1e-6 + 1e-5 * e.abs(),
                    "{name} {key}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn the_schedule_has_warm_up_and_cosine() {
    let schedule = Schedule {
        lr: 1.0,
        min_lr: 0.1,
        warmup_epochs: 2.0,
        epochs: 10.0,
    };
    assert_eq!(schedule.at(0.0), 0.0);
    assert_eq!(schedule.at(1.0), 0.5);
    assert_eq!(schedule.at(2.0), 1.0);
    assert!((schedule.at(6.0) - 0.55).abs() < 1e-12);
    assert!((schedule.at(10.0) - 0.1).abs() < 1e-12);
}

/// Compared with `tests/fixtures/train/formulas.py` for a short run.
#[test]
fn the_rate_of_every_iteration_matches_mae() {
    let expected = json("train/formulas.json");
    let schedule = Schedule {
        lr: 1e-3,
        min_lr: 1e-6,
        warmup_epochs: 2.0,
        epochs: 6.0,
    };
    let expected = numbers(&expected["lr"]);
    assert_eq!(expected.len(), 42);
    for (i, e) in expected.iter().enumerate() {
        let found = schedule.at((i / 7) as f64 + (i % 7) as f64 / 7.0);
        assert_eq!(found as f32, *e as f32, "iteration {i}");
    }
}

#[test]
fn gradients_of_another_device_are_an_error() {
    let mut params = ParamStore::default();
    params.add("w", &[2, 3], vec![1.0; 6], true).unwrap();
    let compute = Compute::default();
    let slot = |(name, var): (&str, &Var)| Slot {
        name: name.into(),
        var: var.clone(),
        group: Group {
            lr_scale: 1.0,
            weight_decay: 0.0,
        },
    };
    let slots = || params.trainable().map(slot).collect::<Vec<_>>();
    let grad = Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let flat = Gradient::of(&compute.clone().composed(), &layout(&params), &[&grad]).unwrap();
    let mut adamw = AdamW::new(slots(), (0.9, 0.95), &compute).unwrap();
    let mut lars = Lars::new(slots(), &compute).unwrap();
    for optimizer in [&mut adamw as &mut dyn Optimizer, &mut lars] {
        let error = optimizer.step(&flat, 0.1).unwrap_err().to_string();
        assert!(error.contains("another device"), "{error}");
        assert_eq!(optimizer.state().unwrap().1, 0);
    }
}
