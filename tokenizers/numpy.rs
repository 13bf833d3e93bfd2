//! Opens `.npy` files that other programs wrote.

use std::io::{self, Read, Seek, SeekFrom};

use npyz::{NpyFile, NpyHeader};
use tessera_models::foreign;

/// First bytes of every file.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Limit of a header, bytes. NumPy's header of an array of numbers has 128.
const HEADER: u64 = 1 << 12;
/// Limit of brackets in brackets. The parser of npyz reads the content of each three times. An array of numbers has two.
const DEPTH: usize = 3;

/// Opens the file that `reader` reads from its beginning.
///
/// # Errors
/// Those of [`header`], and if bytes follow the array, as those of a second one.
pub fn open<R: Read + Seek>(mut reader: R) -> io::Result<NpyFile<R>> {
    let header = header(&mut reader)?;
    let start = reader.stream_position()?;
    let found = reader.seek(SeekFrom::End(0))? - start;
    reader.seek(SeekFrom::Start(start))?;
    let elements: u64 = header.shape().iter().product();
    let size = header.dtype().num_bytes().map(|size| size as u64);
    let expected = size.and_then(|size| elements.checked_mul(size));
    if let Some(expected) = expected.filter(|expected| found > *expected) {
        return Err(bad(format!(
            "has {found} bytes of numbers, expected {expected} by its shape; write each array to a file of its own"
        )));
    }
    Ok(NpyFile::with_header(header, reader))
}

