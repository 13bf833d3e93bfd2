//! Opens a file of named tensors: safetensors or PyTorch's `.pth`. Its content decides which, because both are met under either name.

use std::io::Read as _;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::pth::{COMPLEX, INTEGERS, NEWER, Pth};
use crate::{files, foreign};

/// Bytes that tell the format.
const FIRST: u64 = 512;
/// How a ZIP archive begins.
const ZIP: &[u8] = b"PK\x03\x04";
/// Limit of the header of safetensors.
const HEADER: u64 = 100_000_000;

/// A key of the index of a checkpoint in several files.
const WEIGHT_MAP: &[u8] = b"\"weight_map\"";
/// What to do about a checkpoint in several files.
const MERGE: &str = "merge them into one: load each, join the dictionaries, and write them by `safetensors.torch.save_file` or `torch.save`";

/// Whether the file has the usual name of such an index.
fn is_index(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().ends_with(b".index.json")
}

/// Returns the remedy for one of several files of a checkpoint: `model-00001-of-00003.safetensors`.
pub(super) fn shard_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let (begin, count) = stem.rsplit_once("-of-")?;
    let number = begin.rsplit('-').next()?;
    let are_digits = [number, count]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    are_digits
        .then(|| format!("; by its name, the file is one of several of a checkpoint: {MERGE}"))
}

/// The reason why a file cannot be read, without its name.
type Result<T> = std::result::Result<T, String>;

/// An open file.
pub(super) enum Weights {
    Safetensors {
        bytes: Vec<u8>,
        header: Metadata,
        /// Where the numbers begin.
        start: usize,
    },
    Pth(Pth),
}

impl Weights {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// What lies there, and how to get the right file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut first = Vec::new();
        let file = files::open(path).map_err(|e| e.to_string())?;
        file.take(FIRST)
            .read_to_end(&mut first)
            .map_err(|e| e.to_string())?;
        if first.starts_with(ZIP) {
            return Pth::open(path).map(Self::Pth).map_err(unreadable);
        }
        let length = first.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if length.is_some_and(|length| length <= HEADER) && first.get(8) == Some(&b'{') {
            return Self::safetensors(path);
        }
        if first.starts_with(b"{")
            && first
                .windows(WEIGHT_MAP.len())
                .any(|part| part == WEIGHT_MAP)
            || is_index(path)
        {
            return Err(format!(
                "is the index of a checkpoint in several files, without weights; {MERGE}"
            ));
        }
        Err(foreign::told(&first).map_or_else(
            || unreadable("it begins neither like a ZIP archive nor like safetensors".into()),
            str::to_owned,
        ))
    }

    fn safetensors(path: &Path) -> Result<Self> {
        let bytes = files::read(path).map_err(|e| e.to_string())?;
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(|e| match e {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
                format!(
                    "has {} bytes, which is not the number that its header tells: it is cut or damaged; copy or download it again",
                    bytes.len()
                )
            }
            e => format!("has a damaged safetensors header ({e}); copy or download it again"),
        })?;
        Ok(Self::Safetensors {
            bytes,
            header,
            start: length + size_of::<u64>(),
        })
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Pth(Pth { contents, .. }) => {
                let tensors = contents.tensors.keys();
                tensors.chain(contents.unread.keys()).cloned().collect()
            }
            Self::Safetensors { header, .. } => header.tensors().into_keys().collect(),
        }
    }

    /// Objects beside the tensors, in which others may be.
    pub fn objects(&self) -> &[String] {
        match self {
            Self::Pth(file) => &file.contents.objects,
            Self::Safetensors { .. } => &[],
        }
    }

    /// Why a tensor cannot be a weight; `None` if it can.
    pub fn unread(&self, name: &str) -> Option<&'static str> {
        match self {
            Self::Pth(file) => file.contents.unread.get(name).copied(),
            Self::Safetensors { header, .. } => floating(header.info(name)?.dtype).err(),
        }
    }

    /// Whether all keys of a tensor's name after `prefix` are texts.
    pub fn is_text(&self, name: &str, prefix: &str) -> bool {
        match self {
            Self::Pth(file) => {
                let last = file.contents.numbered.get(name);
                last.is_none_or(|last| *last <= prefix.len())
            }
            Self::Safetensors { .. } => true,
        }
    }

    /// Shape of a tensor that can be a weight.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Pth(file) => Some(file.contents.tensors.get(name)?.shape.clone()),
            Self::Safetensors { header, .. } => Some(header.info(name)?.shape.clone()),
        }
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// If it cannot be a weight, or the file is damaged.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        match self {
            Self::Pth(file) => {
                let bytes = file.bytes(name).map_err(unreadable)?;
                let strided = &file.contents.tensors[name];
                tensor(&bytes, strided.dtype, &strided.shape)
            }
            Self::Safetensors {
                bytes,
                header,
                start,
            } => {
                let absent = || format!("`{name}` is outside the file");
                let about = header.info(name).ok_or_else(absent)?;
                let (from, to) = about.data_offsets;
                let bytes = bytes.get(*start + from..*start + to).ok_or_else(absent)?;
                tensor(bytes, floating(about.dtype)?, &about.shape)
            }
        }
    }
}

fn unreadable(error: String) -> String {
    format!(
        "cannot be read as a checkpoint of PyTorch 1.6 or newer ({error}); copy it again if it is cut, else write it again by \
         `torch.save(state_dict, path)`, or as .safetensors"
    )
}

/// The type of a weight, or why it cannot be one.
fn floating(dtype: Dtype) -> std::result::Result<DType, &'static str> {
    match dtype {
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        Dtype::F32 => Ok(DType::F32),
        Dtype::F64 => Ok(DType::F64),
        Dtype::C64 => Err(COMPLEX),
        Dtype::BOOL
        | Dtype::U8
        | Dtype::I8
        | Dtype::U16
        | Dtype::I16
        | Dtype::U32
        | Dtype::I32
        | Dtype::U64
        | Dtype::I64 => Err(INTEGERS),
        _ => Err(NEWER),
    }
}

fn tensor(bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu).map_err(|e| e.to_string())
}
