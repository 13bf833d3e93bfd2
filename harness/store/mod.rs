//! The store: results of stages, found again by everything that determines them.
//!
//! An entry is `STORE/<stage>/<key>/` with `result.json`, `provenance.json` and the stage's files; its key is the digest of
//! its provenance. Resuming, skipping what is done, sharing a codebook between suites and knowing where a number came
//! from are one lookup.
//!
//! An entry is written under a name that nobody else uses, synced and renamed, so it is whole or absent; where two processes
//! computed the same one, the first stays. Locks only save work. `result.json` has the digest of every file and its own: it is
//! compared at every look-up, a file when it is read. A damaged entry is said, moved into `STORE/.damaged`, and computed again.

mod entry;
mod error;
mod folder;
mod left;
mod lock;
mod lookup;
mod memory;
mod provenance;
mod record;
mod upkeep;
mod used;

#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use error::{StoreError, write_atomic};
pub use left::{is_alive, sweep};
pub use lookup::{Store, Workspace};
pub use provenance::{Provenance, canonical};
pub use upkeep::{Listed, free_bytes, gc, list};
