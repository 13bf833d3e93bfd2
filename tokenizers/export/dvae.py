"""Exports DALL-E's dVAE encoder as ONNX ids, for `kind: onnx-ids`: 8192 codes, stride 8; 112 px give a grid of 14 x 14.

  python dvae.py --checkpoint encoder.pkl --out dvae_8192.onnx

The published file is a pickled module. The script reads it without its package, which does not run on current PyTorch. The
encoder runs in f32 (the original code uses f16 on CUDA, where a few ids differ)."""

import sys
import types
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from exporter import arguments, export, load, state_of

CODES, HIDDEN, GROUPS, BLOCKS = 8192, 256, 4, 2


class Conv(nn.Module):
    """A convolution that preserves the size, with the published parameter names."""

    def __init__(self, before, after, side):
        super().__init__()
        self.w = nn.Parameter(torch.randn(after, before, side, side) / (before * side * side) ** 0.5)
        self.b = nn.Parameter(torch.zeros(after))
        self.padding = (side - 1) // 2

    def forward(self, x):
        return F.conv2d(x, self.w, self.b, padding=self.padding)


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        hidden = after // 4
        self.gain = 1 / (GROUPS * BLOCKS) ** 2
        self.id_path = Conv(before, after, 1) if before != after else nn.Identity()
        shapes = [(before, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, after, 1)]
        steps = []
        for at, shape in enumerate(shapes, 1):
            steps += [(f"relu_{at}", nn.ReLU()), (f"conv_{at}", Conv(*shape))]
        self.res_path = nn.Sequential(OrderedDict(steps))

    def forward(self, x):
        return self.id_path(x) + self.gain * self.res_path(x)


class Encoder(nn.Module):
    """Ids [batch, rows, cols] of pixels scaled to 0.1..0.9."""

    def __init__(self):
        super().__init__()
        groups, before = [("input", Conv(3, HIDDEN, 7))], HIDDEN
        for group in range(1, GROUPS + 1):
            after, steps = HIDDEN * 2 ** (group - 1), []
            for block in range(1, BLOCKS + 1):
                steps.append((f"block_{block}", Block(before, after)))
                before = after
            if group < GROUPS:
                steps.append(("pool", nn.MaxPool2d(2)))
            groups.append((f"group_{group}", nn.Sequential(OrderedDict(steps))))
        output = nn.Sequential(OrderedDict([("relu", nn.ReLU()), ("conv", Conv(before, CODES, 1))]))
        self.blocks = nn.Sequential(OrderedDict([*groups, ("output", output)]))

    def scores(self, x):
        """The logits [batch, codes, rows, cols]."""
        return self.blocks(x)

    def forward(self, x):
        return self.scores(x).argmax(1)


def pretend_package():
    """Defines empty classes with the names that the published pickle refers to."""
    for module, names in {"dall_e": [], "dall_e.encoder": ["Encoder", "EncoderBlock"], "dall_e.utils": ["Conv2d"]}.items():
        sys.modules[module] = types.ModuleType(module)
        for name in names:
            setattr(sys.modules[module], name, type(name, (nn.Module,), {"__module__": module}))


def main():
    parser = arguments(__doc__, "DALL-E repository, encoder.pkl", "modified MIT (DALL-E)")
    parser.set_defaults(side=112)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Encoder()
    if not args.random:
        pretend_package()
        load(model, state_of(args.checkpoint), beside=())
    grid = args.side // 8
    about = {"kind": "onnx-ids", "grid": f"[{grid}, {grid}]", "codebook_size": CODES, "saw_labels": False}
    export(model, args, "dvae", "ids", about)


if __name__ == "__main__":
    main()
