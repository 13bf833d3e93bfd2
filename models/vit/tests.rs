use super::*;
use crate::testing::{
    assert_close, fixture, floats, formula, json, set_by_formula, tensor, values,
};

#[test]
fn shapes_and_names_match_timm() {
    let vit = VitConfig {
        preset: preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let params = encoder(&vit, 0).unwrap();
    let dims = |name: &str| params.get(name).unwrap().dims().to_vec();
    assert_eq!(dims("cls_token"), [1, 1, 384]);
    assert_eq!(dims("pos_embed"), [1, 197, 384]);
    assert_eq!(dims("patch_embed.proj.weight"), [384, 3, 16, 16]);
    assert_eq!(dims("blocks.11.attn.qkv.weight"), [1152, 384]);
    assert_eq!(dims("blocks.0.mlp.fc2.weight"), [384, 1536]);
    // 12 per block; 6 for class token, positions, projection and norm.
    assert_eq!(params.names().len(), 12 * 12 + 6);
}

#[test]
fn initial_values_do_not_depend_on_the_head() {
    let vit = VitConfig {
        preset: preset("nano").unwrap(),
        image_size: 32,
        patch_size: 4,
    };
    let build = |width| decoder(encoder(&vit, 3).unwrap(), &vit, width, 3).unwrap();
    let (small, large) = (build(10), build(100));
    for name in small
        .names()
        .iter()
        .filter(|n| !n.starts_with("decoder_pred"))
    {
        let [small, large] = [&small, &large].map(|p| values(p.get(name).unwrap()));
        assert_eq!(small, large, "{name}");
    }
}

#[test]
fn presets_can_be_built() {
    for p in PRESETS {
        assert!(
            p.width.is_multiple_of(p.heads) && p.width.is_multiple_of(4),
            "{}",
            p.name
        );
        assert!(
            p.decoder_width.is_multiple_of(p.decoder_heads) && p.decoder_width.is_multiple_of(4),
            "{}",
            p.name
        );
    }
}

/// Compared with `tests/fixtures/train/formulas.py`.
#[test]
fn position_embeddings_match_mae() {
    let expected = json("train/formulas.json");
    assert!(positions::sincos(5, 16) == floats(&expected["sincos_5_16"]));
    let table = positions::sincos(14, 384);
    for (row, values) in expected["sincos_14_384"].as_object().unwrap() {
        let row: usize = row.parse().unwrap();
        assert!(
            table[row * 384..(row + 1) * 384] == floats(values),
            "row {row}"
        );
    }
}

/// Compared with timm's ViT-S/16 with the same weights and image (`tests/fixtures/vit/make.py`).
#[test]
fn tokens_of_vit_small_match_timm() {
    let vit = VitConfig {
        preset: preset("S").unwrap(),
        image_size: 224,
        patch_size: 16,
    };
    let mut params = encoder(&vit, 0).unwrap();
    params.set_trainable("pos_embed", true);
    set_by_formula(&params, 0.05);
    let image = formula(5, 3 * 224 * 224, 1.0);
    let image = tensor(image, &[1, 3, 224, 224]);
    let embedded = embed(&params, &vit, &image).unwrap();
    let tokens = encode_tokens(&params, &vit, &embedded, &|_, _| None, &Pass::inference()).unwrap();
    let tokens = tokens.normed(&params).unwrap().squeeze(0).unwrap();
    let expected = crate::params::read(&fixture("vit/tokens.safetensors")).unwrap();
    for (name, (_, expected)) in &expected {
        let found = match name.strip_prefix("row") {
            Some(row) => tokens.get(row.parse().unwrap()).unwrap(),
            None => tokens.narrow(0, 1, 196).unwrap().mean(0).unwrap(),
        };
        let found = values(&found);
        assert_close(name, &found, expected, 1e-5, 0..0);
    }
}

#[test]
fn the_mean_of_patch_features_equals_the_pooled_vector() {
    let vit = VitConfig {
        preset: preset("nano").unwrap(),
        image_size: 32,
        patch_size: 4,
    };
    let params = encoder(&vit, 5).unwrap();
    let images = candle_core::Tensor::rand(-1f32, 1.0, (2, 3, 32, 32), &candle_core::Device::Cpu);
    let images = images.unwrap();
    let patches = crate::encode::patches(&params, &vit, Layer::default(), &images).unwrap();
    assert_eq!(patches.dims(), [2, 64, 64]);
    let mean = values(&patches.mean(1).unwrap());
    struct Fixed(candle_core::Tensor);
    impl crate::ImageSource for Fixed {
        fn len(&self) -> usize {
            2
        }

        fn images(&self, _: usize, indices: &[usize]) -> crate::Result<candle_core::Tensor> {
            Ok(self.0.narrow(0, indices[0], indices.len())?)
        }
    }
    let source = Fixed(images.clone());
    let encoded = |layer| {
        let all = crate::encode::encode(&params, (&vit, layer), &source, 0, &[0, 1], &|| false);
        all.unwrap()
    };
    assert_eq!(encoded(Layer::default()).mean, mean);
    // Of four blocks. The last ones stand side by side, the first of them first.
    let (third, last, both) = (
        encoded(Layer::Block(3)),
        encoded(Layer::Block(4)),
        encoded(Layer::Last(2)),
    );
    assert_eq!(last.mean, mean);
    assert_ne!(third.cls, last.cls);
    assert_eq!((both.dim, both.cls.len()), (128, 256));
    let beside = |of: fn(&crate::encode::Frozen) -> &Vec<f32>| {
        let rows = of(&third).chunks(64).zip(of(&last).chunks(64));
        rows.flat_map(|(a, b)| [a, b].concat()).collect::<Vec<_>>()
    };
    assert_eq!(both.cls, beside(|frozen| &frozen.cls));
    assert_eq!(both.mean, beside(|frozen| &frozen.mean));
    let none = crate::encode::patches(&params, &vit, Layer::Block(5), &images);
    assert!(none.unwrap_err().to_string().contains("depth"));
}

/// A layer is that of an encoder without the blocks above it.
#[test]
fn a_block_equals_the_last_one_of_a_shallower_encoder() {
    let preset = preset("nano").unwrap();
    let shallow = Box::leak(Box::new(Preset {
        depth: 2,
        ..*preset
    }));
    let [deep, shallow] = [preset, &*shallow].map(|preset| VitConfig {
        preset,
        image_size: 32,
        patch_size: 4,
    });
    let params = encoder(&deep, 5).unwrap();
    let images = candle_core::Tensor::rand(-1f32, 1.0, (2, 3, 32, 32), &candle_core::Device::Cpu);
    let images = images.unwrap();
    let of = |vit, layer| values(&crate::encode::patches(&params, vit, layer, &images).unwrap());
    assert_eq!(of(&deep, Layer::Block(2)), of(&shallow, Layer::default()));
}
