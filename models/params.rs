//! Named variables in a fixed order, and their safetensors files.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tessera_kernels::ops::rounding::round_into;

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::files;

/// f32 variables by checkpoint name (timm's and MAE's), in the order of their addition, with the device and type of computation.
#[derive(Clone, Debug, Default)]
pub struct ParamStore {
    names: Vec<String>,
    vars: HashMap<String, Param>,
    compute: Compute,
}

#[derive(Clone, Debug)]
struct Param {
    var: Var,
    /// A copy in the compute type, for matrices of products if that type is not f32.
    working: Option<Var>,
    /// The tensor that the model uses: the working copy or the variable. It is detached if the parameter is not trainable, so that no graph
    /// or gradient is built for it.
    tensor: Tensor,
    trainable: bool,
}

impl Param {
    fn new(var: Var, working: Option<Var>, trainable: bool) -> Self {
        let used = working.as_ref().unwrap_or(&var);
        let tensor = match trainable {
            true => used.as_tensor().clone(),
            false => used.as_detached_tensor(),
        };
        Self {
            var,
            working,
            tensor,
            trainable,
        }
    }

    /// Creates a parameter, with a working copy if `compute` needs one.
    fn create(name: &str, var: Var, trainable: bool, compute: &Compute) -> Result<Self> {
        let dtype = compute.matrices();
        let is_matrix = name.ends_with(".weight") && var.rank() > 1;
        let working = match is_matrix && var.dtype() != dtype {
            true => Some(Var::from_tensor(
                &var.as_detached_tensor().to_dtype(dtype)?,
            )?),
            false => None,
        };
        Ok(Self::new(var, working, trainable))
    }

    fn set(&self, values: &Tensor) -> Result<()> {
        self.var.set(values)?;
        self.refresh()
    }

    fn refresh(&self) -> Result<()> {
        let Some(working) = &self.working else {
            return Ok(());
        };
        let values = self.var.as_detached_tensor();
        match working.device().is_cpu() && working.dtype() == DType::BF16 {
            true => round_into(working, &values)?,
            false => working.set(&values.to_dtype(working.dtype())?)?,
        }
        Ok(())
    }
}

impl ParamStore {
    /// Adds a variable with `values` in row-major order.
    ///
    /// # Errors
    /// If the number of `values` does not match the shape.
    pub fn add(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<f32>,
        trainable: bool,
    ) -> Result<()> {
        let device = self.compute.device();
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?;
        let param = Param::create(name, var, trainable, &self.compute)?;
        if self.vars.insert(name.to_owned(), param).is_none() {
            self.names.push(name.to_owned());
        }
        Ok(())
    }

