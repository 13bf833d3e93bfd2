//! PyTorch's `.pth` files (1.6 or newer): a ZIP archive of a pickle and of the storages of its tensors.
//!
//! The parser never runs the pickle: it records calls, and interprets only those that rebuild a tensor. Candle's reader lacks
//! protocol 4 and strided tensors, and panics on damaged files.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::DType;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::files;

/// Limit of the pickle in bytes; a byte may need forty in memory. That of a ViT-L with the state of its optimiser has less than one million.
const PICKLE: u64 = 1 << 24;
/// Limit of the elements of a tensor; the largest matrix of a ViT-H has 6.6 million. Expanded tensors can claim any number.
const ELEMENTS: usize = 1 << 24;

/// Limit of a tensor's name in bytes. The names of nested dictionaries grow with the square of their depth.
const NAME: usize = 1024;

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

/// Index of a node. Nodes lie in one list, so that cycles and depth of a damaged pickle need neither recursion nor memory.
type Id = usize;

enum Node {
    /// Anything that is no part of a tensor.
    Other,
    Mark,
    Int(usize),
    Text(String),
    /// Module and name with a dot between.
    Global(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Persistent(Id),
    Call(Id, Id),
}

struct Nodes(Vec<Node>);

impl Nodes {
    /// The tensors of all dictionaries that can be reached from `root` by text keys; each dictionary counts once.
    ///
    /// # Errors
    /// A name of more than [`NAME`] bytes.
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
        loop {
            let Node::Call(function, arguments) = self.0[at] else {
                return None;
            };
            let (mut function, mut arguments) = (function, self.tuple(arguments)?);
            if self.global(function)? == "torch._tensor._rebuild_from_type_v2" {
                (function, arguments) = (*arguments.first()?, self.tuple(*arguments.get(2)?)?);
            }
            match self.global(function)? {
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state" => {
                    // The argument precedes the call in the pickle, so the loop ends.
                    at = *arguments.first().filter(|inner| **inner < at)?;
                }
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                    return self.rebuilt(arguments);
                }
                _ => return None,
            }
        }
    }

    /// The tensor of the arguments storage, offset, shape and strides.
    fn rebuilt(&self, arguments: &[Id]) -> Option<Strided> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
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
        let Node::Text(name) = &self.0[name] else {
            return None;
        };
        let dtype = match self.global(class)? {
            "torch.FloatStorage" => DType::F32,
            "torch.DoubleStorage" => DType::F64,
            "torch.HalfStorage" => DType::F16,
            "torch.BFloat16Storage" => DType::BF16,
            _ => return None,
        };
        Some((name.clone(), dtype))
    }

    fn global(&self, at: Id) -> Option<&str> {
        match &self.0[at] {
            Node::Global(name) => Some(name),
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
        self.tuple(at)?.iter().map(|item| self.int(*item)).collect()
    }
}

/// The machine of Python's `pickletools.py`, protocols 2 to 5.
#[derive(Default)]
struct Parser<'a> {
    rest: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Id>,
    memo: HashMap<u64, Id>,
}

impl<'a> Parser<'a> {
    /// All nodes of a pickle, and its root.
    fn parse(pickle: &'a [u8]) -> Result<(Vec<Node>, Id)> {
        let mut parser = Self {
            rest: pickle,
            ..Self::default()
        };
        loop {
            match parser.number(1)? as u8 {
                b'.' => break,
                code => parser.step(code)?,
            }
        }
        let root = parser.pop()?;
        Ok((parser.nodes, root))
    }

    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'q' | b'r' | 0x94 => self.memorize(code)?,
            b'h' | b'j' => {
                let index = self.number(if code == b'h' { 1 } else { 4 })?;
                let id = *self
                    .memo
                    .get(&index)
                    .ok_or("reads what it has not memorized")?;
                self.stack.push(id);
            }
            b'(' => self.push(Node::Mark),
            b')' => self.push(Node::Tuple(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'N' | b']' | 0x88 | 0x89 | 0x8f => self.push(Node::Other),
            b'G' => self.other(8)?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(code)?,
            b'X' | b'U' | b'T' | 0x8c | 0x8d => self.string(code)?,
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.number(match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.other(length)?;
            }
            b'c' | 0x93 => self.class(code)?,
            b'Q' => {
                let about = self.pop()?;
                self.push(Node::Persistent(about));
            }
            _ => self.compound(code)?,
        }
        Ok(())
    }

