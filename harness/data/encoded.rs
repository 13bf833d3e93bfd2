//! Encoded images, in files or shards.

use std::path::PathBuf;

use tessera_tokenizers::{Fingerprint, Split};

use super::digest::Digest;
use super::error::DataError;
use super::left_out::{Omitted, one_line};
use super::scan::{Place, Scan, SplitScan};

/// Encoded images by split and index.
pub trait Encoded: Send + Sync {
    /// Reads the bytes of an image.
    ///
    /// # Errors
    /// If they are missing now.
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError>;

    /// Returns an error that names the image.
    fn refuse(&self, split: Split, index: usize, message: String) -> DataError;
}

/// Broken images that an error names.
const NAMED: usize = 10;

/// The images of a scan, added in scan order: first those of train, then those of val.
#[derive(Default)]
pub(super) struct Assembly {
    splits: [SplitScan; 2],
    /// Hash of names, sizes, digests and labels.
    hasher: blake3::Hasher,
    /// Lines that are not hashed yet.
    lines: String,
    /// Everything that is left out.
    pub omitted: Omitted,
    broken: usize,
    /// Names of the first images that do not decode, with reasons.
    first: Vec<String>,
}

impl Assembly {
    /// Adds an image of split 0 (train) or 1 (val) with its path relative to the root; `place` is its position in the split's shards.
    pub fn push(
        &mut self,
        split: usize,
        name: &str,
        label: u32,
        digest: &Digest,
        place: Option<Place>,
    ) {
        let shape = match &digest.found {
            Ok(shape) => *shape,
            Err(reason) => {
                if self.first.len() < NAMED {
                    self.first.push(format!("{name}: {reason}"));
                }
                self.broken += 1;
                return self.omitted.image(name, reason.as_ref());
            }
        };
        let blake3 = blake3::Hash::from_bytes(digest.blake3).to_hex();
        let (bytes, label_text) = (digest.bytes.to_string(), label.to_string());
        for part in [name, "\0", &bytes, "\0", &blake3, "\0", &label_text, "\n"] {
            self.lines.push_str(part);
        }
        // BLAKE3 is several times faster on many lines.
        if self.lines.len() > 1 << 16 {
            self.hasher.update(self.lines.as_bytes());
            self.lines.clear();
        }
        let scan = &mut self.splits[split];
        scan.names.push(name);
        scan.labels.push(label);
        scan.shapes.push(shape);
        scan.digests.push(digest.blake3);
        scan.places.extend(place);
    }

    /// Returns whether an image does not decode.
    pub fn has_broken(&self) -> bool {
        self.broken > 0
    }

    /// Returns the scan. `shards` are those of both splits.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`].
    pub fn finish(
        mut self,
        name: String,
        classes: Vec<String>,
        shards: [Vec<PathBuf>; 2],
    ) -> Result<Scan, DataError> {
        let total = self.splits.iter().map(SplitScan::len).sum::<usize>() + self.broken;
        if self.broken * 100 > total {
            let more = if self.broken > NAMED { "; ..." } else { "" };
            return Err(DataError::TooManyBroken {
                broken: self.broken,
                total,
                first: one_line(&self.first.join("; ")) + more,
            });
        }
        for (split, shards) in self.splits.iter_mut().zip(shards) {
            split.shards = shards;
        }
        self.hasher.update(self.lines.as_bytes());
        let fingerprint = Fingerprint(self.hasher.finalize().to_hex().to_string());
        Ok(Scan {
            omitted: self.omitted,
            ..Scan::new(name, classes, self.splits, fingerprint)
        })
    }
}
