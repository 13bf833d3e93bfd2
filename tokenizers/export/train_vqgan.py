"""Trains embedded/mosaic_vqgan.onnx, the counterpart of VQGAN: the autoencoder of vq.py with an adversarial loss.

    python tokenizers/export/train_vqgan.py DATA_DIR

As in Esser et al. (2021), the loss adds to the pixel error a patch discriminator with the hinge loss. The discriminator starts
after JOINS epochs and is weighted by the ratio of both losses' gradients at the decoder's last layer (their equation 7). Their
perceptual term is omitted, because it needs a network trained on labels; train_perceptual.py has one.
Input: RGB in [0, 1]. Output: `token_ids` i64 [batch, 8, 8]. About six minutes on one core.
"""

import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

import common
import vq

EPOCHS, BATCH, LR = 24, 128, 2e-3
# taming-transformers' weight of the adversarial loss before the adaptive weight, and the epoch at which the discriminator starts.
WEIGHT, JOINS = 0.8, 8


def discriminator() -> nn.Module:
    """Maps images to a 7x7 map of scores, each for a patch of 22 pixels; real patches score above 0 (Isola et al., 2017)."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 4, 1, 1),
    )


def adaptive(reconstruction: torch.Tensor, adversarial: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The ratio of both losses' gradients at the decoder's last weights, at most 10,000."""
    of = lambda loss: torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
    return (of(reconstruction) / (of(adversarial) + 1e-4)).clamp(0, 1e4).detach()


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, _, val, _ = common.mosaics(folder, 10000, 1000)
    enc, dec, judge = vq.encoder(), vq.decoder(), discriminator()
    codebook = vq.Codebook()
    per_epoch = len(train) // BATCH
    optimizer = torch.optim.AdamW([*enc.parameters(), *dec.parameters()], lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * per_epoch)
    judging = torch.optim.Adam(judge.parameters(), lr=LR / 10, betas=(0.5, 0.9))
    for epoch in range(EPOCHS):
        sums = torch.zeros(3)
        for index in torch.randperm(len(train)).split(BATCH)[:per_epoch]:
            images = common.unit(train[index])
            latent, commit = codebook.quantize(enc(images))
            drawn = dec(latent)
            reconstruction = F.mse_loss(drawn, images)
            loss, weight, judged = reconstruction + 0.25 * commit, torch.zeros(()), torch.zeros(())
            if epoch >= JOINS:
                adversarial = -judge(drawn).mean()
                weight = WEIGHT * adaptive(reconstruction, adversarial, dec[-1].weight)
                loss = loss + weight * adversarial
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch >= JOINS:
                judged = (F.relu(1 - judge(images)).mean() + F.relu(1 + judge(drawn.detach())).mean()) / 2
                judging.zero_grad()
                judged.backward()
                judging.step()
            sums += torch.stack([reconstruction, judged, weight]).detach()
        error, judged, weight = (sums / per_epoch).tolist()
        print(f"epoch {epoch}: reconstruction {error:.5f}, discriminator {judged:.3f}, weight {weight:.4f}", flush=True)
    common.finish_ids(vq.Ids(enc, codebook.codes), "mosaic_vqgan", val)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
