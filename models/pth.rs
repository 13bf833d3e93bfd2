//! PyTorch's `.pth` files (1.6 or newer): a ZIP archive of a pickle and of the storages of its tensors.
//!
//! The parser never runs the pickle: it records calls, and interprets only those that rebuild a tensor. Candle's reader lacks
//! protocol 4 and strided tensors, and panics on damaged files.

mod pickle;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::DType;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::files;
use pickle::{Id, Node, Parser};

/// Limit of the pickle in bytes; a byte may need eighty in memory. That of a ViT-L with the state of its optimiser has less than one million.
const PICKLE: u64 = 1 << 23;
/// Limit of the elements of a tensor; the largest matrix of a ViT-H has 6.6 million. Expanded tensors can claim any number.
const ELEMENTS: usize = 1 << 24;

/// Limit of a tensor's name in bytes. The names of nested dictionaries grow with the square of their depth.
const NAME: usize = 1024;
/// Limit of the tensors and dictionaries. Each has a name and a shape, which may be the same object a million times.
const TENSORS: usize = 1 << 16;
/// Limit of a tensor's axes, that of PyTorch.
const AXES: usize = 64;
/// Limit of calls around a tensor's; a Parameter of a subclass of Tensor has two.
const CALLS: usize = 8;

type Result<T> = std::result::Result<T, String>;

/// An open file, and the tensors that its pickle describes.
pub(crate) struct Pth {
    archive: ZipArchive<BufReader<File>>,
    /// Folder of the storages in the archive.
    folder: String,
    /// Tensors of floating-point numbers by their dotted path in nested dictionaries.
    pub tensors: BTreeMap<String, Strided>,
}

/// A tensor as a view of a storage.
pub(crate) struct Strided {
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
    /// Steps along its axes, in elements.
    strides: Vec<usize>,
    /// Its first element in the storage.
    offset: usize,
    storage: String,
}

impl Pth {
    /// Opens the file at `path` and parses its pickle.
    ///
    /// # Errors
    /// The reason why the file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path).map_err(text)?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(text)?;
        let name = {
            let mut names = archive.file_names().filter_map(std::result::Result::ok);
            let name = names.find(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
            name.ok_or("no data.pkl in it")?.into_owned()
        };
        let folder = name.trim_end_matches("data.pkl").to_owned();
        let mut order = String::new();
        match archive.by_name(&format!("{folder}byteorder")) {
            Ok(entry) => drop(entry.take(8).read_to_string(&mut order).map_err(text)?),
            // Early versions of PyTorch write no such entry.
            Err(ZipError::FileNotFound) => {}
            Err(error) => return Err(text(error)),
        }
        if order.trim() == "big" {
            return Err("its numbers are big-endian".into());
        }
        let mut pickle = Vec::new();
        let mut entry = archive.by_name(&name).map_err(text)?;
        let mut beginning = entry.by_ref().take(PICKLE + 1);
        beginning.read_to_end(&mut pickle).map_err(text)?;
        if pickle.len() as u64 > PICKLE {
            let size = entry.size();
            return Err(format!(
                "its pickle has {size} bytes, expected at most {PICKLE}"
            ));
        }
        drop(entry);
        let (nodes, root) = Parser::parse(&pickle)?;
        Ok(Self {
            archive,
            folder,
            tensors: Nodes(nodes).tensors(root)?,
        })
    }

