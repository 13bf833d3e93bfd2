"""Trains embedded/mosaic_ssl.onnx, the counterpart of DINO: a small self-supervised ViT on mosaics.

    python tokenizers/export/train_ssl.py DATA_DIR [EPOCHS]

As in DINO, the ViT learns without labels from its own moving average on two augmented views. The loss is that of MoCo v3 (Chen
et al., 2021: InfoNCE with a predictor), because DINO's loss collapses on data and models of this size (tried with moving-mean
and Sinkhorn centring). Output: `features` f32 [batch, 48, 8, 8], the patch tokens of the last block after the norm. About ten
minutes on one core.
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
from vit_mosaic import WIDTH, Features, ViT, crops, normalized, pooled

OUT = 64
BATCH, LR, MOMENTUM, TEMPERATURE = 256, 1.5e-3, 0.99, 0.2


def mlp(into: int) -> nn.Module:
    return nn.Sequential(nn.Linear(into, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, OUT))


def knn(vit: ViT, train, train_labels, val, val_labels) -> float:
    """Top-1 accuracy of 20 nearest neighbours on the mean of the patch tokens, for the log only."""
    def features(images):
        x = normalized(images)
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
            images = common.unit(train[index])
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
    common.check(model, "mosaic_ssl", normalized(val[:64]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)
