//! The blocks of an encoder whose outputs represent an image.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One block, or the last ones side by side. Outputs pass through the encoder's final norm, whatever the block, as in DINO's and timm's
/// `get_intermediate_layers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// The output of a block, counted from 1.
    Block(usize),
    /// The outputs of this many last blocks, the first of them first.
    Last(usize),
}

impl Default for Layer {
    fn default() -> Self {
        Self::Last(1)
    }
}

impl Layer {
    /// Valid values, for errors.
    pub const EXPECTED: &str =
        "a block, from 1 to the backbone's depth, or `last-N` for the N last ones";

    /// Returns whether it is the output of the last block, by default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether an encoder of `depth` blocks has it.
    pub fn fits(self, depth: usize) -> bool {
        let (Self::Block(n) | Self::Last(n)) = self;
        (1..=depth).contains(&n)
    }

    /// Returns the blocks, counted from 0.
    pub fn blocks(self, depth: usize) -> Range<usize> {
        match self {
            Self::Block(block) => block.saturating_sub(1)..block,
            Self::Last(count) => depth.saturating_sub(count)..depth,
        }
    }

    /// Returns the numbers per token for an encoder of width `width`.
    pub fn width(self, width: usize) -> usize {
        match self {
            Self::Block(_) => width,
            Self::Last(count) => count * width,
        }
    }
}

impl FromStr for Layer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let count = text.strip_prefix("last-").ok_or(())?;
        count.parse().map(Self::Last).map_err(|_| ())
    }
}

/// A block is written as a number, the last ones as `last-N`.
impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Block(block) => block.serialize(to),
            Self::Last(count) => to.collect_str(&format_args!("last-{count}")),
        }
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Layer;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str(Layer::EXPECTED)
            }

            fn visit_u64<E: Error>(self, block: u64) -> Result<Layer, E> {
                Ok(Layer::Block(usize::try_from(block).unwrap_or(usize::MAX)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Layer, E> {
                let expected: &dyn serde::de::Expected = &self;
                text.parse()
                    .map_err(|()| E::invalid_value(serde::de::Unexpected::Str(text), expected))
            }
        }
        from.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_last_ones_are_read_and_written_alike() {
        for (text, layer, blocks, width) in [
            ("3", Layer::Block(3), 2..3, 64),
            ("\"last-2\"", Layer::Last(2), 2..4, 128),
            ("\"last-1\"", Layer::default(), 3..4, 64),
        ] {
            let read: Layer = serde_json::from_str(text).unwrap();
            assert_eq!(read, layer);
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            assert_eq!((read.blocks(4), read.width(64)), (blocks, width));
            assert!(read.fits(4));
        }
        for text in ["-1", "\"first-2\"", "\"last-\"", "null", "1.5"] {
            assert!(serde_json::from_str::<Layer>(text).is_err(), "{text}");
        }
        let outside = [
            Layer::Block(0),
            Layer::Block(5),
            Layer::Last(0),
            Layer::Last(5),
        ];
        assert!(outside.iter().all(|layer| !layer.fits(4)));
    }
}