    /// The elements of the tensor `name` in row-major order, little-endian.
    ///
    /// # Errors
    /// When there is no such tensor, or the archive lacks a part of its storage.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.tensors.get(name).ok_or("no such tensor")?;
        let mut ends = tensor.shape.iter().zip(&tensor.strides);
        let end = ends.try_fold(tensor.offset, |at, (n, stride)| {
            at.checked_add(n.checked_sub(1)?.checked_mul(*stride)?)
        });
        let elements = tensor
            .shape
            .iter()
            .try_fold(1usize, |a, n| a.checked_mul(*n));
        let size = tensor.dtype.size_in_bytes();
        let (Some(end), Some(_)) = (end, elements.filter(|n| *n <= ELEMENTS)) else {
            return Err(format!(
                "`{name}` is empty or has more than {ELEMENTS} elements"
            ));
        };
        let entry = format!("{}data/{}", self.folder, tensor.storage);
        let mut entry = self.archive.by_name(&entry).map_err(text)?;
        let needed = (end as u64).saturating_add(1).saturating_mul(size as u64);
        let mut storage = Vec::new();
        let mut beginning = entry.by_ref().take(needed);
        beginning.read_to_end(&mut storage).map_err(text)?;
        // The checksum of an entry is compared at its end.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(text)?;
        if (storage.len() as u64) < needed {
            return Err(format!("the storage of `{name}` ends too early"));
        }
        let mut starts = vec![tensor.offset];
        for (n, stride) in tensor.shape.iter().zip(&tensor.strides) {
            starts = starts
                .iter()
                .flat_map(|at| (0..*n).map(move |i| at + i * stride))
                .collect();
        }
        let element = |at: usize| &storage[at * size..][..size];
        Ok(starts
            .into_iter()
            .flat_map(|at| element(at).iter().copied())
            .collect())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Nodes(Vec<Node>);

impl Nodes {
    /// The tensors of all dictionaries that can be reached from `root` by text keys; each dictionary counts once.
    ///
    /// # Errors
    /// A name of more than [`NAME`] bytes, or more than [`TENSORS`] tensors and dictionaries.
    fn tensors(&self, root: Id) -> Result<BTreeMap<String, Strided>> {
        let mut found = BTreeMap::new();
        let mut walked = HashSet::from([root]);
        let mut next = VecDeque::from([(String::new(), root)]);
        while let Some((prefix, at)) = next.pop_front() {
            let Node::Dict(items) = &self.0[at] else {
                continue;
            };
            for (key, value) in items {
                let Node::Text(key) = &self.0[*key] else {
                    continue;
                };
                let tensor = self.tensor(*value);
                let is_dict = matches!(self.0[*value], Node::Dict(_));
                if (tensor.is_some() || is_dict) && prefix.len() + key.len() > NAME {
                    return Err(format!("a name in its pickle has more than {NAME} bytes"));
                }
                if found.len() + walked.len() > TENSORS {
                    return Err(format!(
                        "its pickle names more than {TENSORS} tensors and dictionaries"
                    ));
                }
                if let Some(tensor) = tensor {
                    found.insert(format!("{prefix}{key}"), tensor);
                } else if is_dict && walked.insert(*value) {
                    next.push_back((format!("{prefix}{key}."), *value));
                }
            }
        }
        Ok(found)
    }

    /// The tensor that a call rebuilds (`torch/_utils.py`); `None` of everything else, integers and booleans too.
    fn tensor(&self, mut at: Id) -> Option<Strided> {
        for _ in 0..CALLS {
            let Node::Call(function, arguments) = self.0[at] else {
                return None;
            };
            let (mut function, mut arguments) = (function, self.tuple(arguments)?);
            if self.global(function)? == "torch._tensor._rebuild_from_type_v2" {
                (function, arguments) = (*arguments.first()?, self.tuple(*arguments.get(2)?)?);
            }
            match &*self.global(function)? {
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state" => at = *arguments.first()?,
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                    return self.rebuilt(arguments);
                }
                _ => return None,
            }
        }
        None
    }

    /// The tensor of the arguments storage, offset, shape and strides.
    fn rebuilt(&self, arguments: &[Id]) -> Option<Strided> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        // A negative bit, of a view that is not resolved.
        let marks = arguments.get(6).map(|at| &self.0[*at]);
        if matches!(marks, Some(Node::Dict(items)) if !items.is_empty()) {
            return None;
        }
        let (storage, dtype) = self.storage(storage)?;
        let (shape, strides) = (self.ints(shape)?, self.ints(strides)?);
        (shape.len() == strides.len()).then_some(Strided {
            shape,
            dtype,
            strides,
            offset: self.int(offset)?,
            storage,
        })
    }

    /// Name and type of a storage: `("storage", torch.FloatStorage, name, device, elements)`.
    fn storage(&self, at: Id) -> Option<(String, DType)> {
        let Node::Persistent(about) = self.0[at] else {
            return None;
        };
        let &[_, class, name, ..] = self.tuple(about)? else {
            return None;
        };
        let name = self.text(name)?;
        let dtype = match &*self.global(class)? {
            "torch.FloatStorage" => DType::F32,
            "torch.DoubleStorage" => DType::F64,
            "torch.HalfStorage" => DType::F16,
            "torch.BFloat16Storage" => DType::BF16,
            _ => return None,
        };
        Some((name.to_owned(), dtype))
    }

    /// Module and name of a class or function with a dot between.
    fn global(&self, at: Id) -> Option<String> {
        match self.0[at] {
            Node::Global(module, name) => {
                Some(format!("{}.{}", self.text(module)?, self.text(name)?))
            }
            _ => None,
        }
    }

    /// A text of at most [`NAME`] bytes; names of storages and functions are shorter.
    fn text(&self, at: Id) -> Option<&str> {
        match &self.0[at] {
            Node::Text(text) if text.len() <= NAME => Some(text),
            _ => None,
        }
    }

    fn tuple(&self, at: Id) -> Option<&[Id]> {
        match &self.0[at] {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn int(&self, at: Id) -> Option<usize> {
        match self.0[at] {
            Node::Int(value) => Some(value),
            _ => None,
        }
    }

    fn ints(&self, at: Id) -> Option<Vec<usize>> {
        let items = self.tuple(at).filter(|items| items.len() <= AXES)?;
        items.iter().map(|item| self.int(*item)).collect()
    }
}

#[cfg(test)]
mod tests;
