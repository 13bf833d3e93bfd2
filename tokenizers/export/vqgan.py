"""The encoder and codebook of taming-transformers' VQGAN f16 (ImageNet) as ONNX ids, for `kind: onnx-ids`: 1024 or 16384 codes, 224 px give
a grid of 14 x 14.

  python vqgan.py --checkpoint last.ckpt --codes 16384 --out vqgan_16384.onnx"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from exporter import arguments, export, load, state_of

WIDTH, MULTIPLIERS, BLOCKS, LATENT = 128, (1, 1, 2, 2, 4), 2, 256


def norm(width):
    return nn.GroupNorm(32, width, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, width):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (f(y).reshape(b, c, h * w) for f in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k * c**-0.5).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).reshape(b, c, h, w))


class Downsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in, before = nn.Conv2d(3, WIDTH, 3, padding=1), WIDTH
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(MULTIPLIERS):
            last, after = level == len(MULTIPLIERS) - 1, WIDTH * multiplier
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(BLOCKS):
                stage.block.append(Residual(before, after))
                before = after
                if last:
                    stage.attn.append(Attention(after))
            if not last:
                stage.downsample = Downsample(after)
            self.down.append(stage)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = Residual(before, before), Attention(before), Residual(before, before)
        self.norm_out, self.conv_out = norm(before), nn.Conv2d(before, LATENT, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for stage in self.down:
            for at, block in enumerate(stage.block):
                x = block(x)
                if len(stage.attn):
                    x = stage.attn[at](x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Ids(nn.Module):
    """Nearest codes [batch, rows, cols] of pixels scaled to -1..1."""

    def __init__(self, codes):
        super().__init__()
        self.encoder, self.quant_conv = Encoder(), nn.Conv2d(LATENT, LATENT, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, LATENT)

    def forward(self, x):
        z = self.quant_conv(self.encoder(x)).permute(0, 2, 3, 1)
        codes = self.quantize.embedding.weight
        return (codes.square().sum(1) - 2 * z @ codes.t()).argmin(-1)


def main():
    parser = arguments(__doc__, "taming-transformers, vqgan_imagenet_f16_1024 or _16384", "MIT (taming-transformers)")
    parser.add_argument("--codes", type=int, default=1024, help="size of the codebook: 1024 or 16384 [%(default)s]")
    parser.add_argument("--side", type=int, default=224, help="side of the input, pixels [%(default)s]")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Ids(args.codes)
    if not args.random:
        beside = ("decoder.", "post_quant_conv.", "loss.", "quantize.re_embed", "quantize.used")
        load(model, state_of(args.checkpoint), beside)
    grid = args.side // 16
    about = {"kind": "onnx-ids", "grid": f"[{grid}, {grid}]", "codebook_size": args.codes}
    export(model, args, args.side, "minus-one-one", "ids", about)


if __name__ == "__main__":
    main()
