//! The training steps of an attentive probe: shards read in parallel, BatchNorm sees the whole batch.

use candle_core::Tensor;
use rayon::prelude::*;

use super::form::{Form, Sizes, Sums, TokenData};
use super::pool::{read, unread};
use super::weights::{Weights, accumulate, nothing};
use super::{head, weights};
use crate::compute::Compute;
use crate::error::Result;
use crate::feed::Batches;
use crate::gradients::{BatchSums, Gradient, Loss};
use crate::optim::{Group, Optimizer};
use crate::params::ParamStore;
use crate::probe::ProbeConfig;
use crate::probe::head::Statistics;
use crate::resume::EpochRecord;
use crate::train::{self, Learner, RunContext, Training};

/// Images per shard. A constant, because sums depend on it.
const SHARD: usize = 16;

/// A probe.
pub(super) struct Model {
    pub sizes: Sizes,
    pub params: ParamStore,
    form: Form,
}

impl Model {
    /// Creates a probe on the CPU in f32.
    pub fn new(form: Form, sizes: Sizes, seed: u64) -> Result<Self> {
        let mut params = ParamStore::default();
        weights::add_parameters(&mut params, form, sizes.width, seed)?;
        head::add_parameters(&mut params, sizes, seed)?;
        Ok(Self {
            sizes,
            params,
            form,
        })
    }

    /// Numbers of a shard's tokens.
    fn shard(&self) -> usize {
        SHARD * self.sizes.patches * self.sizes.width
    }

    fn weights(&self) -> Result<Weights> {
        Weights::new(&self.params, self.form, self.sizes.width)
    }

    /// Computes scores with the running statistics, `[images, classes]`.
    pub fn scores(&self, mut tokens: Vec<f32>) -> Result<Vec<f32>> {
        let weights = self.weights()?;
        let shards = tokens.par_chunks_mut(self.shard()).map(|tokens| {
            weights.normalise(tokens);
            read(&weights, self.sizes, tokens).out
        });
        let read = shards.collect::<Vec<_>>().concat();
        head::scores(&self.params, self.sizes, weights.project(&read))
    }

    /// Computes the loss of a batch and the gradients of all parameters in their order. `running` moves by the batch's statistics.
    pub fn gradients(
        &self,
        mut tokens: Vec<f32>,
        labels: &[u32],
        running: &mut Statistics,
    ) -> Result<(f64, Vec<Vec<f32>>)> {
        let (weights, sizes) = (self.weights()?, self.sizes);
        let shards = tokens.par_chunks_mut(self.shard()).map(|tokens| {
            weights.normalise(tokens);
            read(&weights, sizes, tokens)
        });
        let shards: Vec<_> = shards.collect();
        let all: Vec<f32> = shards
            .iter()
            .flat_map(|shard| &shard.out)
            .copied()
            .collect();
        let back = head::gradients(&self.params, sizes, weights.project(&all), labels, running)?;
        let (read_gradient, proj) = weights.unproject(&all, &back.input);
        let parts = tokens.par_chunks(self.shard()).zip(&shards);
        let parts = parts.zip(read_gradient.par_chunks(SHARD * sizes.width));
        // At most as many sums wait as the batch has shards, each the size of the parameters.
        let sums = parts.map(|((tokens, read), out)| unread(&weights, sizes, tokens, read, out));
        let mut total: Option<Sums> = None;
        for sums in sums.collect::<Vec<_>>() {
            accumulate(&mut total, sums);
        }
        let total = total.unwrap_or_else(|| nothing(&weights, sizes));
        let mut gradients = weights.gradients(total, proj);
        gradients.extend(back.layer);
        Ok((back.loss, gradients))
    }
}

/// Runs all training steps at the first of the configuration's rates.
pub(super) fn learn(
    config: &ProbeConfig,
    model: &Model,
    (data, labels): (&dyn TokenData, &[u32]),
    cx: &RunContext<'_>,
) -> Result<Vec<EpochRecord>> {
    let settings = config.settings(labels.len())?;
    let mut optimizer = optimizer(config, &model.params)?;
    let batches = Batches::new(&settings);
    let training = Training::begin(&model.params, optimizer.as_mut(), &settings, &batches, cx)?;
    let mut learner = WholeBatches {
        model,
        data,
        labels,
        batches: &batches,
        running: head::running(&model.params)?,
        moved: Statistics::default(),
        gradient: Gradient::Lists(Vec::new()),
    };
    training.run(optimizer.as_mut(), &mut learner)
}

/// Matrices have weight decay; biases, norms and a single query have none.
fn optimizer(config: &ProbeConfig, params: &ParamStore) -> Result<Box<dyn Optimizer>> {
    let group = |_: &str, var: &Tensor| Group {
        lr_scale: 1.0,
        weight_decay: match var.dims() {
            [1, _] | [_] => 0.0,
            _ => config.weight_decay,
        },
    };
    config.optimizer(train::slots(params, group), &Compute::default())
}

struct WholeBatches<'a> {
    model: &'a Model,
    data: &'a dyn TokenData,
    labels: &'a [u32],
    batches: &'a Batches,
    running: Statistics,
    /// `running` after the last batch; takes effect when the step does.
    moved: Statistics,
    gradient: Gradient,
}

impl Learner for WholeBatches<'_> {
    fn loss(&mut self, now: usize) -> Result<f64> {
        let indices = self.batches.of(now);
        let tokens = self.data.tokens(now / self.batches.per_epoch(), &indices)?;
        let labels: Vec<u32> = indices.iter().map(|i| self.labels[*i]).collect();
        self.moved = self.running.clone();
        let (loss, lists) = self.model.gradients(tokens, &labels, &mut self.moved)?;
        let sums = BatchSums {
            loss: Loss::Number(loss),
            gradient: Gradient::Lists(lists),
        };
        let loss = sums.checked_loss()?;
        self.gradient = sums.gradient;
        Ok(loss)
    }

    fn gradient(&self) -> &Gradient {
        &self.gradient
    }

    fn moved(&mut self) -> Result<()> {
        std::mem::swap(&mut self.running, &mut self.moved);
        head::set_running(&self.model.params, &self.running)
    }
}
