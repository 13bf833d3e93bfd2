"""Trains embedded/mosaic_ssl.onnx: a small self-supervised ViT on mosaics, the part DINO plays.

    python tokenizers/export/train_ssl.py DATA_DIR [EPOCHS]

As DINO it is a ViT taught by its own moving average on two augmented views, and sees no label; the loss is MoCo v3's (Chen et
al., 2021: InfoNCE with a predictor), because DINO's own collapses on data and models this small (tried: moving-mean and
Sinkhorn centring). ViT: patch 4, 48 wide, 3 deep, 3 heads; ReLU and no class token, because the quickstart runs it in tract, where
GELU costs a third of the time. Input: RGB with ImageNet mean and std. Output: `features` f32
[batch, 48, 8, 8], the patch tokens of the last block after the norm. About ten minutes on one core.
"""

import copy
import math
import pathlib
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import common

WIDTH, DEPTH, HEADS, PATCH, OUT = 48, 3, 3, 4, 64
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
BATCH, LR, MOMENTUM, TEMPERATURE = 256, 1.5e-3, 0.99, 0.2


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
        self.pos = nn.Parameter(torch.randn(1, WIDTH, 8, 8) * 0.02)
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, x):
        x = (self.patch(x) + self.pos).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(x))


def mlp(into: int) -> nn.Module:
    return nn.Sequential(nn.Linear(into, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, OUT))


def pooled(vit: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The mean of the patch tokens: what is asked of the encoder here is patches."""
    return vit(images).mean(1)


class Features(nn.Module):
    """Images to patch features [batch, 48, 8, 8]."""

    def __init__(self, vit: ViT):
        super().__init__()
        self.vit = vit

    def forward(self, pixel_values):
        return self.vit(pixel_values).transpose(1, 2).reshape(-1, WIDTH, 8, 8)


def crops(images: torch.Tensor, size: int, scale) -> torch.Tensor:
    """Random boxes, mirrored half of the time, colours mixed and shifted; normalised."""
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


def knn(vit: ViT, train, train_labels, val, val_labels) -> float:
    """Top-1 of 20 nearest neighbours on the mean of the patch tokens, for the log only."""
    def features(images):
        x = (images.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        with torch.no_grad():
            return F.normalize(torch.cat([pooled(vit, c) for c in x.split(500)]), dim=-1)
    near = (features(val) @ features(train[:4000]).T).topk(20).indices
    votes = F.one_hot(train_labels[:4000].long()[near], 10).sum(1)
    return 100 * (votes.argmax(1) == val_labels).float().mean().item()


def main(folder: pathlib.Path, epochs: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, train_labels, val, val_labels = common.mosaics(folder, 10000, 1000)
    student = nn.ModuleDict({"vit": ViT(), "head": mlp(WIDTH), "predict": mlp(OUT)})
    teacher = copy.deepcopy(nn.ModuleDict({"vit": student["vit"], "head": student["head"]})).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.05)
    per_epoch = len(train) // BATCH
    total = epochs * per_epoch
    rate = lambda step: min(1.0, step / (3 * per_epoch)) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / total)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    step = 0
    for epoch in range(epochs):
        start, sum_loss = time.time(), 0.0
        for index in torch.randperm(len(train)).split(BATCH)[:per_epoch]:
            images = train[index].permute(0, 3, 1, 2).float() / 255
            views = [crops(images, 32, (0.4, 1.0)) for _ in range(2)]
            with torch.no_grad():
                keys = [F.normalize(teacher["head"](pooled(teacher["vit"], view)), dim=-1) for view in views]
            queries = [student["predict"](student["head"](pooled(student["vit"], view))) for view in views]
            scores = [F.normalize(q, dim=-1) @ k.T / TEMPERATURE for q, k in zip(queries, reversed(keys))]
            loss = sum(F.cross_entropy(s, torch.arange(len(s))) for s in scores) / 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            optimizer.step()
            schedule.step()
            keep = 1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * step / total)) / 2
            for part in ("vit", "head"):
                for t, s in zip(teacher[part].parameters(), student[part].parameters()):
                    t.mul_(keep).add_(s.detach(), alpha=1 - keep)
            step, sum_loss = step + 1, sum_loss + loss.item()
        said = f", k-NN {knn(teacher['vit'], train, train_labels, val, val_labels):.1f} %" if epoch % 3 == 2 else ""
        print(f"epoch {epoch}: loss {sum_loss / per_epoch:.4f}, {time.time() - start:.1f} s{said}", flush=True)
    model = Features(teacher["vit"])
    common.export(model, "mosaic_ssl", "features")
    common.check(model, "mosaic_ssl", (val[:64].permute(0, 3, 1, 2).float() / 255 - MEAN) / STD)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)
