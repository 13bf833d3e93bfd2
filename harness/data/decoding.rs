//! How encoded images become pixels: the fields `fast_decode` and `decoded_cache` of a dataset of files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, schemars};

/// How encoded images become pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// JPEGs are decoded no larger than they are rendered.
    pub fast: bool,
    /// Decoded images are kept in the store.
    pub cached: bool,
}

impl Decoding {
    /// What the fields `fast_decode` and `decoded_cache` of `with` ask for.
    ///
    /// # Errors
    /// When both do.
    pub fn of_fields(
        with: &Config,
        fast: bool,
        cached: Option<DecodedCache>,
    ) -> Result<Self, ConfigError> {
        let cached = matches!(cached, Some(DecodedCache::U8));
        if fast && cached {
            return Err(with.error(
                "decoded_cache",
                "found u8 beside `fast_decode: true`, expected one of them: the cache holds images at their own size; leave one out",
            ));
        }
        Ok(Self { fast, cached })
    }
}

/// What a decoded image is kept as.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecodedCache {
    /// Its pixels, three bytes each, at its own size.
    U8,
}
