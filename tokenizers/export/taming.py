"""Encoder and codebook of taming-transformers' VQ models (Esser et al., 2021), of any width and depth, with the original parameter names."""

import torch.nn as nn
import torch.nn.functional as F


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
    """Maps images to latents with a stride of 2^(levels - 1); `attended[i]` is whether level i has attention."""

    def __init__(self, width, multipliers, blocks, latent, attended):
        super().__init__()
        self.conv_in, before = nn.Conv2d(3, width, 3, padding=1), width
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            after = width * multiplier
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                stage.block.append(Residual(before, after))
                before = after
                if attended[level]:
                    stage.attn.append(Attention(after))
            if level + 1 < len(multipliers):
                stage.downsample = Downsample(after)
            self.down.append(stage)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = Residual(before, before), Attention(before), Residual(before, before)
        self.norm_out, self.conv_out = norm(before), nn.Conv2d(before, latent, 3, padding=1)

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
    """Computes the nearest codes [batch, rows, cols]."""

    def __init__(self, encoder, latent, codes, dim):
        super().__init__()
        self.encoder, self.quant_conv = encoder, nn.Conv2d(latent, dim, 1)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, dim)

    def nearness(self, x):
        """[batch, rows, cols, codes]: the negative squared distance to each code, up to a constant per position."""
        z = self.quant_conv(self.encoder(x)).permute(0, 2, 3, 1)
        codes = self.quantize.embedding.weight
        return 2 * z @ codes.t() - codes.square().sum(1)

    def scores(self, x):
        return self.nearness(x).permute(0, 3, 1, 2)

    def forward(self, x):
        return self.nearness(x).argmax(-1)


# Other parts of a training checkpoint.
BESIDE = ("decoder.", "post_quant_conv.", "loss.", "quantize.re_embed", "quantize.used")
