//! Initialisation as in MAE's `initialize_weights`.

use rand::Rng;
use rand_distr::{Distribution, Normal};

use super::config::VitConfig;
use super::positions::sincos;
use crate::error::Result;
use crate::params::ParamStore;
use crate::rng::keyed_rng;

/// Creates a random encoder that depends only on `vit` and `seed`.
///
/// # Errors
/// If the shape is invalid.
pub fn encoder(vit: &VitConfig, seed: u64) -> Result<ParamStore> {
    let p = vit.preset;
    let mut init = Init {
        params: ParamStore::default(),
        seed,
    };
    init.normal("cls_token", &[1, 1, p.width])?;
    let positions = sincos(vit.grid(), p.width);
    init.params.add(
        "pos_embed",
        &[1, vit.num_patches() + 1, p.width],
        positions,
        false,
    )?;
    let fan_in = 3 * vit.patch_size * vit.patch_size;
    let shape = [p.width, 3, vit.patch_size, vit.patch_size];
    init.xavier("patch_embed.proj.weight", &shape, p.width, fan_in)?;
    // MAE keeps the default initialisation of Conv2d.
    init.uniform(
        "patch_embed.proj.bias",
        &[p.width],
        1.0 / (fan_in as f32).sqrt(),
    )?;
    (0..p.depth).try_for_each(|i| init.block(&format!("blocks.{i}"), p.width))?;
    init.norm("norm", p.width)?;
    Ok(init.params)
}

/// Adds a random decoder that predicts `head_width` numbers per patch.
///
/// # Errors
/// If the shape is invalid.
pub fn decoder(
    params: ParamStore,
    vit: &VitConfig,
    head_width: usize,
    seed: u64,
) -> Result<ParamStore> {
    let p = vit.preset;
    let mut init = Init { params, seed };
    init.linear("decoder_embed", p.width, p.decoder_width)?;
    init.normal("mask_token", &[1, 1, p.decoder_width])?;
    let positions = sincos(vit.grid(), p.decoder_width);
    init.params.add(
        "decoder_pos_embed",
        &[1, vit.num_patches() + 1, p.decoder_width],
        positions,
        false,
    )?;
    (0..p.decoder_depth)
        .try_for_each(|i| init.block(&format!("decoder_blocks.{i}"), p.decoder_width))?;
    init.norm("decoder_norm", p.decoder_width)?;
    init.linear("decoder_pred", p.decoder_width, head_width)?;
    Ok(init.params)
}

struct Init {
    params: ParamStore,
    seed: u64,
}

impl Init {
    /// Each parameter has its own stream, so adding a parameter does not change the others.
    fn rng(&self, name: &str) -> impl Rng + use<> {
        keyed_rng(self.seed, &format!("init {name}"), 0, 0)
    }

    fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) -> Result<()> {
        let mut rng = self.rng(name);
        let count = shape.iter().product();
        let values = (0..count)
            .map(|_| rng.random_range(-bound..bound))
            .collect();
        self.params.add(name, shape, values, true)
    }

    fn xavier(&mut self, name: &str, shape: &[usize], fan_out: usize, fan_in: usize) -> Result<()> {
        self.uniform(name, shape, (6.0 / (fan_in + fan_out) as f32).sqrt())
    }

    fn normal(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        let mut rng = self.rng(name);
        let normal =
            Normal::new(0.0, 0.02).map_err(|e| crate::error::Error::Config(e.to_string()))?;
        let values = (0..shape.iter().product())
            .map(|_| normal.sample(&mut rng))
            .collect();
        self.params.add(name, shape, values, true)
    }

    fn constant(&mut self, name: &str, size: usize, value: f32) -> Result<()> {
        self.params.add(name, &[size], vec![value; size], true)
    }

    fn linear(&mut self, name: &str, from: usize, to: usize) -> Result<()> {
        self.xavier(&format!("{name}.weight"), &[to, from], to, from)?;
        self.constant(&format!("{name}.bias"), to, 0.0)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<()> {
        self.constant(&format!("{name}.weight"), width, 1.0)?;
        self.constant(&format!("{name}.bias"), width, 0.0)
    }

    fn block(&mut self, name: &str, width: usize) -> Result<()> {
        self.norm(&format!("{name}.norm1"), width)?;
        self.linear(&format!("{name}.attn.qkv"), width, 3 * width)?;
        self.linear(&format!("{name}.attn.proj"), width, width)?;
        self.norm(&format!("{name}.norm2"), width)?;
        self.linear(&format!("{name}.mlp.fc1"), width, 4 * width)?;
        self.linear(&format!("{name}.mlp.fc2"), 4 * width, width)
    }
}
