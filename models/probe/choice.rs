//! The choice of a learning rate: every rate trains a layer on the same batches of a part of the train images, and the rest of the train
//! images tells which layer is best.

use std::collections::HashMap;
use std::path::Path;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::evaluation::evaluate;
use super::head::{Head, cross_entropy};
use super::steps::{ProbeConfig, ProbeData, learn};
use crate::error::{Error, Result};
use crate::params;
use crate::rng::keyed_rng;
use crate::train::RunContext;

/// One of this many train images of each class is held out.
const SHARE: usize = 10;
/// Folder of the resume state.
const TRAINING: &str = "rates";
/// File of the finished choice, beside the resume state of the probe itself.
pub(crate) const CHOSEN: &str = "rate.safetensors";

/// What the held-out images say about the learning rates, in the order of [`ProbeConfig::rates`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Number of held-out images.
    pub images: usize,
    /// Accuracy of each rate, in percent.
    pub top1: Vec<f64>,
    /// Mean cross-entropy of each rate.
    pub loss: Vec<f64>,
    /// The rate with the highest accuracy, among equals the one with the lowest cross-entropy.
    pub best: usize,
}

/// Returns the train images that are kept, and those that are held out to choose a rate.
///
/// # Errors
/// [`Error::Data`] if no image can be held out.
pub(crate) fn split(labels: &[u32], seed: u64) -> Result<[Vec<usize>; 2]> {
    let [kept, held] = held_out(labels, seed);
    if held.is_empty() {
        return Err(Error::Data(
            "no train image can be held out to choose among several rates, because no class has two images; give `base_lr` one rate"
                .into(),
        ));
    }
    Ok([kept, held])
}

/// Trains with every rate and compares the accuracies. Random crops of the held-out images are those of the first epoch. `single` is the
/// head that the chosen rate will train. A finished choice is read from the state folder.
///
/// # Errors
/// Errors of training; [`Error::Data`] if no image can be held out.
pub(super) fn choose(
    config: &ProbeConfig,
    single: &Head,
    data: &dyn ProbeData,
    labels: &[u32],
    cx: &RunContext<'_>,
) -> Result<Choice> {
    let chosen = cx.state.map(|folder| folder.join(CHOSEN));
    if let Some(choice) = chosen.as_deref().and_then(kept_choice) {
        return Ok(choice);
    }
    let [kept, held] = split(labels, config.seed)?;
    let state = cx.state.map(|folder| folder.join(TRAINING));
    if let Some(folder) = &state {
        std::fs::create_dir_all(folder).map_err(|e| params::refuse(folder, e))?;
    }
    let within = RunContext {
        state: state.as_deref(),
        compute: cx.compute.clone(),
        ..*cx
    };
    let classes = single.classes()?;
    let layers = config.rates.len();
    let head = Head::new(single.dim, classes, layers, config.seed, &cx.compute)?;
    let of = |indices: &[usize]| -> Vec<u32> { indices.iter().map(|i| labels[*i]).collect() };
    let part = Part {
        data,
        indices: &kept,
    };
    learn(config, &head, &part, &of(&kept), &within)?;
    let scores = head.scores(&data.features(0, &held)?)?;
    let choice = judge(&scores, classes, &of(&held));
    if let Some(path) = chosen {
        write(&path, &choice)?;
    }
    Ok(choice)
}

/// Computes what the held-out images say; `scores` are `[images, classes]` for each rate.
pub(crate) fn judge(scores: &[Vec<f32>], classes: usize, labels: &[u32]) -> Choice {
    let top1 = scores.iter().map(|s| evaluate(s, classes, labels).top1);
    let loss = scores.iter().map(|s| cross_entropy(s, classes, labels));
    Choice::of(labels.len(), top1.collect(), loss.collect())
}

impl Choice {
    /// Chooses the best rate.
    pub(crate) fn of(images: usize, top1: Vec<f64>, loss: Vec<f64>) -> Self {
        let better = |a: &usize, b: &usize| {
            let losses = loss[*b].total_cmp(&loss[*a]);
            top1[*a].total_cmp(&top1[*b]).then(losses).then(b.cmp(a))
        };
        Self {
            images,
            best: (0..top1.len()).max_by(better).unwrap_or(0),
            top1,
            loss,
        }
    }
}

/// Splits the images by class at random into those that train and those that are held out, a tenth of each class with at least two
/// images. Both lists are sorted.
pub fn held_out(labels: &[u32], seed: u64) -> [Vec<usize>; 2] {
    let mut classes: HashMap<u32, Vec<usize>> = HashMap::new();
    for (index, label) in labels.iter().enumerate() {
        classes.entry(*label).or_default().push(index);
    }
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    for (class, mut images) in classes {
        let mut rng = keyed_rng(seed, "probe-held-out", 0, u64::from(class));
        images.shuffle(&mut rng);
        let count = match images.len() {
            1 => 0,
            len => len.div_ceil(SHARE),
        };
        kept.extend(images.split_off(count));
        held.extend(images);
    }
    kept.sort_unstable();
    held.sort_unstable();
    [kept, held]
}

/// Some of the images.
struct Part<'a> {
    data: &'a dyn ProbeData,
    indices: &'a [usize],
}

