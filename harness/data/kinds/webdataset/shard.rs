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

    /// Returns the path of the first image with a label.
    pub fn of_label(&self, label: &str) -> &str {
        let index = &self.known.index;
        let number = index.labels.iter().position(|other| other == label);
        let is_of = |member: &Member| Some(member.label as usize) == number;
        let member = index.members.iter().position(is_of);
        member.map_or("", |member| &index.paths[member])
    }
}
