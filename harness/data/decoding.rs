//! The fields `fast_decode` and `decoded_cache` of a dataset of files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_tokenizers::{Config, ConfigError, schemars};

/// How encoded images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// JPEGs are decoded no larger than they are rendered.
    pub fast: bool,
    /// Decoded images are cached in the store.
    pub cached: bool,
}

impl Decoding {
    /// Combines the fields `fast_decode` and `decoded_cache` of `with`.
    ///
    /// # Errors
    /// If both are set.
    pub fn of_fields(
        with: &Config,
        fast: bool,
        cached: Option<DecodedCache>,
    ) -> Result<Self, ConfigError> {
        let cached = matches!(cached, Some(DecodedCache::U8));
        if fast && cached {
            return Err(with.error(
                "decoded_cache",
                "found u8 and `fast_decode: true`, expected one of them, because the cache holds images at their own size; leave one out",
            ));
        }
        Ok(Self { fast, cached })
    }
}

/// Form of a cached decoded image.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecodedCache {
    /// Pixels at the image's own size, three bytes each.
    U8,
}
