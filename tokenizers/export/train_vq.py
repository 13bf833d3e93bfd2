"""Trains embedded/mosaic_vq.onnx, the counterpart of dVAE: a vector-quantised autoencoder on mosaics.

    python tokenizers/export/train_vq.py DATA_DIR

The autoencoder of vq.py with a squared pixel error. Input: RGB in [0, 1]. Output: `token_ids` i64 [batch, 8, 8]. About five
minutes on one core.
"""

import pathlib
import sys

import torch
from torch.nn import functional as F

import common
import vq

EPOCHS, BATCH = 12, 128


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, _, val, _ = common.mosaics(folder, 10000, 1000)
    enc, dec = vq.encoder(), vq.decoder()
    codebook = vq.Codebook()
    steps = EPOCHS * (len(train) // BATCH)
    optimizer = torch.optim.AdamW([*enc.parameters(), *dec.parameters()], lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        error = 0.0
        for index in torch.randperm(len(train)).split(BATCH)[: len(train) // BATCH]:
            images = common.unit(train[index])
            latent, commit = codebook.quantize(enc(images))
            reconstruction = F.mse_loss(dec(latent), images)
            optimizer.zero_grad()
            (reconstruction + 0.25 * commit).backward()
            optimizer.step()
            schedule.step()
            error += reconstruction.item()
        print(f"epoch {epoch}: reconstruction {error / (len(train) // BATCH):.5f}", flush=True)
    common.finish_ids(vq.Ids(enc, codebook.codes), "mosaic_vq", val)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