impl ProbeData for Part<'_> {
    fn features(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        let all: Vec<usize> = indices.iter().map(|i| self.indices[*i]).collect();
        self.data.features(epoch, &all)
    }
}

/// Key of the choice in the file's metadata.
const KEY: &str = "choice";

/// Writes a finished choice.
///
/// # Errors
/// [`Error::Checkpoint`].
pub(crate) fn write(path: &Path, choice: &Choice) -> Result<()> {
    let text = serde_json::to_string(choice).map_err(|e| Error::Config(e.to_string()))?;
    params::write_state(path, Vec::new(), [(KEY.to_owned(), text)].into())
}

/// Reads a finished choice. `None` for an absent or unusable file: the choice is then made again, with the same result.
pub(crate) fn kept_choice(path: &Path) -> Option<Choice> {
    let (_, metadata) = params::read_state(path).ok()?;
    serde_json::from_str(metadata.get(KEY)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Compute;
    use crate::testing::values;

    /// Vectors of three classes that overlap.
    struct Overlapping;

    impl ProbeData for Overlapping {
        fn features(&self, _: usize, indices: &[usize]) -> Result<Vec<f32>> {
            let value = |i: usize, d: usize| {
                let noise = (i * 37 + d * 101) % 29;
                f32::from(u8::from(i % 3 == d)) + noise as f32 / 15.0
            };
            Ok(indices
                .iter()
                .flat_map(|i| (0..4).map(move |d| value(*i, d)))
                .collect())
        }
    }

    fn labels() -> Vec<u32> {
        (0..120).map(|i| i % 3).collect()
    }

    fn config(rates: &[f64], lars: bool) -> ProbeConfig {
        ProbeConfig {
            epochs: 5,
            batch: 30,
            rates: rates.to_vec(),
            warmup_epochs: 1.0,
            weight_decay: 0.01,
            lars,
            seed: 3,
        }
    }

    #[test]
    fn a_tenth_of_each_class_is_held_out() {
        let mut labels: Vec<u32> = (0..200).map(|i| i % 4).collect();
        labels.extend([7, 8, 8]);
        let [kept, held] = held_out(&labels, 0);
        let mut all = [kept.clone(), held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..labels.len()));
        let count = |class| held.iter().filter(|i| labels[**i] == class).count();
        // A class of one image keeps it.
        assert_eq!([0, 1, 2, 3, 7, 8].map(count), [5, 5, 5, 5, 0, 1]);
        assert!(kept.is_sorted() && held.is_sorted());
        assert_eq!(held_out(&labels, 0), [kept, held.clone()]);
        assert_ne!(held_out(&labels, 1)[1], held);
    }

    #[test]
    fn rates_train_side_by_side_as_they_do_alone() {
        let rates = [0.5, 0.0625];
        for compute in [Compute::default(), Compute::default().composed()] {
            for lars in [true, false] {
                let cx = RunContext {
                    compute: compute.clone(),
                    ..RunContext::default()
                };
                let trained = |rates: &[f64]| {
                    let head = Head::new(4, 3, rates.len(), 3, &cx.compute).unwrap();
                    learn(&config(rates, lars), &head, &Overlapping, &labels(), &cx).unwrap();
                    let names = head.params.names().to_vec();
                    Vec::from_iter(names.into_iter().map(|name| {
                        let values = values(head.params.get(&name).unwrap());
                        (name, values)
                    }))
                };
                let together = trained(&rates);
                for (at, rate) in rates.iter().enumerate() {
                    for (name, expected) in trained(&[*rate]) {
                        let prefix = format!("rate.{at}.");
                        let mut same = together.iter().filter(|(other, _)| {
                            *other == name || other.strip_prefix(&prefix) == Some(&name)
                        });
                        let (_, found) = same.next().unwrap();
                        assert_eq!(*found, expected, "{name}, rate {rate}, lars {lars}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_rate_on_held_out_images_is_chosen_and_kept_for_a_resumed_run() {
        let folder = tempfile::tempdir().unwrap();
        let cx = RunContext {
            state: Some(folder.path()),
            ..RunContext::default()
        };
        let rates = [1e-9, 0.5, 1e-8];
        let choose = |data: &dyn ProbeData| {
            let head = Head::new(4, 3, 1, 3, &Compute::default()).unwrap();
            choose(&config(&rates, false), &head, data, &labels(), &cx)
        };
        let choice = choose(&Overlapping).unwrap();
        assert_eq!((choice.best, choice.images), (1, 12));
        assert!(choice.top1[1] > choice.top1[0], "{choice:?}");
        assert!(choice.loss[1] < choice.loss[2], "{choice:?}");
        // Nothing is trained again.
        struct Unread;
        impl ProbeData for Unread {
            fn features(&self, _: usize, _: &[usize]) -> Result<Vec<f32>> {
                Err(Error::Data("read again".into()))
            }
        }
        assert_eq!(choose(&Unread).unwrap(), choice);
    }

    #[test]
    fn several_rates_need_a_class_of_two_images() {
        let head = Head::new(4, 3, 1, 3, &Compute::default()).unwrap();
        let (config, cx) = (config(&[0.1, 0.2], false), RunContext::default());
        let error = choose(&config, &head, &Overlapping, &[0, 1, 2], &cx);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("base_lr"), "{error}");
    }
}
