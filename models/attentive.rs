//! Attentive probing: learned queries read a frozen encoder's patch tokens by one cross-attention, and BatchNorm and a linear layer
//! classify what they read.
//!
//! Two forms, [`Form`]: the multi-query form of *Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency*
//! (arXiv 2506.10178, "efficient probing"), and the single-query form of CAE (arXiv 2202.03026). V-JEPA's (arXiv 2404.08471) differs from
//! CAE's by biases, a residual sum and an MLP after the attention. BatchNorm without affine parameters before the linear layer follows the
//! published code of 2506.10178, as in MAE's linear probe.
//!
//! A probe trains on the CPU in f32. Images are computed in shards of a fixed size, and gradients are added in their order.

mod form;
mod head;
mod pool;
mod steps;
mod weights;

use crate::error::{Error, Result};
use crate::params::{self, ParamStore};
use crate::probe::choice::{CHOSEN, Choice, judge, kept_choice, split, write};
use crate::probe::{Evaluation, ProbeConfig, evaluate};
use crate::resume::EpochRecord;
use crate::train::RunContext;
pub use form::{Form, Sizes, TokenData};
use steps::{Model, learn};

/// Images whose tokens are in memory at once in the evaluation.
const AT_ONCE: usize = 256;

/// A trained probe.
pub struct Attended {
    /// Its parameters: those of the form ([`Form`]), `head.0.running_mean|running_var` and `head.1.weight|bias`.
    pub params: ParamStore,
    /// One record per epoch.
    pub history: Vec<EpochRecord>,
    /// Accuracy after the last epoch.
    pub evaluation: Evaluation,
    /// How the learning rate was chosen, if there were several.
    pub choice: Option<Choice>,
}

/// Trains an attentive probe on `train` and evaluates it on `val`. Of several rates, each trains on nine tenths of the images, one after
/// the other; the best on the others trains on all.
///
/// # Errors
/// [`Error::Config`] if the form does not fit the width, [`Error::Interrupted`], [`Error::NotFinite`], or an error of a data source.
pub fn attend(
    form: Form,
    config: &ProbeConfig,
    sizes: Sizes,
    train: (&dyn TokenData, &[u32]),
    val: (&dyn TokenData, &[u32]),
    cx: &RunContext<'_>,
) -> Result<Attended> {
    form.check(sizes.width)?;
    if train.1.is_empty() {
        return Err(Error::Data("the probe has no train images".into()));
    }
    let choice = match config.rates.len() {
        1 => None,
        _ => Some(choose(form, config, sizes, train, cx)?),
    };
    let at = choice.as_ref().map_or(0, |choice| choice.best);
    let model = Model::new(form, sizes, config.seed)?;
    let history = learn(&only(config, at), &model, train, cx)?;
    let scores = scores(&model, val.0, val.1.len(), cx)?;
    Ok(Attended {
        evaluation: evaluate(&scores, sizes.classes, val.1),
        params: model.params,
        history,
        choice,
    })
}

fn only(config: &ProbeConfig, at: usize) -> ProbeConfig {
    ProbeConfig {
        rates: config.rates.get(at..=at).unwrap_or_default().to_vec(),
        ..config.clone()
    }
}

/// Computes the scores of the images `0..images`, `[images, classes]`.
fn scores(
    model: &Model,
    data: &dyn TokenData,
    images: usize,
    cx: &RunContext<'_>,
) -> Result<Vec<f32>> {
    let all: Vec<usize> = (0..images).collect();
    let mut scores = Vec::with_capacity(images * model.sizes.classes);
    for some in all.chunks(AT_ONCE) {
        if (cx.interrupted)() {
            return Err(Error::Interrupted);
        }
        scores.extend(model.scores(data.tokens(0, some)?)?);
    }
    Ok(scores)
}

/// Compares the rates on held-out train images. A finished choice is read from the state folder.
fn choose(
    form: Form,
    config: &ProbeConfig,
    sizes: Sizes,
    (data, labels): (&dyn TokenData, &[u32]),
    cx: &RunContext<'_>,
) -> Result<Choice> {
    let chosen = cx.state.map(|folder| folder.join(CHOSEN));
    if let Some(choice) = chosen.as_deref().and_then(kept_choice) {
        return Ok(choice);
    }
    let [kept, held] = split(labels, config.seed)?;
    let of = |indices: &[usize]| -> Vec<u32> { indices.iter().map(|i| labels[*i]).collect() };
    let [kept_labels, held_labels] = [of(&kept), of(&held)];
    let [kept, held] = [&kept, &held].map(|indices| Part { data, indices });
    let train: (&dyn TokenData, &[u32]) = (&kept, &kept_labels);
    let held: (&dyn TokenData, &[u32]) = (&held, &held_labels);
    let judged = (0..config.rates.len()).map(|at| {
        let folder = cx.state.map(|folder| folder.join(format!("rate-{at}")));
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).map_err(|e| params::refuse(folder, e))?;
        }
        let within = RunContext {
            state: folder.as_deref(),
            compute: cx.compute.clone(),
            ..*cx
        };
        judged(form, &only(config, at), sizes, train, held, &within)
    });
    let judged = judged.collect::<Result<Vec<_>>>()?;
    let list = |of: fn(&Choice) -> &Vec<f64>| judged.iter().flat_map(of).copied().collect();
    let choice = Choice::of(held.1.len(), list(|one| &one.top1), list(|one| &one.loss));
    if let Some(path) = chosen {
        write(&path, &choice)?;
    }
    Ok(choice)
}

/// Trains at one rate and evaluates on held-out images. A finished evaluation is read from the state folder, so that an interruption
/// during the next rate does not repeat it.
fn judged(
    form: Form,
    config: &ProbeConfig,
    sizes: Sizes,
    train: (&dyn TokenData, &[u32]),
    held: (&dyn TokenData, &[u32]),
    cx: &RunContext<'_>,
) -> Result<Choice> {
    let path = cx.state.map(|folder| folder.join(CHOSEN));
    if let Some(known) = path.as_deref().and_then(kept_choice) {
        return Ok(known);
    }
    let model = Model::new(form, sizes, config.seed)?;
    learn(config, &model, train, cx)?;
    let scores = scores(&model, held.0, held.1.len(), cx)?;
    let judged = judge(&[scores], sizes.classes, held.1);
    if let Some(path) = path {
        write(&path, &judged)?;
    }
    Ok(judged)
}

/// Some of the images.
struct Part<'a> {
    data: &'a dyn TokenData,
    indices: &'a [usize],
}

impl TokenData for Part<'_> {
    fn tokens(&self, epoch: usize, indices: &[usize]) -> Result<Vec<f32>> {
        let all: Vec<usize> = indices.iter().map(|i| self.indices[*i]).collect();
        self.data.tokens(epoch, &all)
    }
}

#[cfg(test)]
mod tests;
