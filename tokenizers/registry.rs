//! The one table of what there is: factories by kind.
//!
//! `bench list`, the suite parser, the JSON Schema and the conformance tests all read it.

use std::collections::BTreeMap;

use crate::config::{Config, expected_one_of};
use crate::contract::{BuildContext, Features, FeaturesFactory, TokenizerFactory};
use crate::{Error, Result};

/// Factories of tokenizers and features by kind.
#[derive(Default)]
pub struct Registry {
    tokenizers: BTreeMap<&'static str, Box<dyn TokenizerFactory>>,
    features: BTreeMap<&'static str, Box<dyn FeaturesFactory>>,
}

impl Registry {
    /// No tokenizers at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Everything that comes with Tessera.
    pub fn builtin() -> Self {
        crate::builtin::register(Self::empty())
    }

    /// Adds a tokenizer; a kind that is already there is replaced.
    #[must_use]
    pub fn with(mut self, factory: impl TokenizerFactory + 'static) -> Self {
        self.tokenizers.insert(factory.kind(), Box::new(factory));
        self
    }

    /// Adds features; a kind that is already there is replaced.
    #[must_use]
    pub fn with_features(mut self, factory: impl FeaturesFactory + 'static) -> Self {
        self.features.insert(factory.kind(), Box::new(factory));
        self
    }

    /// All tokenizer factories, by kind.
    pub fn tokenizers(&self) -> impl Iterator<Item = &dyn TokenizerFactory> {
        self.tokenizers.values().map(AsRef::as_ref)
    }

    /// All feature factories, by kind.
    pub fn features(&self) -> impl Iterator<Item = &dyn FeaturesFactory> {
        self.features.values().map(AsRef::as_ref)
    }

    /// The tokenizer factory of `kind`; `at` is the piece of the suite that names it, for the error.
    ///
    /// # Errors
    /// [`Error::Config`] with the nearest valid kind.
    pub fn tokenizer(&self, kind: &str, at: &Config) -> Result<&dyn TokenizerFactory> {
        match self.tokenizers.get(kind) {
            Some(factory) => Ok(factory.as_ref()),
            None => Err(unknown_kind(
                "tokenizer",
                kind,
                self.tokenizers.keys().copied(),
                at,
            )),
        }
    }

    /// Builds the features that `at` (`{kind: hog, ...}`) describes, and checks their grid against the model's.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind, wrong fields, or a grid that is not the suite's.
    pub fn build_features(&self, at: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let (factory, with) = self.features_factory(at)?;
        let features = factory.build(&with, cx)?;
        if features.grid() != cx.grid {
            let message = format!(
                "gives a {} grid of patches, the suite's image_size and patch_size ask for {}; change them or the features",
                features.grid(),
                cx.grid
            );
            return Err(at.error("", message).into());
        }
        Ok(features)
    }

    /// Side in pixels that the features `at` ask images to be rendered at, where their fields name one.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind or wrong fields.
    pub fn render_side(&self, at: &Config) -> Result<Option<usize>> {
        let (factory, with) = self.features_factory(at)?;
        factory.render_side(&with)
    }

    /// The factory of the features `at`, and their fields.
    fn features_factory(&self, at: &Config) -> Result<(&dyn FeaturesFactory, Config)> {
        let (kind, with) = at.split_kind()?;
        match self.features.get(kind.as_str()) {
            Some(factory) => Ok((factory.as_ref(), with)),
            None => Err(unknown_kind(
                "features",
                &kind,
                self.features.keys().copied(),
                at,
            )),
        }
    }
}

fn unknown_kind<'a>(
    what: &str,
    kind: &str,
    known: impl Iterator<Item = &'a str>,
    at: &Config,
) -> Error {
    let expected = expected_one_of(kind, known);
    at.error("kind", format!("unknown {what} kind `{kind}`, {expected}"))
        .into()
}
