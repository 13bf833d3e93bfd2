"""Shared by the vector-quantised autoencoders on mosaics: encoder, decoder, codebook, and the graph of ids.

The training scripts, and therefore the rows of a suite, differ only by their losses. Stride 4, 8x8 ids at 32 px, 256 codes."""

import torch
from torch import nn
from torch.nn import functional as F

CODES, DIM, GRID = 256, 16, 8


def encoder() -> nn.Module:
    """Maps images [batch, 3, 32, 32] to latents [batch, 16, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, DIM, 1),
    )


def decoder() -> nn.Module:
    """Maps latents to images; the last layer is `[-1]`."""
    return nn.Sequential(
        nn.Conv2d(DIM, 64, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )


class Codebook:
    """Codes updated by exponential moving averages of the latents (van den Oord et al., 2017, appendix A.1). An unused code is
    moved to a random latent."""

    def __init__(self):
        self.codes = torch.randn(CODES, DIM)
        self.count, self.total = torch.ones(CODES), self.codes.clone()

    @torch.no_grad()
    def update(self, flat: torch.Tensor) -> torch.Tensor:
        """Moves the codes towards latents [n, 16]; returns the latents' ids from before the move."""
        ids = torch.cdist(flat, self.codes).argmin(1)
        hot = F.one_hot(ids, CODES).float()
        self.count.mul_(0.99).add_(hot.sum(0), alpha=0.01)
        self.total.mul_(0.99).add_(hot.T @ flat, alpha=0.01)
        dead = self.count < 0.5
        if dead.any():
            fresh = flat[torch.randint(len(flat), (int(dead.sum()),))]
            self.count[dead], self.total[dead] = 1.0, fresh
        self.codes = self.total / self.count[:, None]
        return ids

    def quantize(self, z: torch.Tensor):
        """Codes for latents, with a straight-through gradient, and the commitment loss."""
        ids = self.update(z.permute(0, 2, 3, 1).reshape(-1, DIM))
        quantized = self.codes[ids].reshape(z.shape[0], GRID, GRID, DIM).permute(0, 3, 1, 2)
        return z + (quantized - z).detach(), F.mse_loss(z, quantized)


class Ids(nn.Module):
    """Maps images to the ids of the nearest codes, as an argmin of |c|^2 - 2 z.c inside the graph."""

    def __init__(self, encode: nn.Module, codes: torch.Tensor):
        super().__init__()
        self.encode = encode
        self.register_buffer("weight", (-2 * codes)[:, :, None, None].contiguous())
        self.register_buffer("bias", codes.square().sum(1))

    def forward(self, pixel_values):
        distance = F.conv2d(self.encode(pixel_values), self.weight, self.bias)
        return (-distance).argmax(1)
