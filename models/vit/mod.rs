//! The ViT encoder and the MAE decoder (MAE `models_mae.py`), with timm's and MAE's parameter names.

pub(crate) mod config;
mod forward;
mod init;
mod layer;
pub(crate) mod positions;

pub use config::{NORM_EPS, PRESETS, Preset, VitConfig, is_of_decoder, preset};
#[cfg(test)]
pub(crate) use forward::matrices;
pub use forward::{Encoded, Pass, decode, embed, embed_kept, encode_layer, encode_tokens, logits};
pub(crate) use forward::{Found, norm, pack, rows_of_tokens};
pub use init::{decoder, encoder};
pub use layer::Layer;

#[cfg(test)]
mod tests;
