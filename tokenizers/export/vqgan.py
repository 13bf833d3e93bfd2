"""Exports encoder and codebook of taming-transformers' VQGAN f16 (ImageNet) as ONNX ids, for `kind: onnx-ids`: 1024 or 16384 codes;
224 px give a grid of 14 x 14.

  python vqgan.py --checkpoint last.ckpt --codes 16384 --out vqgan_16384.onnx

The manifest has saw_labels: true, because the perceptual loss of the training (LPIPS) compares features of a VGG-16 trained on
ImageNet's labels."""

import torch
from exporter import arguments, export, load, state_of
from taming import BESIDE, Encoder, Ids

LATENT = 256


def main():
    parser = arguments(__doc__, "taming-transformers, vqgan_imagenet_f16_1024 or _16384", "MIT (taming-transformers)")
    parser.add_argument("--codes", type=int, default=1024, help="size of the codebook: 1024 or 16384 [%(default)s]")
    args = parser.parse_args()
    torch.manual_seed(0)
    attended = [False, False, False, False, True]
    model = Ids(Encoder(128, (1, 1, 2, 2, 4), 2, LATENT, attended), LATENT, args.codes, LATENT)
    if not args.random:
        load(model, state_of(args.checkpoint), BESIDE)
    grid = args.side // 16
    about = {"kind": "onnx-ids", "grid": f"[{grid}, {grid}]", "codebook_size": args.codes, "saw_labels": not args.random}
    export(model, args, "minus-one-one", "ids", about)


if __name__ == "__main__":
    main()
