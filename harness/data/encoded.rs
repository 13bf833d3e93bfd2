//! Images that lie encoded somewhere, a file each or in shards: whoever decodes them need not know where.

use tessera_tokenizers::{Fingerprint, Image, Split};

use super::decode::{decode, decode_reduced};
use super::digest::Digest;
use super::error::DataError;
use super::scan::{Place, Scan, Skipped, SplitScan};

/// Encoded images by split and index.
pub trait Encoded: Send + Sync {
    /// The bytes of an image.
    ///
    /// # Errors
    /// When they are no longer there.
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError>;

    /// What is wrong with an image, named.
    fn refuse(&self, split: Split, index: usize, message: String) -> DataError;

    /// An image, whole.
    ///
    /// # Errors
    /// When it is no longer there, or does not decode any more.
    fn decode(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let bytes = self.read(split, index)?;
        decode(&bytes).map_err(|e| self.changed(split, index, &e))
    }

    /// A JPEG at so many eighths of its size.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_reduced(&self, split: Split, index: usize, eighths: u8) -> Result<Image, DataError> {
        let bytes = self.read(split, index)?;
        decode_reduced(&bytes, eighths).map_err(|e| self.changed(split, index, &e))
    }

    /// What is wrong with an image that was fine.
    fn changed(&self, split: Split, index: usize, message: &str) -> DataError {
        let message = format!("{message}; it decoded when it was scanned");
        self.refuse(split, index, message)
    }
}

/// An image that was found and looked at.
pub(super) struct Seen {
    /// Its path relative to the root.
    pub name: String,
    /// Its label.
    pub label: u32,
    /// Its bytes and what they decode to.
    pub digest: Digest,
    /// Where in the split's shards it lies.
    pub place: Option<Place>,
}

/// A scan of encoded images: `splits` are train and val in scan order.
///
/// # Errors
/// [`DataError::TooManyBroken`].
pub(super) fn assemble(
    name: String,
    classes: Vec<String>,
    splits: [Vec<Seen>; 2],
) -> Result<Scan, DataError> {
    let total = splits.iter().map(Vec::len).sum::<usize>();
    let mut hasher = blake3::Hasher::new();
    let mut skipped = Vec::new();
    let [train, val] = splits.map(|split| {
        let mut scan = SplitScan::default();
        for Seen {
            name,
            label,
            digest,
            place,
        } in split
        {
            match digest.found {
                Err(reason) => skipped.push(Skipped { name, reason }),
                Ok(shape) => {
                    let (bytes, blake3) = (digest.bytes, digest.blake3);
                    hasher.update(format!("{name}\0{bytes}\0{blake3}\0{label}\n").as_bytes());
                    scan.names.push(name);
                    scan.labels.push(label);
                    scan.shapes.push(shape);
                    scan.places.extend(place);
                }
            }
        }
        scan
    });
    if let Some(first) = skipped.first().filter(|_| skipped.len() * 100 > total) {
        return Err(DataError::TooManyBroken {
            broken: skipped.len(),
            total,
            first: format!("{}: {}", first.name, first.reason),
        });
    }
    let fingerprint = Fingerprint(hasher.finalize().to_hex().to_string());
    Ok(Scan {
        skipped,
        ..Scan::new(name, classes, [train, val], fingerprint)
    })
}