/// Reads the header at the beginning of a file, and leaves `reader` at the first number.
///
/// # Errors
/// If it is no header, too long or too deep, or claims more elements than 64 bits can count.
pub fn header<R: Read + Seek>(reader: &mut R) -> io::Result<NpyHeader> {
    // Magic, version and length: `\x93NUMPY`, one byte each, and two bytes (version 1) or four.
    let mut first = Vec::new();
    reader.by_ref().take(12 + HEADER).read_to_end(&mut first)?;
    if !first.starts_with(MAGIC) {
        let what = foreign::told(&first)
            .unwrap_or("does not begin like a .npy file; write it by `numpy.save`");
        return Err(bad(what.into()));
    }
    let (length, start) = match first.get(6..12) {
        Some(&[1, _, low, high, ..]) => (u32::from_le_bytes([low, high, 0, 0]), 10),
        Some(&[2 | 3, _, a, b, c, d]) => (u32::from_le_bytes([a, b, c, d]), 12),
        Some(&[version, ..]) => {
            return Err(bad(format!(
                "has version {version} of the format, expected 1, 2 or 3; write it by `numpy.save`"
            )));
        }
        _ => return Err(bad("ends within its header; write or copy it again".into())),
    };
    if u64::from(length) > HEADER {
        return Err(bad(format!(
            "has a header of {length} bytes, expected at most {HEADER}"
        )));
    }
    let header = &first[start..first.len().min(start + length as usize)];
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in header {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEPTH {
        return Err(bad(format!(
            "has a header of more than {DEPTH} brackets in brackets, expected an array of numbers"
        )));
    }
    // npyz multiplies the lengths without a check.
    if elements(&String::from_utf8_lossy(header)).is_none() {
        return Err(bad("has a shape of too many elements".into()));
    }
    let header =
        NpyHeader::from_reader(&*[&first[..start], &plain(header)].concat()).map_err(|e| {
            bad(format!(
                "has a damaged header ({e}); write or copy it again"
            ))
        })?;
    reader.seek(SeekFrom::Start(start as u64 + u64::from(length)))?;
    Ok(header)
}

/// Returns the product of all numbers of a header but zeros, among which are the lengths of the axes; `None` above 64 bits.
fn elements(header: &str) -> Option<u64> {
    let lengths = header.split(|c: char| !c.is_ascii_digit());
    let mut lengths = lengths.filter(|digits| !digits.is_empty());
    lengths.try_fold(1_u64, |product, digits| {
        product.checked_mul(digits.parse::<u64>().ok()?.max(1))
    })
}

/// Replaces what the parser of npyz does not know by spaces and `<`, at equal length: Python 2's `24L`, and the byte order `=`, which is
/// that of the machine that wrote the file, in practice little-endian.
fn plain(header: &[u8]) -> Vec<u8> {
    let mut plain = header.to_vec();
    for at in 1..plain.len() {
        match (plain[at - 1], plain[at]) {
            (b'0'..=b'9', b'L') => plain[at] = b' ',
            (b'\'' | b'"', b'=') => plain[at] = b'<',
            _ => (),
        }
    }
    plain
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads an integer array. Values outside u32 become `u32::MAX`, which no codebook contains.
///
/// # Errors
/// A message if the array is truncated or has another type.
pub fn integers(npy: NpyFile<impl Read>) -> Result<Vec<u32>, String> {
    macro_rules! attempt {
        ($npy:expr, $($ty:ty),+) => {{
            let mut npy = $npy;
            $(match npy.try_data::<$ty>() {
                Ok(data) => {
                    let ids = data.map(|id| id.map(|id| u32::try_from(id).unwrap_or(u32::MAX)));
                    return ids.collect::<Result<_, _>>().map_err(unreadable);
                }
                Err(back) => npy = back,
            })+
            Err(format!("has type {}, expected integers; write it with `.astype(numpy.int32)`", npy.dtype().descr()))
        }};
    }
    // npyz reads times and durations as integers.
    if npy.dtype().descr().contains(['m', 'M']) {
        let found = npy.dtype().descr();
        return Err(format!("has type {found}, expected integers"));
    }
    attempt!(npy, u32, i64, i32, u16, u8, u64, i16, i8)
}

fn unreadable(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            "is truncated: it has fewer ids than its header says; write it again".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn file(header: &str, version: u8) -> Vec<u8> {
        let length = header.len() as u32;
        let length = &length.to_le_bytes()[..if version == 1 { 2 } else { 4 }];
        [b"\x93NUMPY", &[version, 0][..], length, header.as_bytes()].concat()
    }

    fn with_shape(shape: &str) -> String {
        format!("{{'descr': '<u4', 'fortran_order': False, 'shape': {shape}, }}\n")
    }

    #[test]
    fn headers_of_every_version_are_read() {
        for version in 1..=3 {
            let bytes = file(&with_shape("(2, 3)"), version);
            assert_eq!(open(Cursor::new(bytes)).unwrap().shape(), [2, 3]);
        }
    }

    #[test]
    fn headers_of_python_2_and_of_native_order_are_read() {
        let header = with_shape("(2L, 3L)").replace("<u4", "=u4");
        let read = open(Cursor::new(file(&header, 1))).unwrap();
        assert_eq!(read.shape(), [2, 3]);
        assert_eq!(read.dtype().descr(), "'<u4'");
    }

    /// Unclosed brackets took the parser 2^depth steps.
    #[test]
    fn a_hostile_header_is_refused_at_once() {
        let long = u32::MAX.to_le_bytes();
        let long = [b"\x93NUMPY\x02\x00", &long[..], b"{}"].concat();
        for (bytes, part) in [
            (file(&"[".repeat(60), 1), "brackets"),
            (file(&"{(".repeat(30), 2), "brackets"),
            (
                file(&format!("{{{{{{{{{}", "[1],".repeat(900)), 1),
                "brackets",
            ),
            (file(&with_shape("(4294967296, 4294967297)"), 1), "elements"),
            (long, "4294967295 bytes"),
            (b"\x93NUMPY".to_vec(), "within its header"),
            (
                b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
                "git lfs pull",
            ),
            (b"1 2 3\n".to_vec(), "numpy.save"),
            (
                file(&with_shape("(2, 3)"), 4),
                "has version 4 of the format",
            ),
        ] {
            let error = open(Cursor::new(bytes)).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    /// The fuzzer found the product of these lengths, which overflowed in the library.
    #[test]
    fn a_shape_of_too_many_elements_is_refused() {
        for shape in [
            "(5, 4, 000010661754042618973752)",
            "(4294967296, 4294967296L, 0)",
            "(99999999999999999999,)",
            "(0,), 'shape': (4294967296, 4294967296)",
        ] {
            let error = open(Cursor::new(file(&with_shape(shape), 1)))
                .err()
                .unwrap();
            assert!(error.to_string().contains("too many elements"), "{error}");
        }
        assert!(open(Cursor::new(file(&with_shape("(0, 4294967296)"), 1))).is_ok());
    }

    /// The second array of a file was dropped, and durations were read as ids.
    #[test]
    fn bytes_after_an_array_and_durations_are_refused() {
        let with = |descr: &str, bytes: usize| {
            let header = with_shape("(2, 3)").replace("<u4", descr);
            let npy = open(Cursor::new([file(&header, 1), vec![0; bytes]].concat()));
            npy.map_err(|e| e.to_string()).and_then(integers)
        };
        assert_eq!(with("<u4", 24).unwrap(), [0; 6]);
        let error = with("<u4", 25).unwrap_err();
        assert!(
            error.contains("has 25 bytes of numbers, expected 24"),
            "{error}"
        );
        assert!(with("<u4", 23).unwrap_err().contains("truncated"));
        let error = with("<m8[ns]", 48).unwrap_err();
        assert!(error.contains("expected integers"), "{error}");
    }
}
