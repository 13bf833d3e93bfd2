"""Trains embedded/mosaic_vq.onnx: a vector-quantised autoencoder on mosaics, the part dVAE and VQGAN play.

    python tokenizers/export/train_vq.py DATA_DIR

Stride 4, 8x8 ids at 32 px, 256 codes (van den Oord et al., 2017; codebook by exponential moving averages, unused codes
moved to random inputs). Input: RGB in [0, 1]. Output: `token_ids` i64 [batch, 8, 8]. About five minutes on one core.
"""

import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

import common

CODES, DIM, EPOCHS, BATCH = 256, 16, 12, 128


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, DIM, 1),
    )


def decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(DIM, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )


class Ids(nn.Module):
    """Images to ids: the nearest code, as an argmin of |c|^2 - 2 z.c inside the graph."""

    def __init__(self, encode: nn.Module, codes: torch.Tensor):
        super().__init__()
        self.encode = encode
        self.register_buffer("weight", (-2 * codes)[:, :, None, None].contiguous())
        self.register_buffer("bias", codes.square().sum(1))

    def forward(self, pixel_values):
        distance = F.conv2d(self.encode(pixel_values), self.weight, self.bias)
        return (-distance).argmax(1)


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, _, val, _ = common.mosaics(folder, 10000, 1000)
    enc, dec = encoder(), decoder()
    codes = torch.randn(CODES, DIM)
    count, total = torch.ones(CODES), codes.clone()
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW([*enc.parameters(), *dec.parameters()], lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        error = 0.0
        for index in torch.randperm(len(train)).split(BATCH)[: len(train) // BATCH]:
            images = train[index].permute(0, 3, 1, 2).float() / 255
            z = enc(images)
            flat = z.permute(0, 2, 3, 1).reshape(-1, DIM)
            with torch.no_grad():
                ids = torch.cdist(flat, codes).argmin(1)
                hot = F.one_hot(ids, CODES).float()
                count.mul_(0.99).add_(hot.sum(0), alpha=0.01)
                total.mul_(0.99).add_(hot.T @ flat, alpha=0.01)
                dead = count < 0.5
                if dead.any():
                    fresh = flat[torch.randint(len(flat), (int(dead.sum()),))]
                    count[dead], total[dead] = 1.0, fresh
                codes = total / count[:, None]
            quantized = codes[ids].reshape(z.shape[0], 8, 8, DIM).permute(0, 3, 1, 2)
            commit = F.mse_loss(z, quantized)
            out = dec(z + (quantized - z).detach())
            reconstruction = F.mse_loss(out, images)
            optimizer.zero_grad()
            (reconstruction + 0.25 * commit).backward()
            optimizer.step()
            schedule.step()
            error += reconstruction.item()
        print(f"epoch {epoch}: reconstruction {error / (len(train) // BATCH):.5f}", flush=True)
    model = Ids(enc, codes)
    images = val.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        print("codes used on val:", model(images).unique().numel())
    common.export(model, "mosaic_vq", "token_ids")
    common.check(model, "mosaic_vq", images[:64])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
