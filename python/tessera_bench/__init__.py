"""Tessera: a benchmark of the visual tokenizers of masked image modeling.

- `score(ids, labels)` computes every training-free metric of ids that you have.
- `evaluate(function, folder)` benchmarks a function on a folder of images, beside K-means.
- `run(suite, tokenizers={"mine": function})` adds functions to a suite file and runs it.
- `tokenizer(codebook_size=...)` declares what a function returns.
- `export(module, sample, "mine.onnx", scale="imagenet")` writes a module of PyTorch as a checked ONNX graph.

The programs `bench` and `tessera-bench` are the whole command line.
"""
from ._native import __version__
from ._export import export
from ._run import CellsFailed, Run, TesseraError, evaluate, run
from ._score import Metric, score
from ._tokenizer import Tokenizer, tokenizer

__all__ = [
    "CellsFailed",
    "Metric",
    "Run",
    "TesseraError",
    "Tokenizer",
    "__version__",
    "evaluate",
    "export",
    "run",
    "score",
    "tokenizer",
]
