//! The kinds of datasets that come with Tessera, one file or folder each.

mod cifar_binary;
mod image_folder;
pub mod mosaics;
mod webdataset;

#[cfg(test)]
pub use cifar_binary::CifarBinary;
pub use image_folder::{Files, ImageFolder};

use super::contract::DatasetFactory;

/// Returns the factory of every kind.
pub fn builtin() -> Vec<Box<dyn DatasetFactory>> {
    vec![
        Box::new(cifar_binary::Factory),
        Box::new(image_folder::Factory),
        Box::new(mosaics::Factory),
        Box::new(webdataset::Factory),
    ]
}
