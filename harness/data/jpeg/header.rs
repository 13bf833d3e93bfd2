//! Parses the markers up to the single scan, and removes the stuffing from its bytes.

use std::rc::Rc;

use super::huffman::{Component, PADDING, Table};

/// Maximum pixels of an image, 400 MB decoded, so that a few bytes cannot claim all memory. The largest image of ImageNet has 50 million;
/// Pillow warns above 89 million and refuses more than 179 million.
pub const MOST_PIXELS: usize = 1 << 27;

/// Position in a block of the n-th coefficient in the file.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Everything needed for decoding.
pub struct Header {
    /// Number of columns of the decoded image.
    pub width: usize,
    /// Number of rows of the decoded image.
    pub height: usize,
    /// Grey, or Y, Cb, Cr.
    pub components: Vec<Component>,
    /// Number of units (one set of all components' blocks) between restarts; 0 for none.
    pub restart: usize,
    /// The entropy-coded bytes between restarts, without stuffing, each followed by [`PADDING`] zeros.
    pub segments: Vec<Vec<u8>>,
}

/// Data of the markers so far.
#[derive(Default)]
struct Markers {
    /// Id, blocks horizontally and vertically, quantisation table.
    frame: Vec<(u8, usize, usize, usize)>,
    size: (usize, usize),
    steps: [Option<[u8; 64]>; 4],
    dc: [Option<Rc<Table>>; 4],
    ac: [Option<Rc<Table>>; 4],
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

impl Header {
    /// Parses a whole file; `None` if it is invalid or of an unsupported kind.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        let mut markers = Markers::default();
        loop {
            let &[0xFF, marker, high, low] = rest.first_chunk()? else {
                return None;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                0xC0 | 0xC1 => markers.frame(body)?,
                0xC4 => markers.huffman(body)?,
                0xDB => markers.quantisation(body)?,
                0xDD => markers.restart = usize::from(u16::from_be_bytes(body.try_into().ok()?)),
                0xE0 => markers.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
                0xEE if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    markers.adobe = Some(body[11]);
                }
                0xE1..=0xEF | 0xFE => {}
                0xDA => return markers.scan(body, rest),
                _ => return None,
            }
        }
    }

    /// Returns the header of the same image at `eighths` eighths of full size. As in libjpeg, components with half the samples in
    /// both directions use twice as many per block.
    pub fn at(mut self, eighths: usize) -> Self {
        self.width = (self.width * eighths).div_ceil(8);
        self.height = (self.height * eighths).div_ceil(8);
        let most = (self.components[0].across, self.components[0].down);
        for component in &mut self.components {
            let half = most == (2 * component.across, 2 * component.down);
            component.block = if half { (2 * eighths).min(8) } else { eighths };
        }
        self
    }

    /// Returns the number of units, horizontally and vertically.
    pub fn units(&self) -> (usize, usize) {
        let (across, down) = self.components[0].unit();
        (self.width.div_ceil(across), self.height.div_ceil(down))
    }
}

impl Markers {
    fn frame(&mut self, body: &[u8]) -> Option<()> {
        let (&[8, h1, h0, w1, w0, count], components) = body.split_first_chunk()? else {
            return None;
        };
        let components = components.as_chunks::<3>();
        if !self.frame.is_empty()
            || !components.1.is_empty()
            || components.0.len() != usize::from(count)
        {
            return None;
        }
        self.size = (
            usize::from(u16::from_be_bytes([w1, w0])),
            usize::from(u16::from_be_bytes([h1, h0])),
        );
        if self.size.0 * self.size.1 > MOST_PIXELS {
            return None;
        }
        self.frame = components
            .0
            .iter()
            .map(|&[id, sampling, table]| {
                (
                    id,
                    usize::from(sampling >> 4),
                    usize::from(sampling & 15),
                    usize::from(table),
                )
            })
            .collect();
        Some(())
    }

    fn quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        // The first byte of a table of 16-bit steps has a higher bit set, so such tables are refused.
        while let Some((id, rest)) = body.split_first() {
            let (steps, rest) = rest.split_first_chunk::<64>()?;
            *self.steps.get_mut(usize::from(*id))? = Some(*steps);
            body = rest;
        }
        Some(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((about, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total: usize = counts.iter().map(|n| usize::from(*n)).sum();
            let table = Table::new(counts, rest.get(..total)?)?;
            let tables = if about >> 4 == 0 {
                &mut self.dc
            } else {
                &mut self.ac
            };
            *tables.get_mut(usize::from(about & 15))? = Some(Rc::new(table));
            body = &rest[total..];
        }
        Some(())
    }

    /// Parses the scan header `body` and the entropy-coded `data`; the scan must contain all components.
    fn scan(&self, body: &[u8], data: &[u8]) -> Option<Header> {
        let (count, body) = body.split_first()?;
        let (tables, spectrum) = body.split_at_checked(2 * usize::from(*count))?;
        let tables = tables.as_chunks::<2>().0;
        let same = tables
            .iter()
            .map(|t| t[0])
            .eq(self.frame.iter().map(|c| c.0));
        if spectrum != [0, 63, 0] || !same || !self.is_common() {
            return None;
        }
        let components = self.frame.iter().zip(tables);
        let components = components.map(|(about, table)| self.component(about, table[1]));
        Some(Header {
            width: self.size.0,
            height: self.size.1,
            components: components.collect::<Option<_>>()?,
            restart: self.restart,
            segments: segments(data)?,
        })
    }

    /// Returns whether the image is grey, or YCbCr in one of the three common samplings.
    fn is_common(&self) -> bool {
        let sizes: Vec<_> = self.frame.iter().map(|c| (c.1, c.2)).collect();
        let ids: Vec<_> = self.frame.iter().map(|c| c.0).collect();
        // libjpeg does not smooth the upsampling of narrower images.
        let large = self.size.0 > 8 && self.size.1 > 0;
        let colors = match sizes[..] {
            [_] => true,
            [(1 | 2, 1) | (2, 2), (1, 1), (1, 1)] => self
                .adobe
                .map_or(self.jfif || ids == [1, 2, 3], |transform| transform == 1),
            _ => false,
        };
        large && colors
    }

    fn component(&self, about: &(u8, usize, usize, usize), tables: u8) -> Option<Component> {
        let steps = (*self.steps.get(about.3)?)?;
        let alone = self.frame.len() == 1;
        Some(Component {
            across: if alone { 1 } else { about.1 },
            down: if alone { 1 } else { about.2 },
            block: 8,
            steps: std::array::from_fn(|k| (i16::from(steps[k]), ZIGZAG[k])),
            dc: self.dc.get(usize::from(tables >> 4))?.clone()?,
            ac: self.ac.get(usize::from(tables & 15))?.clone()?,
        })
    }
}

/// Splits entropy-coded data at the restarts. The data must end with the end-of-image marker.
fn segments(mut data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut segment = Vec::with_capacity(data.len() + PADDING);
    loop {
        let plain = data.iter().position(|b| *b == 0xFF)?;
        segment.extend_from_slice(&data[..plain]);
        let marker = *data.get(plain + 1)?;
        data = &data[plain + 2..];
        match marker {
            0x00 => segment.push(0xFF),
            0xD0..=0xD7 if usize::from(marker - 0xD0) == all.len() % 8 => {
                segment.extend([0; PADDING]);
                all.push(std::mem::take(&mut segment));
            }
            0xD9 => {
                segment.extend([0; PADDING]);
                all.push(segment);
                return Some(all);
            }
            _ => return None,
        }
    }
}
