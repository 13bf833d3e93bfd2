//! Images that lie encoded somewhere, a file each or in shards: whoever decodes them need not know where.

use tessera_tokenizers::{Image, Split};

use super::DataError;
use super::decode::{decode, decode_reduced};

/// Encoded images by split and index.
pub(super) trait Encoded: Send + Sync {
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
