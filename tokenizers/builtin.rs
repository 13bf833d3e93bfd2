//! The tokenizers and features that come with Tessera, one line each.

use crate::continuous::ContinuousFactory;
use crate::features::hog::HogFactory;
use crate::features::pixels::PixelsFactory;
use crate::kmeans::KMeansFactory;
use crate::registry::Registry;

pub(crate) fn register(registry: Registry) -> Registry {
    registry
        .with_features(PixelsFactory)
        .with_features(HogFactory)
        .with(ContinuousFactory)
        .with(KMeansFactory)
}
