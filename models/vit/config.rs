//! Model sizes and shapes.

/// LayerNorm's epsilon in timm's ViTs and MAE.
pub const NORM_EPS: f32 = 1e-6;

/// A model size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Name in suites.
    pub name: &'static str,
    /// Encoder width.
    pub width: usize,
    /// Encoder blocks.
    pub depth: usize,
    /// Encoder heads.
    pub heads: usize,
    /// Decoder width.
    pub decoder_width: usize,
    /// Decoder blocks.
    pub decoder_depth: usize,
    /// Decoder heads.
    pub decoder_heads: usize,
}

/// All sizes. S, B and L follow MAE and the paper; nano is for the quickstart on two cores.
pub const PRESETS: &[Preset] = &[
    preset_of("nano", [64, 4, 2], [48, 1, 2]),
    preset_of("Ti", [192, 12, 3], [128, 4, 4]),
    preset_of("S", [384, 12, 6], [256, 8, 8]),
    preset_of("B", [768, 12, 12], [512, 8, 16]),
    preset_of("L", [1024, 24, 16], [512, 8, 16]),
    preset_of("H", [1280, 32, 16], [512, 8, 16]),
];

const fn preset_of(name: &'static str, encoder: [usize; 3], decoder: [usize; 3]) -> Preset {
    Preset {
        name,
        width: encoder[0],
        depth: encoder[1],
        heads: encoder[2],
        decoder_width: decoder[0],
        decoder_depth: decoder[1],
        decoder_heads: decoder[2],
    }
}

/// Returns the preset with the name `name`.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|p| p.name == name)
}

impl Preset {
    /// Returns a line for `bench list backbones`.
    pub fn summary(&self) -> String {
        format!(
            "encoder {} wide, {} deep, {} heads; decoder {} wide, {} deep, {} heads",
            self.width,
            self.depth,
            self.heads,
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads
        )
    }
}

/// Shards of a small batch. More would occupy more threads, but each packs all weights and adds gradients of all of them.
const SHARDS: usize = 2;

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VitConfig {
    /// Model size.
    pub preset: &'static Preset,
    /// Side of the input in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
}

impl VitConfig {
    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches per image.
    pub fn num_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Images per shard at most, few enough for a block's activations to fit into a core's cache.
    pub fn shard(&self) -> usize {
        (2048 / self.num_patches().next_power_of_two()).clamp(1, 16)
    }

    /// Images per shard of a batch on a CPU: at most [`shard`](Self::shard), and at most half of the batch. The number does not depend
    /// on the machine, so sums do not either. It is even, because fine-tuning mixes pairs of images.
    pub fn shard_of(&self, batch: usize) -> usize {
        let even = batch.div_ceil(SHARDS).next_multiple_of(2);
        self.shard().min(even.max(2))
    }

    /// Returns a checkpoint's metadata: properties that the shapes of its tensors do not determine. `saw_labels` is for an encoder without a
    /// classifier that was trained with labels.
    pub fn metadata(
        &self,
        pooling: &str,
        saw_labels: bool,
    ) -> std::collections::HashMap<String, String> {
        let labels = if saw_labels {
            r#","saw_labels":true"#
        } else {
            ""
        };
        // A single string keeps the file's bytes independent of the hash map's order.
        let text = format!(
            r#"{{"variant":"{}","heads":{},"decoder_heads":{},"image_size":{},"patch_size":{},"pooling":"{pooling}","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225]{labels}}}"#,
            self.preset.name,
            self.preset.heads,
            self.preset.decoder_heads,
            self.image_size,
            self.patch_size
        );
        [("tessera".to_owned(), text)].into()
    }
}

/// Whether the parameter `name` belongs to the decoder of masked pretraining.
pub fn is_of_decoder(name: &str) -> bool {
    name.starts_with("decoder") || name == "mask_token"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vit::preset;

    #[test]
    fn a_small_batch_has_two_even_shards() {
        let vit = |image_size, patch_size| VitConfig {
            preset: preset("S").unwrap(),
            image_size,
            patch_size,
        };
        for (vit, batch, shard) in [
            (vit(224, 16), 1024, 8),
            (vit(224, 16), 16, 8),
            (vit(224, 16), 8, 4),
            (vit(224, 16), 7, 4),
            (vit(224, 16), 6, 4),
            (vit(224, 16), 2, 2),
            (vit(224, 16), 1, 2),
            (vit(32, 4), 64, 16),
            (vit(32, 4), 20, 10),
        ] {
            assert_eq!(vit.shard_of(batch), shard, "{batch}");
        }
    }
}
