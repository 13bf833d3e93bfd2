//! Recorded parts.

use super::*;
use crate::pretrain::resident::memory::{Counted, Fits, recorded_fit};

/// Trains with steps of these parts and returns the losses, the parameters and the moments.
fn trained(device: &Device, spec: TargetSpec, records: bool) -> (Vec<f64>, Vec<Vec<f32>>) {
    let (vit, config, data) = (small(), config(), Noise(spec));
    let params = model(&vit, spec);
    let objective = MaskedPrediction {
        vit: &vit,
        config: &config,
        data: &data,
        params: &params,
    };
    let resident = Resident::new(device, &vit, &params, with()).unwrap();
    let mut resident = resident.recording(records);
    let groups: Vec<Group> = slots(&params, &config)
        .iter()
        .map(|slot| slot.group)
        .collect();
    let mut losses = Vec::new();
    // Parts of new and known sizes at the same and at another place, fewer and more parts, and a longer part than the first.
    let steps = [&[2, 2][..], &[2, 2], &[2, 1], &[3], &[2, 2]];
    for (step, parts) in steps.into_iter().enumerate() {
        let batch: Vec<usize> = (step..step + parts.iter().sum::<usize>()).collect();
        let mut first = 0;
        resident.begin(parts.len()).unwrap();
        for count in parts {
            let shard: Vec<usize> = (first..first + count).collect();
            first += count;
            let prepared = objective.prepare(step, 0, &batch, &shard).unwrap();
            resident
                .part(resident.prepare(vec![prepared]).unwrap())
                .unwrap();
        }
        losses.push(resident.loss().unwrap());
        let steps = adamw_steps(groups.iter().copied(), BETAS, step as u64 + 1, 1e-2);
        resident.update(&steps).unwrap();
    }
    let rows = (0..3).flat_map(|row| resident.weights.rows(row).unwrap());
    (losses, rows.collect())
}

#[test]
fn recorded_steps_have_the_bytes_of_others() {
    let Some(device) = under_test() else {
        return;
    };
    for spec in &specs()[..2] {
        let spec = *spec;
        let (losses, state) = trained(&device, spec, false);
        let recorded = trained(&device, spec, true);
        assert_eq!(recorded, (losses.clone(), state), "{spec:?}");
        assert!(losses[4] < losses[0], "{losses:?}");
    }
}

/// A recorded step starts the same launches. It copies its input: the lists, the pixels, and the values of targets that are values.
#[test]
fn a_recorded_step_asks_for_the_same_launches() {
    let vit = VitConfig {
        preset: vit::preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    for (spec, copies) in [
        (TargetSpec::Ids { codebook_size: 50 }, 2),
        (TargetSpec::Values { dim: 768 }, 3),
    ] {
        let params = model(&vit, spec);
        let counted = |records| {
            let mut counted = Counted::new(&vit, &params, spec, shape()).unwrap();
            if records {
                counted = counted.recording();
            }
            let steps = [(); 2].map(|()| {
                counted.ledger.clear();
                counted.step(256).unwrap();
                (counted.ledger.lines(), counted.ledger.most_bytes())
            });
            let [_, second] = steps;
            second
        };
        let ((mut lines, bytes), (recorded, most)) = (counted(false), counted(true));
        lines.remove("allocate");
        let mut found = recorded;
        let copied = found.remove("copy").unwrap();
        // Input, rates and decays are allocated, and nothing else.
        let allocated = found.remove("allocate").unwrap().calls;
        assert_eq!(
            (copied.calls, allocated <= 6),
            (copies, true),
            "{allocated}"
        );
        assert_eq!(found, lines);
        let input = (copied.bytes / 2) as f64;
        let more = (most - bytes) as f64;
        tell(&format!(
            "A recorded step of 256 images of ViT-S/16 takes {:.3} times the memory, {:.2} times its input more",
            most as f64 / bytes as f64,
            more / input
        ));
        assert!(more < 1.5 * input + 0.1 * bytes as f64, "{more} {input}");
        let device = Ledger::default().device();
        let fits = |memory| {
            let fits = Fits {
                device: &device,
                memory,
                most: 256,
                least: 16,
            };
            recorded_fit(&fits, (&vit, &params), spec, shape(), 256).unwrap()
        };
        assert_eq!([fits(1 << 20), fits(1 << 40)], [false, true]);
    }
}