    /// Interprets codes that take values from the stack.
    fn compound(&mut self, code: u8) -> Result<()> {
        match code {
            b't' | b'l' | 0x91 | b'd' => {
                let items = self.pop_mark()?;
                self.push(match code {
                    b't' => Node::Tuple(items),
                    b'd' => Node::Dict(pairs(&items)),
                    _ => Node::Other,
                });
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.insert(0, self.pop()?);
                }
                self.push(Node::Tuple(items));
            }
            // Items of lists and sets, and the state of objects, hold no tensor of a state dictionary.
            b'a' | b'b' => drop(self.pop()?),
            b'e' | 0x90 => drop(self.pop_mark()?),
            b's' | b'u' => {
                let items = match code {
                    b'u' => self.pop_mark()?,
                    _ => {
                        let value = self.pop()?;
                        vec![self.pop()?, value]
                    }
                };
                let at = self.top()?;
                if let Node::Dict(dict) = &mut self.nodes[at] {
                    dict.extend(pairs(&items));
                }
            }
            b'R' | 0x81 | 0x92 => {
                if code == 0x92 {
                    self.pop()?;
                }
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.push(match &self.nodes[function] {
                    Node::Global(name) if name.ends_with("Dict") || name.ends_with("dict") => {
                        Node::Dict(Vec::new())
                    }
                    _ => Node::Call(function, arguments),
                });
            }
            code => return Err(format!("unknown code {code:#04x} in its pickle")),
        }
        Ok(())
    }

    fn memorize(&mut self, code: u8) -> Result<()> {
        let index = match code {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len() as u64,
        };
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    /// Parses an integer. No tensor has a negative integer or one above 64 bits.
    fn integer(&mut self, code: u8) -> Result<()> {
        let length = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8a => self.number(1)?,
            _ => self.number(4)?,
        };
        let bytes = self.take(length)?;
        let signed = !matches!(code, b'K' | b'M');
        let negative = signed && bytes.last().is_some_and(|high| *high >= 0x80);
        let value = (!negative && bytes.len() <= 8).then(|| little(bytes) as usize);
        self.push(value.map_or(Node::Other, Node::Int));
        Ok(())
    }

    fn string(&mut self, code: u8) -> Result<()> {
        let length = self.number(match code {
            b'U' | 0x8c => 1,
            0x8d => 8,
            _ => 4,
        })?;
        let bytes = self.take(length)?;
        self.push(Node::Text(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    fn class(&mut self, code: u8) -> Result<()> {
        let [module, name] = if code == b'c' {
            [self.line()?, self.line()?]
        } else {
            let ids = [self.pop()?, self.pop()?];
            let [Node::Text(name), Node::Text(module)] = ids.map(|id| &self.nodes[id]) else {
                return Err("names a class by what is no text".into());
            };
            [module.clone(), name.clone()]
        };
        self.push(Node::Global(format!("{module}.{name}")));
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let length = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(length.ok_or("its pickle ends too early")? as u64)?;
        let line = String::from_utf8_lossy(line).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn other(&mut self, length: u64) -> Result<()> {
        self.take(length)?;
        self.push(Node::Other);
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.stack.pop();
        id.ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn top(&self) -> Result<Id> {
        let id = self.stack.last().copied();
        id.ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let is_mark = |id: &Id| matches!(self.nodes[*id], Node::Mark);
        let mark = self.stack.iter().rposition(is_mark);
        let items = self.stack.split_off(mark.ok_or("its pickle lacks a mark")?);
        Ok(items[1..].to_vec())
    }

    fn number(&mut self, length: u64) -> Result<u64> {
        self.take(length).map(little)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length)
            .ok()
            .and_then(|n| self.rest.split_at_checked(n));
        let (taken, rest) = split.ok_or("its pickle ends too early")?;
        self.rest = rest;
        Ok(taken)
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests;
