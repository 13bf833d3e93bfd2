//! Registers the built-in tokenizers and features, one line each.

use crate::continuous::ContinuousFactory;
use crate::features::checkpoint::CheckpointFactory;
use crate::features::hog::HogFactory;
use crate::features::pixels::PixelsFactory;
use crate::kmeans::{GroupedFactory, KMeansFactory};
use crate::oracle::OracleFactory;
use crate::program::ProgramFactory;
use crate::random::RandomFactory;
use crate::random_projection::RandomProjectionFactory;
use crate::registry::Registry;
use crate::token_file::TokenFileFactory;

impl Registry {
    /// Returns the registry of all built-in tokenizers and features.
    pub fn builtin() -> Self {
        let registry = Self::empty()
            .with_features(PixelsFactory)
            .with_features(HogFactory)
            .with_features(CheckpointFactory)
            .with(ContinuousFactory)
            .with(KMeansFactory)
            .with(GroupedFactory::Product)
            .with(GroupedFactory::Residual)
            .with(OracleFactory)
            .with(RandomFactory)
            .with(RandomProjectionFactory)
            .with(TokenFileFactory)
            .with(ProgramFactory::Command)
            .with(ProgramFactory::Python);
        #[cfg(feature = "onnx")]
        let registry = registry
            .with_features(crate::onnx::OnnxFactory)
            .with(crate::onnx::OnnxIdsFactory);
        registry
    }
}
