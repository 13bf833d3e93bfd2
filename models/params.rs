//! Named variables, in a fixed order, and their safetensors files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{Error, Result};

/// Variables by checkpoint name (timm's and MAE's), in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct ParamStore {
    names: Vec<String>,
    vars: HashMap<String, Param>,
}

#[derive(Clone, Debug)]
struct Param {
    var: Var,
    /// What the model computes with: the variable, or its values without it where nothing is to be learned, so that
    /// neither a graph nor a gradient is made for it.
    tensor: Tensor,
    trainable: bool,
}

impl Param {
    fn new(var: Var, trainable: bool) -> Self {
        let tensor = match trainable {
            true => var.as_tensor().clone(),
            false => var.as_detached_tensor(),
        };
        Self {
            var,
            tensor,
            trainable,
        }
    }
}

impl ParamStore {
    /// Adds a variable; `values` in row-major order.
    ///
    /// # Errors
    /// When `values` does not have the shape's size.
    pub fn add(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<f32>,
        trainable: bool,
    ) -> Result<()> {
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        if self
            .vars
            .insert(name.to_owned(), Param::new(var, trainable))
            .is_none()
        {
            self.names.push(name.to_owned());
        }
        Ok(())
    }

    /// The variable `name`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none: a model asks for what its checkpoint lacks.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.vars.get(name) {
            Some(param) => Ok(&param.tensor),
            None => Err(Error::Config(format!(
                "the model has no parameter `{name}`"
            ))),
        }
    }

    /// Trainable variables in order.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.names.iter().filter_map(|name| {
            let param = &self.vars[name];
            param.trainable.then_some((name.as_str(), &param.var))
        })
    }

    /// All names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Makes `name` trainable (or not).
    pub fn set_trainable(&mut self, name: &str, trainable: bool) {
        if let Some(param) = self.vars.get_mut(name) {
            *param = Param::new(param.var.clone(), trainable);
        }
    }

    /// The same variables, none of them trainable: a forward pass over it keeps nothing for a backward. Values are shared.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut out = self.clone();
        self.names
            .iter()
            .for_each(|name| out.set_trainable(name, false));
        out
    }

    /// Sets `name` to `values` in row-major order.
    ///
    /// # Errors
    /// When there is no such variable, or `values` does not have its size.
    pub fn set(&self, name: &str, values: Vec<f32>) -> Result<()> {
        let shape = self.get(name)?.shape().clone();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(self.vars[name].var.set(&tensor)?)
    }

    /// Copies of the variables whose name `keep` accepts; training one store leaves the other alone.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn copy(&self, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let mut out = Self::default();
        for name in self.names.iter().filter(|n| keep(n)) {
            let param = &self.vars[name];
            let values = param.var.flatten_all()?.to_vec1()?;
            out.add(name, param.var.dims(), values, param.trainable)?;
        }
        Ok(out)
    }

    /// Copies of all variables on `device`.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let mut out = self.clone();
        for param in out.vars.values_mut() {
            let tensor = param.var.as_detached_tensor().to_device(device)?.copy()?;
            *param = Param::new(Var::from_tensor(&tensor)?, param.trainable);
        }
        Ok(out)
    }

    /// Writes a safetensors file with `metadata`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub fn save(&self, path: &Path, metadata: HashMap<String, String>) -> Result<()> {
        let tensors = self.names.iter().map(|name| {
            let var = &self.vars[name].var;
            let values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            Ok((name.clone(), var.dims().to_vec(), values))
        });
        write(path, tensors.collect::<Result<_>>()?, metadata)
    }

    /// Sets every variable from a file that has all of them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file lacks one or its shape differs.
    pub fn load(&self, path: &Path) -> Result<()> {
        let mut found = read(path)?;
        for name in &self.names {
            let var = &self.vars[name].var;
            let refuse = |message| Error::Checkpoint {
                path: path.to_owned(),
                message,
            };
            let (shape, values) = found
                .remove(name)
                .ok_or_else(|| refuse(format!("lacks `{name}`")))?;
            if shape != var.dims() {
                return Err(refuse(format!(
                    "`{name}` has shape {shape:?}, the model has {:?}",
                    var.dims()
                )));
            }
            var.set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
        }
        Ok(())
    }
}

/// A tensor of a file without its name: shape, values.
pub type Array = (Vec<usize>, Vec<f32>);

/// A tensor of a file: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Writes f32 tensors beside, syncs, renames.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn write(path: &Path, tensors: Vec<Named>, metadata: HashMap<String, String>) -> Result<()> {
    let refuse = |message: String| Error::Checkpoint {
        path: path.to_owned(),
        message,
    };
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            (
                name,
                shape,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| refuse(e.to_string()))?;
        Ok((name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    // The header is a hash map in its crate; one entry at a time keeps the file's bytes the same.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let data = safetensors::serialize(views, metadata).map_err(|e| refuse(e.to_string()))?;
    let beside = path.with_extension("tmp");
    let write = || {
        fs::write(&beside, &data)?;
        fs::File::open(&beside)?.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|e| refuse(e.to_string()))
}

/// All f32 tensors of a file by name.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn read(path: &Path) -> Result<HashMap<String, Array>> {
    let refuse = |message: String| Error::Checkpoint {
        path: path.to_owned(),
        message,
    };
    let bytes = fs::read(path).map_err(|e| refuse(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| refuse(e.to_string()))?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        if view.dtype() != Dtype::F32 {
            return Err(refuse(format!(
                "`{name}` is {:?}, expected F32",
                view.dtype()
            )));
        }
        let values = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok((name, (view.shape().to_vec(), values.collect())))
    });
    tensors.collect()
}
