use super::*;
use crate::ParamStore;

/// `tests/fixtures/optim/make.py`: five steps of PyTorch's AdamW and of MAE's LARS with given gradients.
#[test]
fn five_steps_are_pytorchs() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/fixtures/optim/torch.json")).unwrap();
    let floats = |v: &serde_json::Value| -> Vec<f32> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect()
    };
    for name in ["adamw", "lars"] {
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
            "adamw" => Box::new(AdamW::new(slots, (0.9, 0.95))),
            _ => Box::new(Lars::new(slots)),
        };
        for (step, grads) in fixture["grads"].as_array().unwrap().iter().enumerate() {
            optimizer
                .step(
                    &[floats(&grads["w"]), floats(&grads["b"])],
                    0.1 / (step + 1) as f64,
                )
                .unwrap();
        }
        for key in ["w", "b"] {
            let found: Vec<f32> = params
                .get(key)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
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
fn the_schedule_is_maes() {
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

/// `tests/fixtures/train/formulas.py`: every iteration of a short run.
#[test]
fn the_rate_of_every_iteration_is_maes() {
    let expected = crate::testing::json("train/formulas.json");
    let schedule = Schedule {
        lr: 1e-3,
        min_lr: 1e-6,
        warmup_epochs: 2.0,
        epochs: 6.0,
    };
    let expected = crate::testing::numbers(&expected["lr"]);
    assert_eq!(expected.len(), 42);
    for (i, e) in expected.iter().enumerate() {
        let found = schedule.at((i / 7) as f64 + (i % 7) as f64 / 7.0);
        assert_eq!(found as f32, *e as f32, "iteration {i}");
    }
}
