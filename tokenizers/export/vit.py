"""Patch features of a ViT (DINO, DeiT, MAE, timm) as ONNX, for `features: {kind: onnx}`.

The class token is dropped and the position embedding is baked for the given side. For example:

  python vit.py --checkpoint dino_deitsmall16_pretrain.pth --out dino_vits16.onnx
  python vit.py --checkpoint mae_pretrain_vit_base.pth --model vit_base_patch16_224 --out mae_vitb16.onnx
  python vit.py --checkpoint deit_small_patch16_224.pth --out deit_small16.onnx      (write saw_labels: true in the suite)"""

import timm
import torch
from exporter import arguments, export, load, state_of
from timm.layers import resample_abs_pos_embed, set_fused_attn


class PatchFeatures(torch.nn.Module):
    """Tokens of the last block after the final norm, without the class token, [batch, patches, width]."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        return self.vit.forward_features(x)[:, self.vit.num_prefix_tokens :]


def main():
    parser = arguments(__doc__, "DINO, DeiT and MAE repositories; timm", "of the checkpoint: DINO, DeiT Apache-2.0; MAE CC BY-NC 4.0")
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm's name of the architecture [%(default)s]")
    parser.add_argument("--side", type=int, default=224, help="side of the input, pixels [%(default)s]")
    args = parser.parse_args()
    set_fused_attn(False)
    vit = timm.create_model(args.model, num_classes=0, img_size=args.side)
    if not args.random:
        state = state_of(args.checkpoint)
        prefix = next((k[: -len("patch_embed.proj.weight")] for k in state if k.endswith("patch_embed.proj.weight")), None)
        if prefix is None:
            raise SystemExit(f"{args.checkpoint} holds no ViT by timm's names")
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if state["pos_embed"].shape != vit.pos_embed.shape:
            grid = vit.patch_embed.grid_size
            state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"].float(), list(grid))
        load(vit, state, beside=("head", "decoder", "mask_token", "fc."))
    rows, cols = vit.patch_embed.grid_size
    about = {"kind": "onnx", "architecture": args.model, "grid": f"[{rows}, {cols}]", "dim": vit.embed_dim}
    export(PatchFeatures(vit), args, args.side, "imagenet", "features", about)


if __name__ == "__main__":
    main()
