//! `knn`: measures the accuracy of weighted k-NN on frozen features.

use serde_json::{Value, json};
use tessera_models::cost::Task;
use tessera_models::{knn, rank};
use tessera_reports::Record;
use tessera_tokenizers::Split;

use super::common::context::StageError;
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Cell, Done, Inputs, Stage};
use super::common::training::{pool, predicted};
use crate::store::Workspace;
use crate::suite;

/// Seconds of a rotation per element, on one core: 2 s for a sweep at width 768, 7 s at 1024.
const ROTATION: f64 = 1e-8;
const VERSION: u32 = 5;

/// k-NN of a row and a seed.
pub type Knn<'a> = Cell<'a, &'a suite::Knn>;

impl Stage for Knn<'_> {
    fn name(&self) -> &'static str {
        "knn"
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        vec![self.encoder()]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        Ok(on.encoder()?.provenance(VERSION, json!(self.recipe), None))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        let [train, val] = rates.counts();
        let width = self.recipe.layer.width(rates.vit.preset.width) as f64;
        // RankMe: the products of the vectors, about ten sweeps of Jacobi's rotations on one core, and the sums of 16 pieces.
        let rank = if self.recipe.rankme { width } else { 0.0 };
        let products = 2.0 * train.min(rank::MOST as f64) * rank * rank / rates.flops;
        let sweeps = 10.0 * ROTATION * rank.powi(3) / 2.0;
        Ok(Cost {
            seconds: rates.decoding(train + val)
                + (train + val) * rates.render
                + rates.seconds_of(Task::Encode, train + val)
                + 2.0 * train * val * width / rates.flops
                + products
                + sweeps,
            // And the normalised vectors.
            memory: rates.encoding_memory()
                + rates.frozen_memory(train + val, self.recipe.layer)
                + 4.0 * train * width
                + 8.0 * 18.0 * rank * rank,
            disk: rates.disk(rates.predictions(1), rates.predictions(1), 1),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let (encoder, recipe) = (on.encoder()?, self.recipe);
        let pool = pool(recipe.pooling);
        let layer = recipe.layer;
        let [train, val] = [Split::Train, Split::Val].map(|split| encoder.frozen(split, layer));
        let (train, val) = (train?, val?);
        let bank = encoder.labelled(&train, Split::Train, pool);
        let queries = encoder.labelled(&val, Split::Val, pool);
        let found = knn::classify(
            bank,
            queries.features,
            train.dim,
            on.images.scan.classes.len(),
            recipe.k,
            recipe.temperature,
        )?;
        let pairs = found.iter().zip(queries.labels);
        let right = pairs.filter(|(a, b)| a == b).count();
        predicted(self.name(), work, &found, 1)?;
        let mut result = json!({"top1": 100.0 * right as f64 / found.len() as f64});
        if recipe.rankme {
            let rank = rank::rankme(bank.features, train.dim, &|| on.cx.interrupted())?;
            result["rankme"] = json!(rank);
        }
        Ok(result)
    }

    fn describe(&self, record: &mut Record) {
        record.knn_k = Some(self.recipe.k);
    }

    fn record(&self, done: &Done<'_>, record: &mut Record) -> anyhow::Result<()> {
        record.rankme = done.number("rankme");
        Ok(())
    }
}
