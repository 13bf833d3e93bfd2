//! The choice of a learning rate: every rate trains a layer on the same batches of a part of the train images, and the rest of the train
//! images tells which layer is best.

use std::collections::HashMap;
use std::path::Path;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::head::{Head, cross_entropy};
use super::{ProbeConfig, ProbeData, evaluate, learn};
use crate::error::{Error, Result};
use crate::params;
use crate::rng::keyed_rng;
use crate::train::RunContext;

/// One of this many train images of each class is held out.
const SHARE: usize = 10;
/// Folder of the resume state.
const TRAINING: &str = "rates";
/// File of the finished choice, beside the resume state of the probe itself.
const CHOSEN: &str = "rate.safetensors";

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

/// Trains with every rate and compares the accuracies. `single` is the head that the chosen rate will train. A finished choice is read from
/// the state folder.
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
    if let Some(choice) = chosen.as_deref().and_then(read) {
        return Ok(choice);
    }
    let [kept, held] = held_out(labels, config.seed);
    if held.is_empty() {
        return Err(Error::Data(
            "no train image can be held out to choose among several rates, because no class has two images; give `base_lr` one rate"
                .into(),
        ));
    }
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
    let choice = judge(&head, &data.features(0, &held)?, classes, &of(&held))?;
    if let Some(path) = chosen {
        write(&path, &choice)?;
    }
    Ok(choice)
}

/// Computes what the held-out images say.
fn judge(head: &Head, features: &[f32], classes: usize, labels: &[u32]) -> Result<Choice> {
    let scores = head.scores(features)?;
    let top1 = scores.iter().map(|s| evaluate(s, classes, labels).top1);
    let loss = scores.iter().map(|s| cross_entropy(s, classes, labels));
    let (top1, loss): (Vec<f64>, Vec<f64>) = (top1.collect(), loss.collect());
    let better = |a: &usize, b: &usize| {
        let losses = loss[*b].total_cmp(&loss[*a]);
        top1[*a].total_cmp(&top1[*b]).then(losses).then(b.cmp(a))
    };
    Ok(Choice {
        images: labels.len(),
        best: (0..top1.len()).max_by(better).unwrap_or(0),
        top1,
        loss,
    })
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

fn write(path: &Path, choice: &Choice) -> Result<()> {
    let text = serde_json::to_string(choice).map_err(|e| Error::Config(e.to_string()))?;
    params::write_state(path, Vec::new(), [(KEY.to_owned(), text)].into())
}

/// Reads a finished choice. `None` for an absent or unusable file: the choice is then made again, with the same result.
fn read(path: &Path) -> Option<Choice> {
    let (_, metadata) = params::read_state(path).ok()?;
    serde_json::from_str(metadata.get(KEY)?).ok()
}
