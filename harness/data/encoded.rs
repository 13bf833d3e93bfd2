//! Encoded images, in files or shards.

use tessera_tokenizers::{Fingerprint, Image, Split};

use super::decode::{decode, decode_reduced};
use super::digest::Digest;
use super::error::DataError;
use super::scan::{Place, Scan, Skipped, SplitScan};

/// Encoded images by split and index.
pub trait Encoded: Send + Sync {
    /// Reads the bytes of an image.
    ///
    /// # Errors
    /// If they are missing now.
    fn read(&self, split: Split, index: usize) -> Result<Vec<u8>, DataError>;

    /// Returns an error that names the image.
    fn refuse(&self, split: Split, index: usize, message: String) -> DataError;

    /// Decodes an image at its own size.
    ///
    /// # Errors
    /// If it is missing or no longer decodes.
    fn decode(&self, split: Split, index: usize) -> Result<Image, DataError> {
        let bytes = self.read(split, index)?;
        decode(&bytes).map_err(|e| self.changed(split, index, &e))
    }

    /// Decodes a JPEG at `eighths` eighths of its size.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    fn decode_reduced(&self, split: Split, index: usize, eighths: u8) -> Result<Image, DataError> {
        let bytes = self.read(split, index)?;
        decode_reduced(&bytes, eighths).map_err(|e| self.changed(split, index, &e))
    }

    /// Returns an error about an image that was valid when it was scanned.
    fn changed(&self, split: Split, index: usize, message: &str) -> DataError {
        let message = format!("{message}; it decoded when it was scanned");
        self.refuse(split, index, message)
    }
}

/// An image that a scan found and decoded.
pub(super) struct Scanned {
    /// Its path relative to the root.
    pub name: String,
    /// Its label.
    pub label: u32,
    /// Digest of its bytes, and the result of decoding them.
    pub digest: Digest,
    /// Its position in the split's shards.
    pub place: Option<Place>,
}

/// Builds a scan from the images of train and val in scan order.
///
/// # Errors
/// [`DataError::TooManyBroken`].
pub(super) fn assemble(
    name: String,
    classes: Vec<String>,
    splits: [Vec<Scanned>; 2],
) -> Result<Scan, DataError> {
    let total = splits.iter().map(Vec::len).sum::<usize>();
    let mut hasher = blake3::Hasher::new();
    let mut skipped = Vec::new();
    let [train, val] = splits.map(|split| {
        let mut scan = SplitScan::default();
        for Scanned {
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
