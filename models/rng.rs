//! Random numbers from a counter-based generator keyed by their use.
//!
//! A draw depends only on (seed, stage, epoch, sample): not on the thread, the batch, the order of work or a resume. It does not depend on
//! the tokenizer either, so all rows of a table share crops and masks, and their differences are paired.

use rand::SeedableRng;
pub use rand_chacha::ChaCha8Rng;

/// Returns the generator of one (seed, stage, epoch, sample). `stage` names the use ("mask", "crop", "init", ...); each use has its own
/// stream.
pub fn keyed_rng(seed: u64, stage: &str, epoch: u64, sample: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    hasher.update(&sample.to_le_bytes());
    hasher.update(stage.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let first = |seed, stage, epoch, sample| keyed_rng(seed, stage, epoch, sample).next_u64();
        let base = first(0, "mask", 0, 0);
        assert_eq!(base, first(0, "mask", 0, 0));
        for other in [
            first(1, "mask", 0, 0),
            first(0, "crop", 0, 0),
            first(0, "mask", 1, 0),
            first(0, "mask", 0, 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
