//! Index lists of a part of a batch, packed into one copy to the device.

use tessera_kernels::device::launch::NONE;
use tessera_kernels::device::launcher::{Device, Memory};
use tessera_kernels::ops::block::device::Rows;
use tessera_kernels::ops::gather::launch::{inverse, restored};

use crate::error::Result;
use crate::pretrain::Places;

/// Index lists on a device. B images, N patches, K visible ones.
pub(super) struct Lists {
    /// Visible patches among `[B * N]`.
    pub keep: Memory,
    /// Tokens of the encoder.
    pub encoder: Tokens,
    /// Tokens of the decoder.
    pub decoder: Tokens,
    /// Masked patches among the decoder's tokens.
    pub masked: Rows,
    /// Masked patches among `[B * N]`.
    pub removed: Memory,
}

/// How a sequence of tokens is made of encoded rows and one learned vector, for the class token or masked patches.
pub(super) struct Tokens {
    /// Each token's row, or [`NONE`] for the learned vector.
    pub from: Memory,
    /// Each token's position embedding.
    pub place: Memory,
    /// Each row's token.
    pub inverse: Memory,
    /// The tokens of the learned vector.
    pub filled: Memory,
}

/// Lists that are copied together. Every list starts at a multiple of 16 bytes.
#[derive(Default)]
struct Pack {
    all: Vec<u32>,
    ranges: Vec<std::ops::Range<usize>>,
}

impl Pack {
    fn add(&mut self, list: impl IntoIterator<Item = u32>) {
        let start = self.all.len();
        self.all.extend(list);
        self.ranges.push(start..self.all.len());
        self.all.resize(self.all.len().next_multiple_of(4), 0);
    }

    /// Adds the lists of [`Tokens`] for `rows` encoded rows.
    fn tokens(&mut self, from: Vec<u32>, place: impl IntoIterator<Item = u32>, rows: usize) {
        self.add(inverse(&from, rows));
        let filled = (0..).zip(&from).filter(|(_, row)| **row == NONE);
        self.add(filled.map(|(token, _)| token));
        self.add(from);
        self.add(place);
    }
}

impl Lists {
    /// Copies the lists of `images` images with `patches` patches each to the device.
    pub(super) fn new(
        device: &Device,
        places: &Places,
        images: usize,
        patches: usize,
    ) -> Result<Self> {
        let kept = places.keep.len() / images;
        let with_class = |at: usize| at / kept * (kept + 1) + 1 + at % kept;
        let mut from = vec![NONE; images * (kept + 1)];
        let mut place = vec![0; from.len()];
        for (at, patch) in places.keep.iter().enumerate() {
            from[with_class(at)] = at as u32;
            place[with_class(at)] = 1 + patch % patches as u32;
        }
        let mut pack = Pack::default();
        pack.add(places.keep.iter().copied());
        pack.tokens(from, place, images * kept);
        let tokens = (images * (1 + patches)) as u32;
        let from = restored(&places.restore, images, 1 + kept);
        let place = (0..tokens).map(|row| row % (1 + patches) as u32);
        pack.tokens(from, place, images * (1 + kept));
        let masked = places.decoded(patches);
        pack.add(inverse(&masked, tokens as usize));
        pack.add(masked);
        pack.add(places.removed.iter().copied());

        let all = device.put(&pack.all)?;
        let mut lists = pack.ranges.into_iter().map(|range| all.part(range));
        let mut next = || lists.next().unwrap_or_else(|| all.part(0..0));
        let keep = next();
        let mut tokens = || Tokens {
            inverse: next(),
            filled: next(),
            from: next(),
            place: next(),
        };
        let (encoder, decoder) = (tokens(), tokens());
        Ok(Self {
            keep,
            encoder,
            decoder,
            masked: Rows {
                inverse: next(),
                rows: next(),
            },
            removed: next(),
        })
    }
}
