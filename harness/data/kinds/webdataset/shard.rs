//! A shard during a scan, and what is cached of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::index::{Index, Member};
use crate::data::digest::Stamp;

/// Cached result for a shard.
#[derive(Serialize, Deserialize)]
pub struct Known {
    /// Of the file.
    pub stamp: Stamp,
    /// Its content.
    pub index: Index,
}

/// A shard during a scan.
pub struct Shard {
    /// The file.
    pub path: PathBuf,
    /// The file of the cached result.
    pub cache: PathBuf,
    /// The cached or new result.
    pub known: Known,
    /// Whether the cache must be written.
    pub changed: bool,
    /// Name of each label's class, once labels have been named.
    pub classes: Vec<String>,
}

impl Shard {
    /// Its images.
    pub fn members(&self) -> &[Member] {
        &self.known.index.members
    }
}
