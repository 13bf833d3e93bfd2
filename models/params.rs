//! Named variables, in a fixed order, and their safetensors files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::compute::Compute;
use crate::error::{Error, Result};
use crate::files;

/// f32 variables by checkpoint name (timm's and MAE's), in the order they were added, and where and how a model computes with
/// them.
#[derive(Clone, Debug, Default)]
pub struct ParamStore {
    names: Vec<String>,
    vars: HashMap<String, Param>,
    compute: Compute,
}

#[derive(Clone, Debug)]
struct Param {
    var: Var,
    /// The values in the products' type, where that is another and this is a matrix of a product.
    working: Option<Var>,
    /// What the model computes with: the working copy or the variable, or its values without it where nothing is to be
    /// learned, so that neither a graph nor a gradient is made for it.
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

    /// A variable, with a copy of its values where the model computes with another type.
    fn made(name: &str, var: Var, trainable: bool, compute: &Compute) -> Result<Self> {
        let dtype = compute.dtype();
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
        if let Some(working) = &self.working {
            let values = self.var.as_detached_tensor();
            working.set(&values.to_dtype(working.dtype())?)?;
        }
        Ok(())
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
        let device = self.compute.device();
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?;
        let param = Param::made(name, var, trainable, &self.compute)?;
        if self.vars.insert(name.to_owned(), param).is_none() {
            self.names.push(name.to_owned());
        }
        Ok(())
    }

    /// Where and how the model computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// What a model computes with as `name`: the variable, or in bf16 the copy of a product's matrix.
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

    /// Trainable variables in order. After changing them call [`refresh`](Self::refresh).
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.learned().map(|(name, param)| (name, &param.var))
    }

    /// All variables in order, trainable or not.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Var)> {
        let all = self.names.iter();
        all.map(|name| (name.as_str(), &self.vars[name].var))
    }

    /// The tensors that the trainable variables' gradients come for, in the same order.
    pub fn leaves(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.learned().map(|(name, param)| (name, &param.tensor))
    }

    fn learned(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.names.iter().filter_map(|name| {
            let param = &self.vars[name];
            param.trainable.then_some((name.as_str(), param))
        })
    }

    /// Whether every number of every variable is finite.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn is_finite(&self) -> Result<bool> {
        for param in self.vars.values() {
            let zero = (param.var.as_detached_tensor().flatten_all()? * 0.0)?;
            if zero.sum_all()?.to_scalar::<f32>()? != 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the copies in the products' type anew from the variables: once after every step.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn refresh(&self) -> Result<()> {
        self.learned().try_for_each(|(_, param)| param.refresh())
    }

    /// All names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Makes `name` trainable (or not).
    pub fn set_trainable(&mut self, name: &str, trainable: bool) {
        if let Some(param) = self.vars.get_mut(name) {
            *param = Param::new(param.var.clone(), param.working.clone(), trainable);
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
        let tensor = Tensor::from_vec(values, shape, self.compute.device())?;
        self.vars[name].set(&tensor)
    }

    /// Copies of the variables whose name `keep` accepts, on the same device; training one store leaves the other alone.
    ///
    /// # Errors
    /// When a copy fails.
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

    /// The same variables for a model that computes as `compute` says: moved to its device, values shared where they are there.
    ///
    /// # Errors
    /// When a copy fails.
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
            let param = Param::made(&name, var, param.trainable, compute)?;
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

    /// Sets every variable from a file that has all of them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file lacks one or its shape differs.
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

/// A tensor of a file without its name: shape, values.
pub type Array = (Vec<usize>, Vec<f32>);

/// A tensor of a file: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Writes f32 tensors: the file is whole or as it was.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn write(path: &Path, tensors: Vec<Named>, metadata: HashMap<String, String>) -> Result<()> {
    let data = serialize(path, tensors, metadata)?;
    files::write_atomic(path, &data).map_err(|e| refuse(path, e))
}

/// Writes f32 tensors of resume state, with a digest.
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

fn refuse(path: &Path, message: impl ToString) -> Error {
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
    // The header is a hash map in its crate; one entry at a time keeps the file's bytes the same.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize(views, metadata).map_err(|e| refuse(path, e))
}

/// All f32 tensors of a file by name.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn read(path: &Path) -> Result<HashMap<String, Array>> {
    Ok(read_all(path)?.0)
}

/// Tensors and metadata of a file.
type Contents = (HashMap<String, Array>, HashMap<String, String>);

/// All f32 tensors of a file by name, and its metadata.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn read_all(path: &Path) -> Result<Contents> {
    parse(path, &fs::read(path).map_err(|e| refuse(path, e))?)
}

/// The same of what [`write_state`] wrote.
///
/// # Errors
/// [`Error::Checkpoint`], also where the digest is not that of the content.
pub fn read_state(path: &Path) -> Result<Contents> {
    parse(
        path,
        &files::read_sealed(path).map_err(|e| refuse(path, e))?,
    )
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
