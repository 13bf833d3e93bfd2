//! The store: results of stages, by the digest of everything that determines them.
//!
//! An entry is `STORE/<stage>/<key>/` with `result.json`, `provenance.json` and the stage's files; its key is the digest of
//! its provenance. One look-up serves to resume a run, to skip finished stages and to share a codebook between suites.
//!
//! An entry is written under a unique name, synced and renamed, so it is whole or absent; if two processes compute the same entry,
//! the first stays. Locks only save work. `result.json` has the digest of every file and its own: every look-up verifies
//! `result.json`, and every reader verifies its file. A damaged entry is reported, moved into `STORE/.damaged` and computed again.

mod entry;
mod error;
mod failed;
mod failures;
mod folder;
mod held;
mod left;
mod lock;
mod lookup;
pub mod memory;
mod mount;
mod probe;
mod provenance;
mod record;
mod upkeep;
mod used;
mod verify;

#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use error::{StoreError, write_atomic};
pub use failed::{Failed, host, job};
pub use held::Held;
pub use left::{is_alive, sweep};
pub use lock::{Attempt, Lock};
pub use lookup::{Store, Workspace, hidden};
pub use mount::{Locks, Mount};
pub use probe::probe;
pub use provenance::{Provenance, canonical};
pub use upkeep::{Listed, free_bytes, gc, list};
pub use verify::{Verified, verify};
