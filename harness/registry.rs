//! Everything that a suite can name by kind: tokenizers, features and datasets.

use std::collections::BTreeMap;
use std::ops::Deref;

use tessera_tokenizers::config::expected_one_of;
use tessera_tokenizers::{Config, ConfigError, FeaturesFactory, TokenizerFactory};

use crate::data::{self, DatasetFactory, DatasetSpec};

/// Factories of datasets by kind, and the [registry](tessera_tokenizers::Registry) of tokenizers and features, to which it
/// dereferences.
#[derive(Default)]
pub struct Registry {
    tokenizers: tessera_tokenizers::Registry,
    datasets: BTreeMap<&'static str, Box<dyn DatasetFactory>>,
}

impl Registry {
    /// Returns a registry of everything that comes with Tessera.
    pub fn builtin() -> Self {
        let datasets = data::builtin().into_iter();
        Self {
            tokenizers: tessera_tokenizers::Registry::builtin(),
            datasets: datasets.map(|factory| (factory.kind(), factory)).collect(),
        }
    }

    /// Adds a tokenizer and replaces one of the same kind.
    #[must_use]
    pub fn with(mut self, factory: impl TokenizerFactory + 'static) -> Self {
        self.tokenizers = self.tokenizers.with(factory);
        self
    }

    /// Adds features and replaces those of the same kind.
    #[must_use]
    pub fn with_features(mut self, factory: impl FeaturesFactory + 'static) -> Self {
        self.tokenizers = self.tokenizers.with_features(factory);
        self
    }

    /// Adds a dataset and replaces one of the same kind.
    #[must_use]
    pub fn with_dataset(mut self, factory: impl DatasetFactory + 'static) -> Self {
        self.datasets.insert(factory.kind(), Box::new(factory));
        self
    }

    /// All dataset factories, by kind.
    pub fn datasets(&self) -> impl Iterator<Item = &dyn DatasetFactory> {
        self.datasets.values().map(AsRef::as_ref)
    }

    /// The dataset that `at` (`{kind: image-folder, ...}`) describes.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown kind, with the nearest one, or wrong fields.
    pub fn dataset(&self, at: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let (kind, with) = at.split_kind()?;
        match self.datasets.get(kind.as_str()) {
            Some(factory) => factory.parse(&with),
            None => {
                let expected = expected_one_of(&kind, self.datasets.keys().copied());
                let message = format!("unknown dataset kind `{kind}`, {expected}");
                Err(at.error("kind", message))
            }
        }
    }
}

impl Deref for Registry {
    type Target = tessera_tokenizers::Registry;

    fn deref(&self) -> &Self::Target {
        &self.tokenizers
    }
}
