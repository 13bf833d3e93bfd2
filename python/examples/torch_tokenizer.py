"""A function of PyTorch as a tokenizer: its TCAS and linear probe beside K-means of pixels. `python torch_tokenizer.py FOLDER`"""
import sys

import torch
from tessera_bench import evaluate, tokenizer

torch.manual_seed(0)
layer = torch.nn.Conv2d(3, 64, 8, stride=8)


@tokenizer(codebook_size=64)
@torch.no_grad()
def projection(images):  # float32 [batch, 3, 64, 64]
    return layer(torch.from_numpy(images)).argmax(1)  # [batch, 8, 8]


print(evaluate(projection, sys.argv[1], image_size=64, patch_size=8, kmeans=["pixel"], k=[50], train=True))