    /// Device and type of the computation.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Returns the tensor that a model uses as `name`: the variable, or in bf16 the working copy of a matrix.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such parameter.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.vars.get(name) {
            Some(param) => Ok(&param.tensor),
            None => Err(Error::Config(format!(
                "the model has no parameter `{name}`"
            ))),
        }
    }

    /// Trainable variables in order. Call [`refresh`](Self::refresh) after changing them.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.learned().map(|(name, param)| (name, &param.var))
    }

    /// All variables in order, trainable or not.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Var)> {
        let all = self.names.iter();
        all.map(|name| (name.as_str(), &self.vars[name].var))
    }

    /// The graph's leaves for the trainable variables, in the same order: gradients refer to these tensors.
    pub fn leaves(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.learned().map(|(name, param)| (name, &param.tensor))
    }

    fn learned(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.names.iter().filter_map(|name| {
            let param = &self.vars[name];
            param.trainable.then_some((name.as_str(), param))
        })
    }

    /// Whether all values of all variables are finite.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn is_finite(&self) -> Result<bool> {
        for param in self.vars.values() {
            let zero = (param.var.as_detached_tensor().flatten_all()? * 0.0)?;
            if zero.sum_all()?.to_scalar::<f32>()? != 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Updates the working copies from the variables; needed after every step.
    ///
    /// # Errors
    /// If a copy fails.
    pub fn refresh(&self) -> Result<()> {
        let learned: Vec<&Param> = self.learned().map(|(_, param)| param).collect();
        learned.into_par_iter().try_for_each(Param::refresh)
    }

    /// All names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Sets whether `name` is trainable.
    pub fn set_trainable(&mut self, name: &str, trainable: bool) {
        if let Some(param) = self.vars.get_mut(name) {
            *param = Param::new(param.var.clone(), param.working.clone(), trainable);
        }
    }

    /// Returns a store that shares the variables but has none trainable, so a forward pass stores nothing for a backward.
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
    /// If there is no such variable, or the number of `values` does not match it.
    pub fn set(&self, name: &str, values: Vec<f32>) -> Result<()> {
        let shape = self.get(name)?.shape().clone();
        let tensor = Tensor::from_vec(values, shape, self.compute.device())?;
        self.vars[name].set(&tensor)
    }

    /// Copies the variables whose name `keep` accepts, on the same device. The copy shares no memory with this store.
    ///
    /// # Errors
    /// If a copy fails.
    pub fn copy(&self, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let mut out = Self {
            compute: self.compute.clone(),
            ..Self::default()
        };
        for name in self.names.iter().filter(|n| keep(n)) {
            let param = &self.vars[name];
            let values = param.var.flatten_all()?.to_vec1()?;
            out.add(name, param.var.dims(), values, param.trainable)?;
        }
        Ok(out)
    }

    /// Moves the variables to the device of `compute`; variables already on that device are shared.
    ///
    /// # Errors
    /// If a copy fails.
    pub fn on(self, compute: &Compute) -> Result<Self> {
        let mut vars = HashMap::with_capacity(self.vars.len());
        for (name, param) in self.vars {
            let var = match param.var.device().same_device(compute.device()) {
                true => param.var,
                false => {
                    let moved = param.var.as_detached_tensor();
                    Var::from_tensor(&moved.to_device(compute.device())?)?
                }
            };
            let param = Param::create(&name, var, param.trainable, compute)?;
            vars.insert(name, param);
        }
        Ok(Self {
            names: self.names,
            vars,
            compute: compute.clone(),
        })
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

    /// Sets every variable from a file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file lacks a variable or a shape differs.
    pub fn load(&self, path: &Path) -> Result<()> {
        let mut found = read(path)?;
        for name in &self.names {
            let var = &self.vars[name].var;
            let (shape, values) = found
                .remove(name)
                .ok_or_else(|| refuse(path, format!("lacks `{name}`")))?;
            if shape != var.dims() {
                let expected = var.dims();
                let found = format!("`{name}` has shape {shape:?}, the model has {expected:?}");
                return Err(refuse(path, found));
            }
            let values = Tensor::from_vec(values, shape, self.compute.device())?;
            self.vars[name].set(&values)?;
        }
        Ok(())
    }
}

/// Shape and values of a tensor in a file.
pub type Array = (Vec<usize>, Vec<f32>);

/// Name, shape and values of a tensor in a file.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Writes f32 tensors to a file atomically.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn write(path: &Path, tensors: Vec<Named>, metadata: HashMap<String, String>) -> Result<()> {
    let data = serialize(path, tensors, metadata)?;
    files::write_atomic(path, &data).map_err(|e| refuse(path, e))
}

/// Writes f32 tensors of a resume state with a digest.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn write_state(
    path: &Path,
    tensors: Vec<Named>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let data = serialize(path, tensors, metadata)?;
    files::write_sealed(path, data).map_err(|e| refuse(path, e))
}

/// The error for a checkpoint file.
pub(crate) fn refuse(path: &Path, message: impl ToString) -> Error {
    Error::Checkpoint {
        path: path.to_owned(),
        message: message.to_string(),
    }
}

fn serialize(
    path: &Path,
    tensors: Vec<Named>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>> {
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
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| refuse(path, e))?;
        Ok((name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    // `safetensors` writes metadata in the order of a hash map, so callers pass a single entry to keep the bytes deterministic.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize(views, metadata).map_err(|e| refuse(path, e))
}

/// Reads all f32 tensors of a file by name.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn read(path: &Path) -> Result<HashMap<String, Array>> {
    let bytes = files::read(path).map_err(|e| refuse(path, e))?;
    Ok(parse(path, &bytes)?.0)
}

/// Tensors and metadata of a file.
type Contents = (HashMap<String, Array>, HashMap<String, String>);

/// Reads all f32 tensors of a file of [`write_state`] by name, and its metadata.
///
/// # Errors
/// [`Error::Checkpoint`], also if the digest does not match the content.
pub fn read_state(path: &Path) -> Result<Contents> {
    let bytes = files::read_sealed(path).map_err(|e| refuse(path, e))?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| refuse(path, e))?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        if view.dtype() != Dtype::F32 {
            let found = format!("`{name}` is {:?}, expected F32", view.dtype());
            return Err(refuse(path, found));
        }
        let values = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok((name, (view.shape().to_vec(), values.collect())))
    });
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| refuse(path, e))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok((tensors.collect::<Result<_>>()?, metadata))
}
