//! Says how a checkpoint differs from a plain ViT of timm, and the remedy.

use crate::vit::VitConfig;

/// By its name an encoder is found in a file.
pub(super) const ANCHOR: &str = "patch_embed.proj.weight";

/// Names in an error.
const SHOWN: usize = 3;

/// Says what a file holds that has no encoder: the names of its tensors, and the objects in which tensors may be.
pub(super) fn no_encoder(names: &[String], objects: &[String]) -> String {
    let none =
        format!("contains no tensor `...{ANCHOR}`, so it is not a ViT with timm's parameter names");
    if names.is_empty() && !objects.is_empty() {
        let found = objects.join(", ");
        return format!(
            "{none}; found {found}; save the weights alone: `torch.save(model.state_dict(), path)`"
        );
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match (names.is_empty(), objects.is_empty()) {
        (true, _) => format!(
            "{none}; found no tensors; save the weights: `torch.save(model.state_dict(), path)`"
        ),
        (false, true) => format!(
            "{none}; found {}; choose a checkpoint of timm, MAE, DeiT or DINO, or rename its parameters",
            shown(&names)
        ),
        (false, false) => format!(
            "{none}; found {} beside {}; choose a checkpoint of timm, MAE, DeiT or DINO, rename its parameters, or save the weights of an object \
             alone: `torch.save(model.state_dict(), path)`",
            shown(&names),
            objects.join(", ")
        ),
    }
}

/// "`a`, `b`, `c` and 4 others".
pub(super) fn shown(names: &[&str]) -> String {
    let first = names.iter().take(SHOWN);
    let first: Vec<String> = first.map(|name| format!("`{name:.80}`")).collect();
    let first = first.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        others => format!("{first} and {others} others"),
    }
}

/// Says why an encoder lacks the parameter `name`. `left` are the parameters that are not read yet, `strange` those that no ViT of timm has.
pub(super) fn lacking(name: &str, vit: &VitConfig, left: &[&str], strange: &[&str]) -> String {
    let lacks = format!("lacks `{name}`");
    // `blocks.3.`: a block with other parts is not an absent one.
    let block = name.match_indices('.').nth(1).map(|(at, _)| &name[..=at]);
    let in_block = |name: &&str| block.is_some_and(|block| name.starts_with(block));
    let others: Vec<&str> = strange.iter().copied().filter(in_block).collect();
    if !others.is_empty() {
        return format!(
            "{lacks}, and its block has other parameters than those of timm's ViT: {}; choose another checkpoint",
            shown(&others)
        );
    }
    let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let remedy = match name {
        "cls_token" => "a ViT without a class token is not supported; choose another checkpoint".into(),
        "pos_embed" => "a ViT without a table of positions is not supported; choose another checkpoint".into(),
        _ if part == "norm" => {
            "a checkpoint fine-tuned with global pooling has no final norm; use the pretrained checkpoint".into()
        }
        _ if kind == "bias" && part.contains("norm") => {
            "a norm without a bias is not supported; choose another checkpoint".into()
        }
        _ if kind == "bias" => {
            format!("if the layer `{part}` has no bias, save zeros by that name, which is the same model")
        }
        _ if left.iter().any(in_block) => "others of its block are there; write the checkpoint again with all parameters".into(),
        _ => format!("a ViT {} has it; {VARIANT}", vit.preset.name),
    };
    format!("{lacks}: {remedy}")
}

/// The remedy where the size differs.
const VARIANT: &str = "set the checkpoint's size: `backbone.variant`, or `variant:` beside `file:`";

/// Says why the shape of the parameter `name` is not `ours`.
pub(super) fn differing(name: &str, found: &[usize], ours: &[usize]) -> String {
    let differs = format!("`{name}` has shape {found:?}, expected {ours:?}");
    match (name, found, ours) {
        ("pos_embed", [1, tokens, width], [1, _, own]) if width == own => {
            let square = |n: usize| n.isqrt().pow(2) == n;
            let cause = match *tokens {
                n if square(n) => {
                    "it has none for the class token; if the model adds none there, put a row of zeros before it"
                }
                n if n > 2 && square(n - 2) => {
                    "it has two beside a square grid, and a distillation token is not supported; choose another checkpoint"
                }
                _ => "its positions are not those of a square grid; choose another checkpoint",
            };
            format!("{differs} or that of another square grid with a class token; {cause}")
        }
        (ANCHOR, [_, pixels], _) if *pixels == ours[1..].iter().product::<usize>() => format!(
            "{differs}: it is that of a linear layer; save the weight of the convolution, `weight.reshape{:?}` if a patch is stored channel \
             by channel",
            (ours[0], ours[1], ours[2], ours[3])
        ),
        (ANCHOR, [_, _], _) => format!(
            "{differs}: it is that of a linear layer for patches of another size; choose another checkpoint"
        ),
        (ANCHOR, [_, _, _, _, _], _) => format!(
            "{differs}: it is that of a convolution over frames of a video; choose a checkpoint of images"
        ),
        (ANCHOR, [_, channels, _, _], _) if *channels != ours[1] => format!(
            "{differs}: it takes images of {channels} channels, expected those of RGB; choose another checkpoint"
        ),
        (ANCHOR, [width, _, _, _], _) if *width == ours[0] => {
            format!("{differs}; set `patch_size` to the checkpoint's")
        }
        _ => format!("{differs}; {VARIANT}"),
    }
}
