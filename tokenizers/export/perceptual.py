"""Exports a perceptual tokenizer in PeCo's form (Dong et al., 2023) as ONNX ids, for `kind: onnx-ids`: a convolutional VQ-VAE encoder,
trained with a perceptual loss on features of a self-supervised ViT, and 8192 codes; 224 px give a grid of 14 x 14.

  python perceptual.py --checkpoint peco_tokenizer.pth --out peco_8192.onnx

Neither PeCo's code nor its tokenizer was available when this script was written. It assumes that the encoder is that of
taming-transformers' VQ models with their parameter names (encoder.conv_in, encoder.down.I.block.J, encoder.mid,
encoder.conv_out, quant_conv, quantize.embedding), and that pixels are scaled to -1..1 (--scale). Width, levels, blocks,
attention, latent and codebook are read from the checkpoint's shapes. A name that belongs to neither the encoder, a decoder nor a
loss is an error. With --random, the encoder is that of f16 (128 wide, five levels) with 8192 codes of 256 numbers. The manifest
has saw_labels: false, because the network of PeCo's loss is self-supervised (MoCo v3); set --saw-labels if yours used labels."""

import argparse

import torch
from exporter import arguments, export, load, state_of, without_prefix
from taming import BESIDE, Encoder, Ids

CODES, F16 = 8192, {"width": 128, "multipliers": [1, 1, 2, 2, 4], "blocks": 2, "latent": 256, "attended": [False] * 4 + [True]}


def read(state):
    """The forms of the encoder and of the codebook, from the checkpoint's shapes."""
    needed = ("encoder.conv_in.weight", "encoder.conv_out.weight", "quant_conv.weight", "quantize.embedding.weight")
    absent = [name for name in needed if name not in state]
    if absent:
        raise SystemExit(f"the checkpoint has no {absent}, expected taming-transformers' names; it has {sorted(state)[:5]}")
    width = state["encoder.conv_in.weight"].shape[0]
    under = lambda prefix: {int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)}
    levels = sorted(under("encoder.down."))
    form = {
        "width": width,
        "multipliers": [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] // width for i in levels],
        "blocks": len(under("encoder.down.0.block.")),
        "latent": state["encoder.conv_out.weight"].shape[0],
        "attended": [bool(under(f"encoder.down.{i}.attn.")) for i in levels],
    }
    return form, tuple(state["quantize.embedding.weight"].shape)


def main():
    parser = arguments(__doc__, "PeCo's tokenizer (microsoft/PeCo)", "of the checkpoint: see microsoft/PeCo")
    parser.add_argument("--scale", default="minus-one-one", choices=["minus-one-one", "zero-one", "imagenet"], help="[%(default)s]")
    parser.add_argument("--saw-labels", action=argparse.BooleanOptionalAction, default=False, help="whether the training used labels")
    args = parser.parse_args()
    torch.manual_seed(0)
    form, (codes, dim), state = F16, (CODES, F16["latent"]), None
    if not args.random:
        loaded = state_of(args.checkpoint)
        state = without_prefix(loaded, "encoder.conv_in.weight") or loaded
        form, (codes, dim) = read(state)
    model = Ids(Encoder(**form), form["latent"], codes, dim)
    if state:
        load(model, state, BESIDE)
    grid = args.side // 2 ** (len(form["multipliers"]) - 1)
    about = {"kind": "onnx-ids", "grid": f"[{grid}, {grid}]", "codebook_size": codes, "saw_labels": args.saw_labels}
    export(model, args, args.scale, "ids", about)


if __name__ == "__main__":
    main()
