//! The tokenizers and features that come with Tessera, one line each.

use crate::registry::Registry;

pub(crate) fn register(registry: Registry) -> Registry {
    registry
}
