//! The arrays in frames: images for a program, and the targets that it returns.

use std::io::Cursor;

use npyz::{NpyFile, Order};
use tessera_models::TargetSpec;

use super::child::LENGTH;
use crate::codes;
use crate::contract::Grid;
use crate::numpy;

/// Alignment of the numbers in a `.npy` file.
const ALIGNED: usize = 64;
/// Bytes of magic, version and the length of the header.
const BEFORE: usize = 10;
/// Bytes of a reply besides its numbers.
const MORE: usize = 1 << 20;

/// Returns a frame with `batch` images: `images`, f32 `[.., 3, side, side]`, and the first one again until the batch is full.
pub fn images(images: &[f32], batch: usize, side: usize) -> Vec<u8> {
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({batch}, 3, {side}, {side}), }}"
    );
    let spaces = ALIGNED - (BEFORE + header.len() + 1) % ALIGNED;
    header.push_str(&" ".repeat(spaces % ALIGNED));
    header.push('\n');
    let each = 3 * side * side;
    let length = BEFORE + header.len() + 4 * batch * each;
    let mut frame = Vec::with_capacity(LENGTH + length);
    frame.extend((length as u64).to_le_bytes());
    frame.extend(b"\x93NUMPY\x01\x00");
    frame.extend((header.len() as u16).to_le_bytes());
    frame.extend(header.as_bytes());
    let start = frame.len();
    frame.resize(LENGTH + length, 0);
    let again = images[..each.min(images.len())].iter().cycle();
    let values = images.iter().chain(again);
    for (bytes, value) in frame[start..].as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
    frame
}

/// Targets of a batch, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `[batch, patches]`, or `[batch, patches, groups]`.
    Ids(Vec<u32>),
    /// `[batch, patches, dim]`.
    Values(Vec<f32>),
}

/// What every reply of a program must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Ids or values.
    pub target: TargetSpec,
    /// Images of a request.
    pub batch: usize,
    /// The suite's patches.
    pub grid: Grid,
}

impl Expected {
    /// Returns the number of targets of an image.
    pub fn per_image(&self) -> usize {
        self.grid.num_patches() * self.target.per_patch()
    }

    /// Returns the maximum bytes of a reply that is read: several times those of a right one, so that the error about a wrong one has its
    /// shape.
    pub fn most(&self) -> usize {
        MORE + 4 * 8 * self.batch * self.per_image()
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// What was found and expected, and the remedy: the end of a sentence that begins with "the program".
    pub fn read(&self, array: &[u8]) -> Result<Reply, String> {
        let unreadable = |error| format!("replied with no .npy array: it {error}");
        let mut from = Cursor::new(array);
        let header = numpy::header(&mut from).map_err(unreadable)?;
        let start = from.position() as usize;
        let npy = NpyFile::with_header(header, from);
        self.check_shape(npy.shape())?;
        if npy.order() != Order::C {
            return Err(
                "replied with an array in Fortran order; return numpy.ascontiguousarray(targets)"
                    .into(),
            );
        }
        let found = npy.dtype().descr();
        let wanted = npy
            .dtype()
            .num_bytes()
            .map(|each| each * npy.len() as usize);
        let bytes = array.len() - start;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != bytes) {
            return Err(format!(
                "replied with {bytes} bytes of numbers, expected {wanted}, as the array's header says"
            ));
        }
        match self.target {
            TargetSpec::Ids { .. } | TargetSpec::Codes { .. } => {
                let ids = numpy::integers(npy).map_err(|_| self.wrong_type(&found))?;
                self.check_ids(&ids)?;
                Ok(Reply::Ids(ids))
            }
            TargetSpec::Values { .. } => {
                let values = floats(npy, &array[start..]);
                let values = values.ok_or_else(|| self.wrong_type(&found))?;
                self.check_values(&values)?;
                Ok(Reply::Values(values))
            }
        }
    }

    fn check_shape(&self, found: &[u64]) -> Result<(), String> {
        let (batch, patches) = (self.batch as u64, self.grid.num_patches() as u64);
        let (rows, cols) = (self.grid.rows as u64, self.grid.cols as u64);
        let mut shapes = [vec![batch, patches], vec![batch, rows, cols]];
        if !matches!(self.target, TargetSpec::Ids { .. }) {
            let each = self.target.per_patch() as u64;
            shapes.iter_mut().for_each(|shape| shape.push(each));
        }
        if shapes.iter().any(|shape| shape == found) {
            return Ok(());
        }
        let [flat, grid] = shapes;
        let remedy = match *found {
            [images, ..] if images != batch => "; return the targets of every image of the batch",
            [_, tokens, _] if tokens == patches && self.target.groups().is_none() => {
                "; for codes of several codebooks write `groups: [..]` in place of `codebook_size`"
            }
            [_, tokens] if tokens == patches && self.target.groups().is_some() => {
                "; write `codebook_size` in place of `groups` for one id per patch"
            }
            [_, tokens, ..] if tokens == patches + 1 => "; cut off the class token",
            _ => "; change the program, or image_size and patch_size",
        };
        Err(format!(
            "replied with shape {found:?}, expected {flat:?} or {grid:?}{remedy}"
        ))
    }

