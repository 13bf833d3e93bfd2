//! Index lists of a part of a batch, packed into one copy to the device.

use tessera_kernels::device::launch::NONE;
use tessera_kernels::device::launcher::{Device, Memory, Packing};
use tessera_kernels::ops::block::device::Rows;
use tessera_kernels::ops::gather::launch::{inverse, restored};

use crate::error::{Error, Result};
use crate::pretrain::masks::Places;
use crate::vit::rows_of_tokens;

/// Index lists on a device. B images, N patches, K visible ones.
#[derive(Clone)]
pub(super) struct Lists {
    /// The memory of all lists, u8.
    pub all: Memory,
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
    /// Ids of the masked patches, one or several per patch; none for values.
    pub ids: Memory,
    /// The part's share of the batch, `[1]` f32.
    pub share: Memory,
}

/// How a sequence of tokens is made of encoded rows and one learned vector, for the class token or masked patches.
#[derive(Clone)]
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

/// Adds the lists of [`Tokens`] for `rows` encoded rows.
fn with_tokens<'a>(pack: Packing<'a>, from: &[u32], place: &[u32], rows: usize) -> Packing<'a> {
    let filled = (0..).zip(from).filter(|(_, row)| **row == NONE);
    let filled: Vec<u32> = filled.map(|(token, _)| token).collect();
    let pack = pack.with(&inverse(from, rows)).with(&filled);
    pack.with(from).with(place)
}

impl Lists {
    /// Starts to copy the lists of `images` images with `patches` patches each to the device, with `ids` and `share`.
    pub(super) fn new(
        device: &Device,
        places: &Places,
        [images, patches]: [usize; 2],
        (ids, share): (&[u32], f32),
    ) -> Result<Self> {
        let kept = places.keep.len() / images;
        let with_class = |at: usize| at / kept * (kept + 1) + 1 + at % kept;
        let mut from = vec![NONE; images * (kept + 1)];
        let mut place = vec![0; from.len()];
        for (at, patch) in places.keep.iter().enumerate() {
            from[with_class(at)] = at as u32;
            place[with_class(at)] = 1 + patch % patches as u32;
        }
        let pack = Packing::default().with(&places.keep);
        let pack = with_tokens(pack, &from, &place, images * kept);
        let tokens = (images * (1 + patches)) as u32;
        let from = restored(&places.restore, images, 1 + kept);
        let place: Vec<u32> = (0..tokens).map(|row| row % (1 + patches) as u32).collect();
        let pack = with_tokens(pack, &from, &place, images * (1 + kept));
        let masked = rows_of_tokens(&places.removed, patches);
        let pack = pack.with(&inverse(&masked, tokens as usize)).with(&masked);
        let pack = pack.with(&places.removed).with(ids);
        let (all, lists) = device.put_packed(&pack.with(&[share]))?;
        let mut lists = lists.into_iter();
        let lacking = || Error::Config("a list was not packed".into());
        let mut next = || lists.next().ok_or_else(lacking);
        let keep = next()?;
        let mut tokens = || -> Result<Tokens> {
            Ok(Tokens {
                inverse: next()?,
                filled: next()?,
                from: next()?,
                place: next()?,
            })
        };
        let (encoder, decoder) = (tokens()?, tokens()?);
        Ok(Self {
            all,
            keep,
            encoder,
            decoder,
            masked: Rows {
                inverse: next()?,
                rows: next()?,
            },
            removed: next()?,
            ids: next()?,
            share: next()?,
        })
    }
}
