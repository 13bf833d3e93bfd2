"""Exports patch features of a ViT (DINO, DeiT, MAE, timm) as ONNX, for `features: {kind: onnx}`.

The features are the tokens of the last block after the final norm, without class, distillation and register tokens. The position
embedding is fixed for the given side (resized bicubically if the checkpoint has another side). Examples:

  python vit.py --checkpoint dino_deitsmall16_pretrain.pth --out dino_vits16.onnx
  python vit.py --checkpoint dino_vitbase16_pretrain.pth --model vit_base_patch16_224 --out dino_vitb16.onnx
  python vit.py --checkpoint deit_small_patch16_224.pth --model deit_small_patch16_224 --out deit_small16.onnx
  python vit.py --checkpoint mae_pretrain_vit_base.pth --model vit_base_patch16_224 --out mae_vitb16.onnx
  python vit.py --checkpoint model.safetensors --model vit_small_patch16_224.augreg_in21k --saw-labels --out augreg_s16.onnx

--model defines what the shapes do not: heads, activation, a norm before the blocks. The rest is read from the checkpoint: class
token, registers, layer scale, bias of q, k, v, and the position of the last norm (a norm after pooling is omitted, because it
was not trained for patches). A distilled DeiT is its timm model (deit_small_distilled_patch16_224).

Pixels are scaled by ImageNet's mean and standard deviation, or by those of timm's tag if --model has one (augreg uses 0.5).
Whether labels were seen is known for files or models named dino, moco or mae (no, unless the file has a
classifier) and deit (yes). For others, set --saw-labels or --no-saw-labels."""

import argparse

import timm
import torch
from exporter import IMAGENET, arguments, export, load, scale_of, state_of, without_prefix
from timm.layers import resample_abs_pos_embed, set_fused_attn
from timm.models.vision_transformer import VisionTransformer

# Heads, and the parts of a pretraining checkpoint outside the encoder.
BESIDE = ("head", "decoder", "mask_token", "fc.", "fc_norm", "attn_pool")
CLASSIFIERS = (".head.weight", ".fc.weight", ".classifier.weight")
SAW = {"dino": False, "moco": False, "mae": False, "deit": True}


class PatchFeatures(torch.nn.Module):
    """Features [batch, patches, width]."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        return self.vit.forward_features(x)[:, self.vit.num_prefix_tokens :]


def encoder_state(path, loaded):
    """The encoder's tensors by timm's names, without the prefix of a training script."""
    known = "patch_embed.proj.weight"
    state = without_prefix(loaded, known)
    if state is None:
        raise SystemExit(f"{path} holds no ViT by timm's names: no {known} in {sorted(loaded)[:5]}")
    return state


def form_of(state):
    """The form that a checkpoint's names and shapes imply, as timm's arguments."""
    form = {"global_pool": "", "class_token": "cls_token" in state, "qkv_bias": "blocks.0.attn.qkv.bias" in state}
    if "blocks.0.ls1.gamma" in state:
        form["init_values"] = 1.0
    if "reg_token" in state:
        form["reg_tokens"] = state["reg_token"].shape[1]
    if "norm.weight" not in state:
        form["final_norm"] = False
    return form


def create(args, state):
    """The model, with the checkpoint's weights if there is one."""
    distilled = "distilled" in args.model
    if state and ("dist_token" in state) != distilled:
        has = "a" if not distilled else "no"
        raise SystemExit(f"the checkpoint has {has} dist_token; --model {args.model} needs the opposite (deit_*_distilled_*)")
    form = {} if distilled or not state else form_of(state)
    try:
        vit = timm.create_model(args.model, num_classes=0, img_size=args.side, **form)
    except TypeError as error:
        raise SystemExit(f"--model {args.model} is not one of timm's VisionTransformers: {error}") from None
    if not isinstance(vit, VisionTransformer):
        raise SystemExit(f"--model {args.model} is a {type(vit).__name__}, expected one of timm's VisionTransformers")
    if state:
        patch = vit.patch_embed.proj.weight.shape
        if state["patch_embed.proj.weight"].shape != patch:
            found = tuple(state["patch_embed.proj.weight"].shape)
            raise SystemExit(f"the checkpoint's patches are {found}, those of --model {args.model} {tuple(patch)}")
        if vit.pos_embed is not None and state["pos_embed"].shape != vit.pos_embed.shape:
            prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
            grid = list(vit.patch_embed.grid_size)
            state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"].float(), grid, num_prefix_tokens=prefix)
        load(vit, state, BESIDE)
    return vit


def classifier_of(loaded):
    """The name of a linear classifier in a checkpoint, as Tessera looks for it; None if there is none."""
    linear = (name for name, value in loaded.items() if getattr(value, "ndim", 0) == 2)
    return next((name for name in linear if f".{name}".endswith(CLASSIFIERS)), None)


def saw_labels(parser, args, loaded):
    """The given option, otherwise the value for the names of file and model. Random weights saw no labels. A classifier may be that of a
    fine-tuned model, whose file has the name of its pretraining."""
    if args.saw_labels is not None:
        return args.saw_labels
    if args.random:
        return False
    for name in (args.checkpoint.name.lower(), args.model.lower()):
        # "dino_deitsmall16" is DINO: the training method comes first, the architecture second.
        known = [saw for word, saw in SAW.items() if word in name]
        if known and not known[0] and classifier_of(loaded):
            parser.error(f"{args.checkpoint.name} has a classifier, {classifier_of(loaded)}: set --saw-labels, or --no-saw-labels if labels did not train the encoder")
        if known:
            return known[0]
    parser.error(f"the name {args.checkpoint.name} does not tell whether labels were seen: set --saw-labels or --no-saw-labels")


def main():
    parser = arguments(__doc__, "DINO, DeiT and MAE repositories; timm", "of the checkpoint: DINO, DeiT Apache-2.0; MAE CC BY-NC 4.0")
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm's name of the architecture [%(default)s]")
    parser.add_argument("--saw-labels", action=argparse.BooleanOptionalAction, help="whether the training used labels")
    args = parser.parse_args()
    set_fused_attn(False)
    torch.manual_seed(0)
    loaded = None if args.random else state_of(args.checkpoint)
    labels = saw_labels(parser, args, loaded)
    vit = create(args, None if args.random else encoder_state(args.checkpoint, loaded))
    tagged = vit.pretrained_cfg if "." in args.model else IMAGENET
    if "." in args.model:
        args.source = f"timm {args.model}: {tagged.get('hf_hub_id') or tagged.get('url')}"
        args.licence = tagged.get("license") or args.licence
    rows, cols = vit.patch_embed.grid_size
    about = {
        "kind": "onnx",
        "architecture": args.model,
        "grid": f"[{rows}, {cols}]",
        "dim": vit.embed_dim,
        "saw_labels": labels,
    }
    export(PatchFeatures(vit), args, scale_of(tagged["mean"], tagged["std"]), "features", about)


if __name__ == "__main__":
    main()
