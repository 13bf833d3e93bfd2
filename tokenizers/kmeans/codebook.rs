//! Centres, the codes of rows, and the file of both.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tessera_kernels::device::launcher::Device;
use tessera_kernels::ops::kmeans::device::Centers;

use super::fields::Matching;
use super::nearest::Nearest;
use crate::{Error, Result};

/// K centres of `dim` numbers, and how many patches each has absorbed.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    /// Number of centres.
    pub k: usize,
    /// Numbers of a centre.
    pub dim: usize,
    /// `[k, dim]`.
    pub centers: Vec<f32>,
    /// Patches absorbed while fitting.
    pub weights: Vec<f32>,
    /// How close patches are to their centres; unknown in files of older versions.
    pub inertia: Option<Inertia>,
}

/// How close patches are to their nearest centre.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inertia {
    /// Mean squared distance.
    pub per_patch: f64,
    /// Train images it is measured on.
    pub images: usize,
    /// Whether the fit never saw them.
    pub held_out: bool,
}

impl fmt::Display for Inertia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.held_out { "held-out" } else { "seen" };
        let Self {
            per_patch, images, ..
        } = self;
        write!(
            f,
            "inertia {per_patch:.5} per patch on {images} {kind} images"
        )
    }
}

/// The key of [`Inertia`] in the file's metadata, as JSON.
const INERTIA: &str = "inertia";

impl Codebook {
    /// `centers` `[k, dim]` that have absorbed nothing.
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

    /// The centres, ready to place rows by `matching`: `x.c - |c|^2 / 2` is largest where `|x - c|` is smallest. A row's own length
    /// changes no order, so features need no normalisation where centres have no bias. As large as the codebook: made once.
    pub fn nearest(&self, matching: Matching) -> Nearest {
        match matching {
            Matching::Euclidean => Nearest::euclidean(&self.centers, self.dim),
            Matching::InnerProduct => Nearest::new(&self.centers, self.dim, &vec![0.0; self.k]),
            Matching::Cosine => Nearest::new(&self.unit_centers(), self.dim, &vec![0.0; self.k]),
        }
    }

    /// The same on a device.
    ///
    /// # Errors
    /// What the device says.
    pub fn on(&self, device: &Device, matching: Matching) -> Result<Centers> {
        let centers = match matching {
            Matching::Euclidean => Centers::euclidean(device, &self.centers, self.dim),
            Matching::InnerProduct => Centers::inner_product(device, &self.centers, self.dim),
            Matching::Cosine => Centers::inner_product(device, &self.unit_centers(), self.dim),
        };
        Ok(centers?)
    }

    /// The centres, each of length 1.
    fn unit_centers(&self) -> Vec<f32> {
        let mut centers = self.centers.clone();
        for center in centers.chunks_exact_mut(self.dim) {
            let norm: f32 = center.iter().map(|v| v * v).sum();
            let scale = 1.0 / norm.sqrt().max(1e-12);
            center.iter_mut().for_each(|v| *v *= scale);
        }
        centers
    }

    /// The centres' bytes, for the fingerprint.
    pub fn bytes(&self) -> Vec<u8> {
        self.centers.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Writes the file at `path`.
    ///
    /// # Errors
    /// When it cannot be written.
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
        safetensors::serialize_to_file(tensors, about, path).map_err(|e| refuse(e.to_string()))
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When the file at `path` cannot be read or holds no codebook.
    pub fn load(path: &Path) -> Result<Self> {
        let refuse = |message: String| Error::File {
            path: path.to_owned(),
            message,
        };
        let bytes = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
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
