//! Runs whose images, targets and codebooks are made on an emulated device against the CPU's.

use std::sync::atomic::AtomicBool;

use crate::Registry;
use tessera_testing::emulation;

use super::*;
use crate::run::Mode;
use crate::run::reporter::Silent;
use crate::run::stages::{count, evaluate, fit, pretrain, scan};
use crate::store::{Entry, Store};
use crate::suite::Suite;

const SUITE: &str = "version: 1
name: device
seeds: [0]
dataset: {kind: mosaics, seed: 3, train: 50, val: 6, size: 20}
image_size: 16
patch_size: 4
eval_transform: {resize_shorter: 20, crop: 17}
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 5, epochs: 2, batch: 32}}
pretrain: {epochs: 2, batch: 16, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}
fine_tune: {epochs: 1, batch: 16, base_lr: 1.0e-3, layer_decay: 0.75, pooling: mean, warmup_epochs: 0, drop_path: 0.0, mixup: 0.8, cutmix: 1.0, augment: random-resized-crop, auto_augment: none, random_erasing: 0}
";

/// Calls `work` with a run of the suite in a store of its own.
fn with_run<R>(
    launcher: Option<&Device>,
    workers: usize,
    work: impl FnOnce(&Context<'_>, &Images) -> R,
) -> R {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.yaml");
    std::fs::write(&path, SUITE).unwrap();
    let registry = Registry::builtin();
    let suite = Suite::load(&path, &[], &registry).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let mut cx = Context::new(&suite, &registry, &store, &Silent, &stop, 2);
    cx.launcher = launcher.cloned();
    cx.workers = workers;
    let images = scan::scan(&cx).unwrap();
    work(&cx, &images)
}

fn file(entry: &Entry, name: &str) -> Vec<u8> {
    std::fs::read(entry.dir.join(name)).unwrap()
}

#[test]
fn crops_made_on_a_device_are_the_cpus_to_the_bit() {
    let Some(device) = emulation::device() else {
        return;
    };
    let looks = |device| {
        with_run(device, 0, |cx, images| {
            let train = |augment, scale| Looks::train(cx, images, augment, scale, 7);
            let looks = [
                Looks::eval(cx, images, Split::Val),
                train(Augment::RandomResizedCrop, (0.2, 1.0)),
                train(Augment::FixedView, (1.0, 1.0)),
                // What is changed besides is the CPU's.
                train(Augment::RandomResizedCrop, (0.2, 1.0)).changed(None, 1.0),
            ];
            let values = |looks: &Looks<'_>| {
                let tensor = looks.images(1, &[5, 0, 3]).unwrap();
                assert_eq!(tensor.dims(), [3, 3, 16, 16]);
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            looks.each_ref().map(values)
        })
    };
    assert!(looks(Some(&device)) == looks(None));
}

/// Ids are the same integers and pixels the same bits, so what is trained on them is too, whoever loads them.
#[test]
fn a_run_fed_by_a_device_trains_the_same_weights() {
    let Some(device) = emulation::device() else {
        return;
    };
    let run = |device, workers| {
        with_run(device, workers, |cx, images| {
            let row = &cx.suite.rows[0];
            let fitted = fit::fit(cx, Mode::Compute, images, row).unwrap().unwrap();
            let counted = count::count(cx, Mode::Compute, images, "K", &fitted);
            let counts = file(&counted.unwrap().unwrap(), "counts.npy");
            let made = pretrain::model_of(cx, Mode::Compute, images, row, Some(&fitted), 0);
            let pretrain::Made::Pretrained(made) = made.unwrap() else {
                panic!("nothing was pretrained")
            };
            let which = (crate::run::cell::Trained::Pretrain, made);
            let encoder = evaluate::Encoder::new(cx, images, Some(&which), 0).unwrap();
            let recipe = row.recipes.fine_tune.as_ref().unwrap();
            let tuned = evaluate::finetune(&encoder, Mode::Compute, "K", recipe);
            let tuned = tuned.unwrap().unwrap();
            let codebook = fitted.entry.unwrap();
            (
                counts,
                file(&which.1, pretrain::CHECKPOINT),
                file(&tuned, "finetuned.safetensors"),
                codebook.key != which.1.key,
            )
        })
    };
    let expected = run(None, 0);
    assert!(expected == run(None, 2), "loader threads changed something");
    assert!(
        expected == run(Some(&device), 2),
        "the device changed something"
    );
}

#[test]
fn what_a_device_makes_is_stored_under_another_key() {
    let Some(device) = emulation::device() else {
        return;
    };
    let numerics = |device| with_run(device, 0, |cx, _| cx.numerics(None));
    let (here, there) = (numerics(None), numerics(Some(&device)));
    assert_ne!(here, there);
    assert_eq!(there["launcher"], device.name());
}
