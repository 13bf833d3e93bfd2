//! Codes of several groups: the loss, its gradients, and training on every code path.

use super::*;
use crate::targets::Groups;

fn groups() -> Groups {
    Groups::new(&[5, 3, 4]).unwrap()
}

fn integers(list: &serde_json::Value) -> Vec<u32> {
    floats(list).iter().map(|v| *v as u32).collect()
}

/// Compared with a head per group in PyTorch (`tests/fixtures/mae/codes.py`).
#[test]
fn loss_and_every_gradient_of_product_codes_match_pytorch() {
    let fixture = json("mae/codes.json");
    let vit = VitConfig {
        preset: &TINY,
        image_size: 8,
        patch_size: 4,
    };
    let shuffled = fixture["shuffled"].as_array().unwrap().iter();
    let masks: Vec<Mask> = shuffled
        .map(|mask| Mask {
            shuffled: integers(mask),
            num_kept: 2,
        })
        .collect();
    let images = tensor(formula(1, 2 * 3 * 64, 1.0), &[2, 3, 8, 8]);
    let codes = Tensor::from_vec(integers(&fixture["targets"]), (2, 4, 3), &Device::Cpu).unwrap();
    for compute in [Compute::default(), Compute::default().composed()] {
        let params = vit::encoder(&vit, 0).unwrap();
        let params = vit::decoder(params, &vit, groups().total(), 0).unwrap();
        set_by_formula(&params, 0.3);
        let params = params.on(&compute).unwrap();
        let targets = Targets::Codes(codes.clone(), groups());
        let pass = Pass::training(false);
        let loss = masked_loss(&params, &vit, &images, &targets, &masks, 0.1, &pass).unwrap();
        let expected = fixture["loss"].as_f64().unwrap();
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!(
            (found - expected).abs() <= 1e-5 * expected,
            "{found} {expected}"
        );
        let grads = pass.gradients(&loss).unwrap();
        for (name, var) in params.trainable() {
            let expected = floats(&fixture["grads"][name]);
            let found = values(grads.get(var).unwrap());
            let scale = expected.iter().map(|g| g.abs()).fold(0.0, f32::max);
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() <= 1e-5 * scale + 1e-7, "{name}: {f} {e}");
            }
        }
    }
}

/// A code per group that the place of the patch in the shard determines.
struct Grouped;

impl PretrainData for Grouped {
    fn len(&self) -> usize {
        70
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> Result<(Tensor, Targets)> {
        let (images, _) = Random { ids: true }.shard(epoch, indices)?;
        let codes: Vec<u32> = (0..indices.len() as u32 * 16)
            .flat_map(|i| [i % 5, i % 3, i % 4])
            .collect();
        let codes = Tensor::from_vec(codes, (indices.len(), 16, 3), &Device::Cpu)?;
        Ok((images, Targets::Codes(codes, groups())))
    }
}

#[test]
fn training_on_codes_has_the_same_losses_on_every_code_path() {
    let losses = |compute: Compute, workers: usize| {
        let losses = std::sync::Mutex::new(Vec::new());
        let progress = |at: &crate::Progress| losses.lock().unwrap().push(at.loss);
        let cx = RunContext {
            progress: &progress,
            compute,
            workers,
            ..context(None, &|| false)
        };
        let spec = TargetSpec::Codes { groups: groups() };
        pretrain(&tiny(), spec, &config(), &Grouped, &cx).unwrap();
        losses.into_inner().unwrap()
    };
    let composed = Compute::default().composed();
    let expected = losses(Compute::default(), 0);
    assert_eq!(losses(Compute::default(), 2), expected);
    // A mean of uniform guesses of 5, 3 and 4 codes.
    let chance = [5.0_f64, 3.0, 4.0].map(f64::ln).iter().sum::<f64>() / 3.0;
    assert!(
        (expected[0] - chance).abs() < 0.2,
        "{} {chance}",
        expected[0]
    );
    for compute in [composed.clone().within(1), composed] {
        for (f, e) in losses(compute, 0).iter().zip(&expected) {
            assert!((f - e).abs() <= 1e-5 * e.abs(), "{f} {e}");
        }
    }
    let rounded = Compute::cpu(crate::Precision::Bf16);
    for compute in [rounded.clone(), rounded.composed()] {
        for (f, e) in losses(compute, 0).iter().zip(&expected) {
            assert!((f - e).abs() <= 1e-2 * e.abs(), "{f} {e}");
        }
    }
}

#[test]
fn a_code_beyond_its_group_is_refused() {
    let vit = tiny();
    let params = vit::encoder(&vit, 0).unwrap();
    let params = vit::decoder(params, &vit, groups().total(), 0).unwrap();
    let (images, _) = Grouped.shard(0, &[0]).unwrap();
    // 3 is a code of the first and the third group, but not of the second.
    let codes = Tensor::full(3_u32, (1, 16, 3), &Device::Cpu).unwrap();
    let mask = [Mask::draw(0, 0, 0, 16, 0.75)];
    let targets = Targets::Codes(codes, groups());
    let pass = Pass::training(false);
    let loss = masked_loss(&params, &vit, &images, &targets, &mask, 0.1, &pass);
    let error = loss.unwrap_err().to_string();
    assert!(error.contains("id 3 is not in 0..3"), "{error}");
}

#[test]
fn groups_of_one_size_have_the_mean_of_their_losses_too() {
    let groups = Groups::new(&[4, 4, 4]).unwrap();
    let codes: Vec<u32> = (0..21).map(|i| i * 7 % 4).collect();
    let scores = candle_core::Var::from_tensor(&tensor(formula(3, 84, 2.0), &[7, 12])).unwrap();
    let found = grouped_cross_entropy(&scores, &codes, &groups, 0.1).unwrap();
    let each = (0..3).map(|group| {
        let own = scores.narrow(1, 4 * group, 4).unwrap();
        cross_entropy(&own, groups.of_group(group, &codes), 0.1).unwrap()
    });
    let expected = Tensor::stack(&each.collect::<Vec<_>>(), 0).unwrap();
    let expected = expected.mean_all().unwrap();
    let number = |loss: &Tensor| loss.to_scalar::<f32>().unwrap();
    assert!((number(&found) - number(&expected)).abs() < 1e-6);
    let [found, expected] = [found, expected].map(|loss| {
        let grads = loss.backward().unwrap();
        values(grads.get(&scores).unwrap())
    });
    for (f, e) in found.iter().zip(&expected) {
        assert!((f - e).abs() < 1e-7, "{f} {e}");
    }
    assert!(expected.iter().any(|g| *g != 0.0));
}
