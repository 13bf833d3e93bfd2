//! The codebook: centres, their weights, the inertia, and the file that stores them.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::Centers;
use tessera_models::files;

use super::fields::Matching;
use super::nearest::Nearest;
use crate::{Error, Result};

/// Centres of a fit and the number of patches assigned to each.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    /// Number of centres.
    pub k: usize,
    /// Length of a centre.
    pub dim: usize,
    /// `[k, dim]`.
    pub centers: Vec<f32>,
    /// Patches assigned to each centre during the fit, `[k]`.
    pub weights: Vec<f32>,
    /// Distance of patches to their centres; `None` in files of older versions.
    pub inertia: Option<Inertia>,
}

/// Distance of patches to their nearest centres.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inertia {
    /// Mean squared distance.
    pub per_patch: f64,
    /// Number of train images in the measurement.
    pub images: usize,
    /// Whether these images were excluded from the fit.
    pub held_out: bool,
}

impl fmt::Display for Inertia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.held_out { "held-out" } else { "fitted" };
        let Self {
            per_patch, images, ..
        } = self;
        write!(
            f,
            "inertia {per_patch:.5} per patch on {images} {kind} images"
        )
    }
}

/// Key of [`Inertia`] (JSON) in the file's metadata.
const INERTIA: &str = "inertia";

impl Codebook {
    /// Returns a codebook of `centers` `[k, dim]` with zero weights.
    pub fn new(centers: Vec<f32>, dim: usize) -> Self {
        let k = centers.len() / dim;
        Self {
            k,
            dim,
            centers,
            weights: vec![0.0; k],
            inertia: None,
        }
    }

    /// Prepares the centres for assignment by `matching`. The Euclidean score is `x.c - |c|^2 / 2`, which is largest when `|x - c|` is
    /// smallest. Without a bias, the length of `x` does not change the order of the centres, so features need no normalisation.
    pub fn nearest(&self, matching: Matching) -> Nearest {
        match matching {
            Matching::Euclidean => Nearest::euclidean(&self.centers, self.dim),
            Matching::InnerProduct => Nearest::new(&self.centers, self.dim, &vec![0.0; self.k]),
            Matching::Cosine => Nearest::new(&self.unit_centers(), self.dim, &vec![0.0; self.k]),
        }
    }

    /// Prepares the centres on a device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn on(&self, device: &Device, matching: Matching) -> Result<Centers> {
        let centers = match matching {
            Matching::Euclidean => Centers::euclidean(device, &self.centers, self.dim),
            Matching::InnerProduct => Centers::inner_product(device, &self.centers, self.dim),
            Matching::Cosine => Centers::inner_product(device, &self.unit_centers(), self.dim),
        };
        Ok(centers?)
    }

    /// Returns the centres, each normalised to length 1.
    fn unit_centers(&self) -> Vec<f32> {
        let mut centers = self.centers.clone();
        for center in centers.chunks_exact_mut(self.dim) {
            let norm: f32 = center.iter().map(|v| v * v).sum();
            let scale = 1.0 / norm.sqrt().max(1e-12);
            center.iter_mut().for_each(|v| *v *= scale);
        }
        centers
    }

    /// Returns the centres as little-endian bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.centers.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Writes the file at `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let weights: Vec<u8> = self.weights.iter().flat_map(|v| v.to_le_bytes()).collect();
        let centers = self.bytes();
        let refuse = |message: String| Error::File {
            path: path.to_owned(),
            message,
        };
        let view = |shape, bytes| {
            TensorView::new(Dtype::F32, shape, bytes).map_err(|e| refuse(e.to_string()))
        };
        let tensors = [
            ("centers", view(vec![self.k, self.dim], &centers)?),
            ("weights", view(vec![self.k], &weights)?),
        ];
        let inertia = self.inertia.map(|inertia| serde_json::to_string(&inertia));
        let inertia = inertia.transpose().map_err(|e| refuse(e.to_string()))?;
        let about = inertia.map(|inertia| HashMap::from([(INERTIA.to_owned(), inertia)]));
        // `serialize_to_file` writes a file that only its owner can read.
        let bytes = safetensors::serialize(tensors, about).map_err(|e| refuse(e.to_string()))?;
        files::write_atomic(path, &bytes).map_err(|e| refuse(e.to_string()))
    }

    /// Reads a file of [`save`](Self::save).
    ///
    /// # Errors
    /// If the file at `path` cannot be read or is not a codebook.
    pub fn load(path: &Path) -> Result<Self> {
        let refuse = |message: String| Error::File {
            path: path.to_owned(),
            message,
        };
        let bytes = files::read(path).map_err(|e| refuse(e.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| refuse(e.to_string()))?;
        let tensor = |name: &str| file.tensor(name).map_err(|e| refuse(e.to_string()));
        let (centers, weights) = (tensor("centers")?, tensor("weights")?);
        let &[k, dim] = centers.shape() else {
            return Err(refuse(format!(
                "`centers` has shape {:?}, expected [k, dim]",
                centers.shape()
            )));
        };
        let (_, about) = SafeTensors::read_metadata(&bytes).map_err(|e| refuse(e.to_string()))?;
        let inertia = about
            .metadata()
            .as_ref()
            .and_then(|about| about.get(INERTIA));
        let inertia = inertia.map(|text| serde_json::from_str(text)).transpose();
        Ok(Self {
            k,
            dim,
            centers: floats(centers.data()),
            weights: floats(weights.data()),
            inertia: inertia.map_err(|e| refuse(format!("metadata `{INERTIA}`: {e}")))?,
        })
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
