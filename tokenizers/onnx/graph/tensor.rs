//! Tensors of an ONNX file: type, shape, and the place of their numbers, which are not copied.

use crate::onnx::protobuf::{Value, fields};

/// Maximum number of elements that [`Tensor::floats`] returns; shapes and scales have fewer.
const MOST_FLOATS: u64 = 16;

/// A part of an external file.
#[derive(Default, Debug, PartialEq)]
pub struct External<'a> {
    /// Path of the file.
    pub location: &'a str,
    /// Byte at which the part begins.
    pub offset: u64,
    /// Length in bytes; `None` for the rest of the file.
    pub length: Option<u64>,
}

/// A weight or a constant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tensor<'a> {
    /// Name; empty for a constant.
    pub name: &'a str,
    /// `TensorProto.DataType`.
    pub element: i64,
    /// Number of dimensions.
    pub rank: usize,
    /// Size of the last dimension; 1 without dimensions.
    pub last: u64,
    /// Number of elements.
    pub count: u64,
    /// Its f32 numbers, if the file has them here.
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Returns a tensor of `count` numbers, which a Constant has as an attribute; `bytes` are those of f32 numbers.
    pub fn listed(element: i64, rank: usize, count: u64, bytes: &'a [u8]) -> Self {
        let name = "";
        Self {
            name,
            element,
            rank,
            last: count,
            count,
            bytes,
        }
    }

    /// Returns the numbers of a small f32 tensor.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let (numbers, rest) = self.bytes.as_chunks::<4>();
        let is_whole = rest.is_empty() && numbers.len() as u64 == self.count;
        let readable = self.element == 1 && self.count <= MOST_FLOATS && is_whole;
        readable.then(|| numbers.iter().map(|n| f32::from_le_bytes(*n)).collect())
    }
}

/// Reads a tensor; adds the location of its numbers to `external` if they are in another file.
pub fn tensor<'a>(
    message: &'a [u8],
    external: &mut Vec<External<'a>>,
) -> Result<Tensor<'a>, String> {
    let (mut elsewhere, mut part) = (false, External::default());
    let mut tensor = Tensor {
        last: 1,
        count: 1,
        ..Tensor::default()
    };
    for field in fields(message) {
        match field? {
            (1, Value::Bytes(packed)) => {
                // A field of packed numbers has no tags.
                let mut rest = fields(packed);
                while let Some(size) = rest.packed() {
                    tensor.size(size?.cast_signed());
                }
            }
            (1, value) => tensor.size(value.number()?),
            (2, value) => tensor.element = value.number()?,
            (4 | 9, Value::Bytes(bytes)) => tensor.bytes = bytes,
            (8, value) => tensor.name = value.text()?,
            (13, value) => external_entry(value.bytes()?, &mut part)?,
            (14, value) => elsewhere = value.number()? == 1,
            _ => (),
        }
    }
    if elsewhere {
        external.push(part);
    }
    Ok(tensor)
}

impl Tensor<'_> {
    fn size(&mut self, size: i64) {
        self.rank += 1;
        self.last = u64::try_from(size).unwrap_or_default();
        self.count = self.count.saturating_mul(self.last);
    }
}

fn external_entry<'a>(message: &'a [u8], part: &mut External<'a>) -> Result<(), String> {
    let (mut key, mut text) = ("", "");
    for field in fields(message) {
        match field? {
            (1, value) => key = value.text()?,
            (2, value) => text = value.text()?,
            _ => (),
        }
    }
    let number = || {
        let wrong = |_| format!("`{key}` of external data is {text:?}, expected a number");
        text.parse::<u64>().map_err(wrong)
    };
    match key {
        "location" => part.location = text,
        "offset" => part.offset = number()?,
        "length" => part.length = Some(number()?),
        _ => (),
    }
    Ok(())
}

/// Reads a sparse tensor and returns its values, whose name it has. Its shape is not read.
pub fn sparse<'a>(
    message: &'a [u8],
    external: &mut Vec<External<'a>>,
) -> Result<Tensor<'a>, String> {
    let mut values = Tensor::default();
    for field in fields(message) {
        match field? {
            (1, value) => values = tensor(value.bytes()?, external)?,
            (2, value) => drop(tensor(value.bytes()?, external)?),
            _ => (),
        }
    }
    Ok(Tensor {
        name: values.name,
        element: values.element,
        ..Tensor::default()
    })
}
