//! PyTorch's `.pth` files (1.6 or newer): a ZIP archive of a pickle and of the storages of its tensors.
//!
//! The parser never runs the pickle: it records calls, and interprets only those that rebuild a tensor. Candle's reader lacks
//! protocol 4 and strided tensors, and panics on damaged files.

mod pickle;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
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

/// Limit of the objects that are named in an error.
const OBJECTS: usize = 3;

/// Why a tensor of integers cannot be a weight.
pub(crate) const INTEGERS: &str =
    "has integers, expected f32, f64, f16 or bf16; use the checkpoint before its quantisation";
/// Why a complex tensor cannot be a weight.
pub(crate) const COMPLEX: &str =
    "is complex, expected f32, f64, f16 or bf16; use another checkpoint";
/// Why a tensor of float8 and of types that PyTorch knows since 2.1 is not read.
pub(crate) const NEWER: &str = "has float8 or another type that is not read, expected f32, f64, f16 or bf16; use the checkpoint before its quantisation";

type Result<T> = std::result::Result<T, String>;

/// An open file, and what its pickle describes.
pub(crate) struct Pth {
    archive: ZipArchive<BufReader<File>>,
    /// Folder of the storages in the archive.
    folder: String,
    /// The read storages that several tensors are views of, by name, so that they are not read for each of them.
    shared: HashMap<String, Vec<u8>>,
    /// Content of its pickle.
    pub contents: Contents,
}

/// What can be reached in a pickle by text keys, by its dotted path in nested dictionaries.
#[derive(Default)]
pub(crate) struct Contents {
    /// Tensors of floating-point numbers.
    pub tensors: BTreeMap<String, Strided>,
    /// Other tensors: why they cannot be read.
    pub unread: BTreeMap<String, &'static str>,
    /// Of tensors that have a key which is no text, such as those in the state of an optimiser: bytes of the name up to the last such key.
    pub numbered: HashMap<String, usize>,
    /// The first objects, lists and tuples, in which tensors may be.
    pub objects: Vec<String>,
}

impl Contents {
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.unread.contains_key(name)
    }
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

