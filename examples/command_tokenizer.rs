//! A program for `kind: command` that needs no library (`tokenizers/program/PROTOCOL.md`):
//! `command_tokenizer PATCH CODES` gives a patch of `PATCH` pixels the id `floor(largest value * (CODES - 1))`.
//!
//! ```yaml
//! - {name: Brightest, kind: command, with: {command: [./command_tokenizer, "4", "8"], codebook_size: 8}}
//! ```

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let words = std::env::args().skip(1);
    let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
    let &[patch, codes] = &numbers[..] else {
        return Err(io::Error::other("expected PATCH CODES"));
    };
    let (mut requests, mut replies) = (io::stdin().lock(), io::stdout().lock());
    while let Some((shape, pixels)) = request(&mut requests)? {
        let &[batch, channels, height, width] = &shape[..] else {
            return Err(io::Error::other(format!("found images of shape {shape:?}")));
        };
        let (rows, cols) = (height / patch, width / patch);
        let mut ids = Vec::new();
        for cell in 0..batch * rows * cols {
            let (image, row, col) = (cell / rows / cols, cell / cols % rows, cell % cols);
            let mut largest = 0.0_f32;
            for at in 0..channels * patch * patch {
                let (channel, y, x) = (at / patch / patch, at / patch % patch, at % patch);
                let line = (image * channels + channel) * height + row * patch + y;
                largest = largest.max(pixels[line * width + col * patch + x]);
            }
            ids.push((largest * (codes - 1) as f32) as i32);
        }
        reply(&mut replies, &[batch, rows, cols], &ids)?;
    }
    Ok(())
}

/// Reads a frame: the shape of its images, and their pixels. `None` at the end of the requests.
fn request(requests: &mut impl Read) -> io::Result<Option<(Vec<usize>, Vec<f32>)>> {
    let mut length = [0; 8];
    if requests.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut array = vec![0; u64::from_le_bytes(length) as usize];
    requests.read_exact(&mut array)?;
    // Eight bytes of magic and version, two of the header's length, the header, the numbers.
    let start = 10 + usize::from(u16::from_le_bytes([array[8], array[9]]));
    let header = String::from_utf8_lossy(&array[10..start]);
    let shape = header.split(['(', ')']).nth(1).unwrap_or_default();
    let shape = shape.split(',').filter_map(|side| side.trim().parse().ok());
    let pixels = array[start..].chunks_exact(4);
    let pixels = pixels.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(Some((shape.collect(), pixels.collect())))
}

/// Writes a frame of ids.
fn reply(replies: &mut impl Write, shape: &[usize; 3], ids: &[i32]) -> io::Result<()> {
    let [batch, rows, cols] = shape;
    let header = format!(
        "{{'descr': '<i4', 'fortran_order': False, 'shape': ({batch}, {rows}, {cols}), }}\n"
    );
    let mut array = b"\x93NUMPY\x01\x00".to_vec();
    array.extend((header.len() as u16).to_le_bytes());
    array.extend(header.as_bytes());
    array.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    replies.write_all(&(array.len() as u64).to_le_bytes())?;
    replies.write_all(&array)?;
    replies.flush()
}
