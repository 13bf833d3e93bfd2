"""Shared by the ViTs on mosaics: the encoder, its augmentation, and the graph of its patch features.

Patch 4, 48 wide, 3 deep, 3 heads; ReLU and no class token, because the embedded engine of that time spent a third of the time
on GELU. Input: RGB with ImageNet mean and std."""

import math

import torch
from torch import nn
from torch.nn import functional as F

import common

WIDTH, DEPTH, HEADS, PATCH, GRID = 48, 3, 3, 4, 8
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Converts bytes [n, 32, 32, 3] to the encoders' input."""
    return (common.unit(images) - MEAN) / STD


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, WIDTH))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.pos = nn.Parameter(torch.randn(1, WIDTH, GRID, GRID) * 0.02)
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, x):
        x = (self.patch(x) + self.pos).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(x))


def pooled(vit: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The mean of the patch tokens, because patch features are needed."""
    return vit(images).mean(1)


class Features(nn.Module):
    """Maps images to patch features [batch, 48, 8, 8]."""

    def __init__(self, vit: ViT):
        super().__init__()
        self.vit = vit

    def forward(self, pixel_values):
        return self.vit(pixel_values).transpose(1, 2).reshape(-1, WIDTH, GRID, GRID)


def crops(images: torch.Tensor, size: int, scale) -> torch.Tensor:
    """Random boxes, mirrored with probability 0.5, with mixed and shifted colours, normalised."""
    b = len(images)
    side = torch.empty(b).uniform_(*scale).sqrt()
    shift = (1 - side)[:, None] * torch.empty(b, 2).uniform_(-1, 1)
    mirror = torch.where(torch.rand(b) < 0.5, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * mirror, side, shift
    out = F.grid_sample(images, F.affine_grid(theta, (b, 3, size, size), align_corners=False), align_corners=False)
    mix = torch.eye(3) + 0.25 * torch.randn(b, 3, 3)
    out = torch.einsum("bij,bjhw->bihw", mix, out - 0.5) + 0.5 + 0.15 * torch.randn(b, 3, 1, 1)
    return (out.clamp(0, 1) - MEAN) / STD