impl Strided {
    /// Index of its last element in the storage; `None` if it has none or overflows.
    fn end(&self) -> Option<usize> {
        let mut ends = self.shape.iter().zip(&self.strides);
        ends.try_fold(self.offset, |at, (n, stride)| {
            at.checked_add(n.checked_sub(1)?.checked_mul(*stride)?)
        })
    }
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
            let names = || archive.file_names().filter_map(std::result::Result::ok);
            let is_pickle = |name: &str| name == "data.pkl" || name.ends_with("/data.pkl");
            // A file that its owner has added lies deeper.
            let depth = |name: &str| name.matches('/').count();
            let name = names()
                .filter(|name| is_pickle(name))
                .min_by_key(|name| depth(name));
            let beside = |of: &str| {
                let mut all = names().filter(|name| is_pickle(name) && depth(name) == depth(of));
                all.find(|name| name != of).map(|other| other.into_owned())
            };
            if let Some((name, other)) = name.as_deref().and_then(|n| Some((n, beside(n)?))) {
                return Err(format!(
                    "holds `{name:.60}` and `{other:.60}`, expected one"
                ));
            }
            let absent = || {
                let first = names().next().unwrap_or_default();
                format!("a ZIP archive without data.pkl, its first file is `{first:.60}`")
            };
            name.ok_or_else(absent)?.into_owned()
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
            shared: HashMap::new(),
            contents: Nodes(nodes).contents(root)?,
        })
    }

    /// The elements of the tensor `name` in row-major order, little-endian.
    ///
    /// # Errors
    /// When there is no such tensor, or the archive lacks a part of its storage.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.contents.tensors.get(name).ok_or("no such tensor")?;
        let end = tensor.end();
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
        let bytes_to = |end: usize| (end as u64).saturating_add(1).saturating_mul(size as u64);
        let needed = bytes_to(end);
        let views = self.contents.tensors.values();
        let views = Vec::from_iter(views.filter(|t| t.storage == tensor.storage));
        let is_shared = views.len() > 1;
        let most = views
            .iter()
            .filter_map(|view| view.end())
            .map(bytes_to)
            .max();
        let read;
        let storage = match self.shared.get(&tensor.storage) {
            Some(bytes) => bytes,
            None => {
                let entry = format!("{}data/{}", self.folder, tensor.storage);
                let mut entry = self.archive.by_name(&entry).map_err(text)?;
                let mut bytes = Vec::new();
                let mut beginning = entry.by_ref().take(most.unwrap_or(needed));
                beginning.read_to_end(&mut bytes).map_err(text)?;
                // The checksum of an entry is compared at its end.
                std::io::copy(&mut entry, &mut std::io::sink()).map_err(text)?;
                match is_shared {
                    true => self.shared.entry(tensor.storage.clone()).or_insert(bytes),
                    false => {
                        read = bytes;
                        &read
                    }
                }
            }
        };
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
    /// What all dictionaries hold that can be reached from `root` by keys; each dictionary counts once.
    ///
    /// # Errors
    /// Two tensors of one name, a name of more than [`NAME`] bytes, or more than [`TENSORS`] tensors and dictionaries.
    fn contents(&self, root: Id) -> Result<Contents> {
        let mut found = Contents::default();
        found.objects.extend(self.object(root));
        let mut walked = HashSet::from([root]);
        let mut next = VecDeque::from([(String::new(), root, 0)]);
        while let Some((prefix, at, before)) = next.pop_front() {
            let Node::Dict(items) = &self.0[at] else {
                continue;
            };
            for (at, (key, value)) in items.iter().enumerate() {
                let is_text = matches!(self.0[*key], Node::Text(_));
                let key = match &self.0[*key] {
                    Node::Text(key) => Cow::from(key),
                    Node::Int(key) => key.to_string().into(),
                    _ => format!("(key {at})").into(),
                };
                let tensor = self.tensor(*value);
                let is_dict = matches!(self.0[*value], Node::Dict(_));
                if (tensor.is_some() || is_dict) && prefix.len() + key.len() > NAME {
                    return Err(format!("a name in its pickle has more than {NAME} bytes"));
                }
                if found.tensors.len() + found.unread.len() + walked.len() > TENSORS {
                    return Err(format!(
                        "its pickle names more than {TENSORS} tensors and dictionaries"
                    ));
                }
                let name = || format!("{prefix}{key}");
                if tensor.is_some() && found.has(&name()) {
                    return Err(format!("its pickle has two tensors `{}`", name()));
                }
                let numbered = if is_text {
                    before
                } else {
                    prefix.len() + key.len()
                };
                if numbered > 0 && tensor.is_some() {
                    found.numbered.insert(name(), numbered);
                }
                match tensor {
                    Some(Ok(tensor)) => drop(found.tensors.insert(name(), tensor)),
                    Some(Err(why)) => drop(found.unread.insert(name(), why)),
                    None if is_dict && walked.insert(*value) => {
                        next.push_back((format!("{}.", name()), *value, numbered));
                    }
                    None if found.objects.len() < OBJECTS => {
                        let object = self.object(*value);
                        let under = |object| format!("{object} under `{:.60}`", name());
                        found.objects.extend(object.map(under));
                    }
                    None => {}
                }
            }
        }
        Ok(found)
    }

    /// Names an object, a list or a tuple; `None` of everything else.
    fn object(&self, at: Id) -> Option<String> {
        match self.0[at] {
            Node::List => Some("a list".into()),
            Node::Tuple(_) => Some("a tuple".into()),
            Node::Call(function, arguments) => {
                let mut class = self.global(function)?;
                // How protocol 2 builds an object: its class is an argument.
                if class.starts_with("copy") && class.ends_with("._reconstructor") {
                    class = self.global(*self.tuple(arguments)?.first()?)?;
                }
                Some(format!("a pickled object of the class `{class:.60}`"))
            }
            _ => None,
        }
    }

    /// The tensor that a call rebuilds (`torch/_utils.py`), or why it cannot be read; `None` of everything else.
    fn tensor(&self, mut at: Id) -> Option<std::result::Result<Strided, &'static str>> {
        for _ in 0..CALLS {
            let Node::Call(function, arguments) = self.0[at] else {
                return None;
            };
            let (mut function, mut arguments) = (function, self.tuple(arguments)?);
            if self.global(function)? == "torch._tensor._rebuild_from_type_v2" {
                (function, arguments) = (*arguments.first()?, self.tuple(*arguments.get(2)?)?);
            }
            let name = self.global(function)?;
            return Some(Err(match name.strip_prefix("torch._utils._rebuild_")? {
                "parameter" | "parameter_with_state" => {
                    at = *arguments.first()?;
                    continue;
                }
                "tensor_v2" | "tensor" => return Some(self.rebuilt(arguments)),
                "tensor_v3" => NEWER,
                "qtensor" => {
                    "is quantised, expected f32, f64, f16 or bf16; save `tensor.dequantize()`"
                }
                "sparse_tensor" | "sparse_csr_tensor" => {
                    "is sparse, expected a dense tensor; save `tensor.to_dense()`"
                }
                "meta_tensor_no_storage" => {
                    "is on the device `meta` and has no values; load the weights before you save it"
                }
                _ => "is no plain tensor; save `tensor.detach().clone()`",
            }));
        }
        None
    }

    /// The tensor of the arguments storage, offset, shape and strides, or why it cannot be read.
    fn rebuilt(&self, arguments: &[Id]) -> std::result::Result<Strided, &'static str> {
        // A negative bit, of a view that is not resolved.
        let marks = arguments.get(6).map(|at| &self.0[*at]);
        if matches!(marks, Some(Node::Dict(items)) if !items.is_empty()) {
            return Err("is a view with the negative bit; save `tensor.resolve_neg()`");
        }
        let damaged = "is damaged; copy or download the file again";
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err(damaged);
        };
        let (storage, dtype) = self.storage(storage).ok_or(damaged)?;
        let dtype = dtype?;
        let view = || Some((self.int(offset)?, self.ints(shape)?, self.ints(strides)?));
        match view() {
            Some((offset, shape, strides)) if shape.len() == strides.len() => Ok(Strided {
                shape,
                dtype,
                strides,
                offset,
                storage,
            }),
            _ => Err(damaged),
        }
    }

    /// Name and type of a storage, or why this type is not read: `("storage", torch.FloatStorage, name, device, elements)`.
    fn storage(&self, at: Id) -> Option<(String, std::result::Result<DType, &'static str>)> {
        let Node::Persistent(about) = self.0[at] else {
            return None;
        };
        let &[_, class, name, ..] = self.tuple(about)? else {
            return None;
        };
        let name = self.text(name)?;
        let class = self.global(class)?;
        let dtype = match class.strip_prefix("torch.")?.strip_suffix("Storage")? {
            "Float" => Ok(DType::F32),
            "Double" => Ok(DType::F64),
            "Half" => Ok(DType::F16),
            "BFloat16" => Ok(DType::BF16),
            "ComplexFloat" | "ComplexDouble" => Err(COMPLEX),
            "Byte" | "Char" | "Short" | "Int" | "Long" | "Bool" => Err(INTEGERS),
            _ => Err(NEWER),
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
