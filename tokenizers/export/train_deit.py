"""Trains embedded/mosaic_deit.onnx, the counterpart of DeiT: a small ViT trained on the mosaics' labels, and marked so.

    python tokenizers/export/train_deit.py DATA_DIR

As in DeiT (Touvron et al., 2021), the ViT is trained from scratch with labels, AdamW, a cosine schedule, label smoothing, mixup and
augmentation, but without distillation. It uses the encoder of vit_mosaic.py. The head uses the mean of the patch tokens, because
patch features are needed. Output: `features` f32 [batch, 48, 8, 8], the patch tokens of the last block after the norm. About six
minutes on one core.
"""

import math
import pathlib
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import common
from vit_mosaic import WIDTH, Features, ViT, crops, normalized, pooled

CLASSES, EPOCHS, BATCH, LR, SMOOTHING = 10, 30, 256, 1.5e-3, 0.1


def mixed(images: torch.Tensor, labels: torch.Tensor):
    """Applies mixup (Zhang et al., 2018) with the reversed batch to half of the batches; returns images and smoothed targets."""
    targets = F.one_hot(labels.long(), CLASSES).float() * (1 - SMOOTHING) + SMOOTHING / CLASSES
    if torch.rand(()) < 0.5:
        return images, targets
    keep = torch.distributions.Beta(0.8, 0.8).sample()
    return keep * images + (1 - keep) * images.flip(0), keep * targets + (1 - keep) * targets.flip(0)


def accuracy(vit: ViT, head: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        predicted = torch.cat([head(pooled(vit, part)).argmax(1) for part in normalized(images).split(500)])
    return 100 * (predicted == labels).float().mean().item()


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, labels, val, val_labels = common.mosaics(folder, 10000, 1000)
    vit, head = ViT(), nn.Linear(WIDTH, CLASSES)
    optimizer = torch.optim.AdamW([*vit.parameters(), *head.parameters()], lr=LR, weight_decay=0.05)
    per_epoch = len(train) // BATCH
    total = EPOCHS * per_epoch
    rate = lambda step: min(1.0, step / (3 * per_epoch)) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / total)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for epoch in range(EPOCHS):
        start, sum_loss = time.time(), 0.0
        for index in torch.randperm(len(train)).split(BATCH)[:per_epoch]:
            images, targets = mixed(crops(common.unit(train[index]), common.SIZE, (0.4, 1.0)), labels[index])
            loss = F.cross_entropy(head(pooled(vit, images)), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*vit.parameters(), *head.parameters()], 3.0)
            optimizer.step()
            schedule.step()
            sum_loss += loss.item()
        said = f", accuracy {accuracy(vit, head, val, val_labels):.1f} %" if epoch % 5 == 4 else ""
        print(f"epoch {epoch}: loss {sum_loss / per_epoch:.4f}, {time.time() - start:.1f} s{said}", flush=True)
    model = Features(vit)
    common.export(model, "mosaic_deit", "features")
    common.check(model, "mosaic_deit", normalized(val[:64]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
