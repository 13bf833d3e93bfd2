//! Launches, bytes and memory of a step.

use super::*;

/// The step of ViT-S/16 at 224 px in a part of 4096 images, as `bench speed pretrain --preset vit-s-224 --ledger` prints it.
#[test]
fn a_step_of_vit_s_has_few_launches_and_little_traffic() {
    let vit = VitConfig {
        preset: vit::preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let spec = TargetSpec::Ids { codebook_size: 50 };
    let counts = counts(&vit, spec, shape(), 4096).unwrap();
    let units = counts.bytes as f64 / counts.unit as f64;
    let memory = counts.most_bytes as f64 / 4096e6;
    tell(&format!(
        "ViT-S/16, 224 px, 4096 images: {} launches, {units:.1} units of traffic, {memory:.1} MB of memory an image",
        counts.launches,
    ));
    assert_eq!(counts.launches, 573);
    assert!(units <= 115.0, "{units}");
    assert!(memory <= 22.0, "{memory}");
    assert_eq!(counts.lines["wait"].calls, 1);
    assert!(!counts.lines.contains_key("copy"));

    let shape = Shape {
        residual_stream: Precision::F32,
        ..shape()
    };
    let wide = crate::pretrain::counts(&vit, spec, shape, 4096).unwrap();
    let more = wide.bytes as f64 / counts.bytes as f64;
    tell(&format!(
        "A residual stream in f32 moves {more:.3} times the bytes"
    ));
    assert_eq!(wide.launches, counts.launches);
    assert!(more > 1.05 && more < 1.1, "{more}");
}

#[test]
fn a_device_counts_the_calls_of_its_steps_as_the_ledger_does() {
    let Some(device) = under_test() else {
        return;
    };
    let (vit, spec) = (small(), specs()[0]);
    let mut compute = Compute::default().resident_on(device.clone(), 1 << 28);
    let counting = compute.count().unwrap();
    let config = PretrainConfig {
        epochs: 2,
        batch: 16,
        ..config()
    };
    let steps = Mutex::new(Vec::new());
    let cx = RunContext {
        progress: &|_| {
            steps.lock().unwrap().push(counting.ledger().lines());
            counting.clear();
        },
        compute,
        ..RunContext::default()
    };
    pretrain(&vit, spec, &config, &Noise(spec), &cx).unwrap();
    let expected = counts(&vit, spec, shape(), 16).unwrap().lines;
    // The first step also prepares its own input, and the last none.
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.len(), 4);
    for lines in &steps[1..3] {
        assert_eq!(lines, &expected);
    }
}
