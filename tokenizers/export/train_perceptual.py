"""Trains embedded/mosaic_perceptual.onnx, the counterpart of PeCo: the autoencoder of vq.py with a perceptual loss.

    python tokenizers/export/train_perceptual.py DATA_DIR

As in Dong et al. (2023), the loss adds to the pixel error the squared distance between normalised features of images and
reconstructions at several layers of a self-supervised ViT, L_percep = sum over layers l of |f_l(x) - f_l(x')|^2 / (C_l H_l W_l),
where f_l is normalised along its channels. They use layers 3, 6, 9, 12 of a ViT-B of MoCo v3; this script uses all three blocks
of the encoder in embedded/mosaic_ssl.onnx. No labels are used. Input: RGB in [0, 1]. Output: `token_ids` i64
[batch, 8, 8]. About five minutes on one core.
"""

import pathlib
import sys

import numpy as np
import onnx
import torch
from torch.nn import functional as F

import common
import vq
from vit_mosaic import MEAN, STD, Features, ViT, normalized

EPOCHS, BATCH, LR = 12, 128, 2e-3
# Weight of the perceptual loss. Normalised features differ by at most 4 / C, pixels by about 0.1.
WEIGHT = 1.0


def self_supervised() -> ViT:
    """The encoder of mosaic_ssl.onnx. The graph stores a linear layer's weights transposed, at the MatMul node named after the layer."""
    graph = onnx.load(common.EMBEDDED / "mosaic_ssl.onnx").graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {name.removeprefix("vit."): value for name, value in tensors.items() if name.startswith("vit.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = node.name.removeprefix("/vit/blocks/").removesuffix("/MatMul").replace("/", ".")
            state[f"{layer}.weight"] = tensors[node.input[1]].T
    vit = ViT()
    vit.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return vit.eval().requires_grad_(False)


def layers(vit: ViT, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of every block [batch, 64, 48] for RGB in [0, 1], with length 1 in each patch."""
    x = (vit.patch((images - MEAN) / STD) + vit.pos).flatten(2).transpose(1, 2)
    out = []
    for block in vit.blocks:
        x = block(x)
        out.append(F.normalize(x, dim=-1))
    return out


def perceptual(vit: ViT, drawn: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        wanted = layers(vit, images)
    return sum(F.mse_loss(d, w) for d, w in zip(layers(vit, drawn), wanted))


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train, _, val, _ = common.mosaics(folder, 10000, 1000)
    vit = self_supervised()
    common.check(Features(vit), "mosaic_ssl", normalized(val[:64]))
    enc, dec = vq.encoder(), vq.decoder()
    codebook = vq.Codebook()
    per_epoch = len(train) // BATCH
    optimizer = torch.optim.AdamW([*enc.parameters(), *dec.parameters()], lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * per_epoch)
    for epoch in range(EPOCHS):
        sums = torch.zeros(2)
        for index in torch.randperm(len(train)).split(BATCH)[:per_epoch]:
            images = common.unit(train[index])
            latent, commit = codebook.quantize(enc(images))
            drawn = dec(latent)
            reconstruction, percept = F.mse_loss(drawn, images), perceptual(vit, drawn, images)
            optimizer.zero_grad()
            (reconstruction + WEIGHT * percept + 0.25 * commit).backward()
            optimizer.step()
            schedule.step()
            sums += torch.stack([reconstruction, percept]).detach()
        error, percept = (sums / per_epoch).tolist()
        print(f"epoch {epoch}: reconstruction {error:.5f}, perceptual {percept:.5f}", flush=True)
    common.finish_ids(vq.Ids(enc, codebook.codes), "mosaic_perceptual", val)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