    fn wrong_type(&self, found: &str) -> String {
        match self.target {
            TargetSpec::Ids { .. } | TargetSpec::Codes { .. } => format!(
                "replied with type {found}, expected integers; return ids (argmax), or write `dim` for values"
            ),
            TargetSpec::Values { .. } => format!(
                "replied with type {found}, expected float32 or float64; convert the values, or write `codebook_size` for ids"
            ),
        }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), String> {
        let Some(outside) = codes::outside(self.target, ids) else {
            return Ok(());
        };
        let image = outside.at / self.per_image();
        let (size, field) = (outside.size, outside.field());
        Err(format!(
            "returned {outside} for image {image} of a batch, expected 0..{size}; correct the program or `{field}`"
        ))
    }

    fn check_values(&self, values: &[f32]) -> Result<(), String> {
        let Some(at) = values.iter().position(|value| !value.is_finite()) else {
            return Ok(());
        };
        let image = at / self.per_image();
        Err(format!(
            "returned the value {} for image {image} of a batch, expected finite numbers; correct the program or `input: {{scale: ...}}`",
            values[at]
        ))
    }
}

/// Reads an array of floating-point numbers; `None` for another type or fewer numbers than the header says.
fn floats(npy: NpyFile<Cursor<&[u8]>>, bytes: &[u8]) -> Option<Vec<f32>> {
    let count = npy.len() as usize;
    let values: Vec<f32> = match npy.dtype().descr().as_str() {
        "'<f4'" => {
            let values = bytes.as_chunks::<4>().0.iter();
            values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        "'<f8'" => {
            let values = bytes.as_chunks::<8>().0.iter();
            values
                .map(|bytes| f64::from_le_bytes(*bytes) as f32)
                .collect()
        }
        _ => return None,
    };
    (values.len() == count).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(target: TargetSpec) -> Expected {
        let grid = Grid { rows: 1, cols: 2 };
        Expected {
            target,
            batch: 2,
            grid,
        }
    }

    /// Returns a `.npy` file with little-endian numbers of the type `descr`.
    fn file(descr: &str, shape: &str, order: &str, numbers: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = (header.len() as u16).to_le_bytes();
        [
            b"\x93NUMPY\x01\x00",
            &length[..],
            header.as_bytes(),
            numbers,
        ]
        .concat()
    }

    #[test]
    fn a_batch_is_filled_with_its_first_image() {
        let one = [1.0, 2.0, 3.0];
        let frame = images(&[&one[..], &[4.0, 5.0, 6.0]].concat(), 4, 1);
        let (length, array) = frame.split_at(LENGTH);
        assert_eq!(
            u64::from_le_bytes(length.try_into().unwrap()),
            array.len() as u64
        );
        let npy = numpy::open(Cursor::new(array)).unwrap();
        assert_eq!(npy.shape(), [4, 3, 1, 1]);
        let values: Vec<f32> = npy.into_vec().unwrap();
        assert_eq!(values, [1., 2., 3., 4., 5., 6., 1., 2., 3., 1., 2., 3.]);
    }

    #[test]
    fn ids_of_both_shapes_and_of_every_type_are_read() {
        let expected = expected(TargetSpec::Ids { codebook_size: 7 });
        for shape in ["(2, 2)", "(2, 1, 2)"] {
            for (descr, bytes) in [("<i4", 4), ("<i8", 8), ("|u1", 1)] {
                let mut numbers = vec![0; 4 * bytes];
                numbers[bytes] = 6;
                let read = expected.read(&file(descr, shape, "False", &numbers));
                assert_eq!(read, Ok(Reply::Ids(vec![0, 6, 0, 0])), "{descr} {shape}");
            }
        }
    }

    #[test]
    fn wrong_replies_are_refused_with_what_was_found_and_expected() {
        let ids = expected(TargetSpec::Ids { codebook_size: 7 });
        let values = expected(TargetSpec::Values { dim: 3 });
        let zeros = [0; 96];
        let mut seven = [0; 16];
        seven[12] = 7;
        let nan = [&f32::NAN.to_le_bytes()[..], &[0; 44]].concat();
        for (expected, found, parts) in [
            (
                ids,
                file("<i4", "(2, 3)", "False", &zeros[..24]),
                ["shape [2, 3]", "cut off the class token"],
            ),
            (
                ids,
                file("<i4", "(1, 2)", "False", &zeros[..8]),
                ["shape [1, 2]", "every image"],
            ),
            (
                ids,
                file("<i4", "(2, 2)", "True", &zeros[..16]),
                ["Fortran", "ascontiguousarray"],
            ),
            (
                ids,
                file("<f4", "(2, 2)", "False", &zeros[..16]),
                ["'<f4'", "expected integers"],
            ),
            (
                ids,
                file("<i4", "(2, 2)", "False", &seven),
                ["the id 7 for image 1", "0..7"],
            ),
            (
                ids,
                file("<i4", "(2, 2)", "False", &[255; 16]),
                ["below 0", "image 0"],
            ),
            (
                ids,
                file("<i4", "(2, 2)", "False", &zeros[..9]),
                ["9 bytes of numbers", "expected 16"],
            ),
            (
                ids,
                b"\x93NUMPY\x01\x00\x02\x00{}".to_vec(),
                ["no .npy array", ""],
            ),
            (
                values,
                file("<f4", "(2, 2)", "False", &zeros[..16]),
                ["expected [2, 2, 3]", "or [2, 1, 2, 3]"],
            ),
            (
                values,
                file("<i8", "(2, 2, 3)", "False", &zeros),
                ["'<i8'", "float32"],
            ),
            (
                values,
                file("<f4", "(2, 2, 3)", "False", &nan),
                ["NaN for image 0", "finite"],
            ),
        ] {
            let said = expected.read(&found).unwrap_err();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }
}
