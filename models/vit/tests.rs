use super::*;

#[test]
fn shapes_and_names_are_timms() {
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
    // 12 per block, class token, positions, projection, norm.
    assert_eq!(params.names().len(), 12 * 12 + 6);
}

#[test]
fn the_same_seed_gives_the_same_encoder_under_any_head() {
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
        let values = |p: &crate::ParamStore| {
            p.get(name)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(values(&small), values(&large), "{name}");
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
