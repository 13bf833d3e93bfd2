//! Writes, removes and reads the records of failed stages.

use std::fs;
use std::path::PathBuf;

use tessera_models::files;

use super::error::{StoreError, at, make_dir};
use super::failed::{FOLDER, Failed};
use super::lookup::Store;
use super::provenance::Provenance;

impl Store {
    fn failed_at(&self, provenance: &Provenance) -> PathBuf {
        let folder = self.folder.root.join(FOLDER).join(provenance.stage);
        folder.join(format!("{}.json", provenance.key()))
    }

    /// Records that a stage failed.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn record_failure(&self, provenance: &Provenance, error: &str) -> Result<(), StoreError> {
        let path = self.failed_at(provenance);
        make_dir(path.parent().unwrap_or(&path))?;
        let failed = Failed::here(&provenance.label, error);
        let text = serde_json::to_vec_pretty(&failed).map_err(|e| StoreError::Stage(e.into()))?;
        files::write_atomic(&path, &text).map_err(at(&path))
    }

    /// Removes the record of a stage that has succeeded.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn forget_failure(&self, provenance: &Provenance) -> Result<(), StoreError> {
        let path = self.failed_at(provenance);
        match fs::remove_file(&path) {
            Err(error) if !files::says_absent(&error) => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Returns the record of a failed stage. A record that cannot be parsed was not written by this program and counts as absent.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn failure(&self, provenance: &Provenance) -> Result<Option<Failed>, StoreError> {
        let path = self.failed_at(provenance);
        match files::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if files::says_absent(&error) => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_that_cannot_be_written_is_blamed_on_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let provenance = Provenance {
            stage: "fit",
            label: "test".into(),
            inputs: json!({}),
        };
        let path = store.failed_at(&provenance);
        fs::create_dir_all(path.join("taken")).unwrap();
        let error = store.record_failure(&provenance, "no").unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(
            text.contains("--store") && !text.contains("--out"),
            "{text}"
        );
    }
}
