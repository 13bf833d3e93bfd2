"""From a PyTorch module to an ONNX graph with its manifest."""
import copy
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from ._run import TesseraError, bench

OPSET = 17


def export(
    module: Any,
    sample: Any,
    path: "Union[str, os.PathLike[str]]",
    *,
    scale: Union[str, Mapping[str, Any]],
    codebook_size: Optional[int] = None,
    half: bool = False,
    opset: int = OPSET,
    saw_labels: bool = False,
    source: str = "",
    licence: str = "",
) -> Dict[str, Any]:
    """Exports a module as a graph for `kind: onnx-ids` or `features: {kind: onnx}`, with a manifest, and checks both.

    The graph has a dynamic batch, 64-bit ids, and float32 input. It is compared with the module on `sample`, in a batch and image by image, in
    ONNX Runtime, and opened by `bench validate` if its grid is square. Needs torch, onnx and onnxruntime.

    Args:
        module: a `torch.nn.Module`. It maps `[batch, 3, side, side]` to ids, integers `[batch, patches]` or `[batch, rows, columns]`, or to
            features, `[batch, dim, rows, columns]` or `[batch, tokens, dim]`.
        sample: float32 `[batch, 3, side, side]`, at least two images as the module sees them, so scaled by `scale`.
        path: the `.onnx` file to write. The manifest is the `.yaml` file beside it. Files that exist are replaced if the graph is right.
        scale: scaling of the pixels, as in a suite: `zero-one`, `imagenet`, `minus-one-one`, `dvae`, or `{"custom": {"mean": [..], "std": [..]}}`.
        codebook_size: number of different ids; required for ids.
        half: computes in float16, which makes the file half as large. The graph is compared with the module in float32.
        opset: version of the ONNX operators.
        saw_labels: whether labels of any dataset were used in training.
        source, licence: origin of the weights, for the record of a run.

    Returns:
        The manifest. `agreement` says how the graph agrees with the module.

    Raises:
        ValueError: if the module's output is of another type or shape.
        TesseraError: if the graph differs from the module, or Tessera refuses it.
    """
    try:
        import onnx  # noqa: F401  torch needs it
        import onnxruntime  # noqa: F401
        import torch
    except ImportError as error:
        raise TesseraError(f"{error}; pip install torch onnx onnxruntime", 2) from None
    path, sample = Path(path), torch.as_tensor(sample, dtype=torch.float32, device="cpu")
    if path.suffix != ".onnx" or sample.ndim != 4 or len(sample) < 2 or sample.shape[1] != 3 or sample.shape[2] != sample.shape[3]:
        raise ValueError(f"found {path} and a sample of the shape {list(sample.shape)}, expected a path that ends in .onnx, and [2 or more, 3, side, side]")

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(module)

        def forward(self, images: Any) -> Any:
            out = self.module(images.half() if half else images)
            return out.float() if out.is_floating_point() else out.long()

    graph = Graph().eval().cpu().float()
    name = "token_ids" if codebook_size else "features"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        with torch.no_grad():
            expected = graph.module(sample).numpy()
            about = _about(expected, codebook_size)
            torch.onnx.export(
                graph.half() if half else graph,
                (sample,),
                os.fspath(file),
                input_names=["pixel_values"],
                output_names=[name],
                dynamic_axes={"pixel_values": {0: "batch"}, name: {0: "batch"}},
                opset_version=opset,
                dynamo=False,
            )
        manifest = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "source": source,
            "licence": licence,
            "weights": type(module).__name__ + (", float16" if half else ""),
            "input": {"side": sample.shape[3], "scale": scale},
            **about,
            "saw_labels": saw_labels,
            "agreement": _agreement(file, sample.numpy(), expected, half),
        }
        # JSON is YAML.
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in manifest.items())
        file.with_suffix(".yaml").write_text(text)
        _validate(file, manifest)
        path.parent.mkdir(parents=True, exist_ok=True)
        for one in (file, file.with_suffix(".yaml")):
            shutil.copyfile(one, path.with_suffix(one.suffix))
    return manifest


def _about(output: "np.ndarray", codebook_size: Optional[int]) -> Dict[str, Any]:
    """Returns the manifest's description of an output."""
    shape = list(output.shape)
    if output.dtype.kind == "i":
        if codebook_size is None or output.min() < 0 or output.max() >= codebook_size:
            raise ValueError(f"codebook_size: found {codebook_size} for ids from {output.min()} to {output.max()}, expected more than the largest id")
        side = round(shape[1] ** 0.5)
        grid = shape[1:] if output.ndim == 3 else [side, shape[1] // side]
        if output.ndim not in (2, 3) or np.prod(grid) != np.prod(shape[1:]):
            raise ValueError(f"ids: found the shape {shape}, expected [batch, patches] of a square grid, or [batch, rows, columns]")
        return {"kind": "onnx-ids", "grid": grid, "codebook_size": codebook_size}
    if codebook_size is not None:
        raise ValueError(f"the output has the type {output.dtype}, expected integers, because codebook_size is given; end the module in an argmax")
    if output.ndim == 4:
        return {"kind": "onnx", "grid": shape[2:], "dim": shape[1]}
    if output.ndim == 3:
        return {"kind": "onnx", "dim": shape[2]}
    raise ValueError(f"features: found the shape {shape}, expected [batch, dim, rows, columns] or [batch, tokens, dim]")


def _agreement(path: Path, sample: "np.ndarray", expected: "np.ndarray", half: bool) -> str:
    """Compares the graph with the module, in a batch and alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    # Sums over a batch show beside white images.
    beside = np.full_like(sample, sample.max())
    calls = {"in a batch": [np.concatenate([sample, beside])], "alone": [image[None] for image in sample]}
    worst = 0.0
    for how, batches in calls.items():
        found = np.concatenate([session.run(None, {"pixel_values": batch})[0] for batch in batches])[: len(sample)]
        if found.shape != expected.shape:
            raise TesseraError(f"{path.name}: the graph gives the shape {list(found.shape)} {how}, the module {list(expected.shape)}", 2)
        if expected.dtype.kind == "i":
            worst = max(worst, float((found != expected).mean()))
        else:
            worst = float(np.maximum(worst, np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)))
        # Ids of equal scores may differ; values differ by rounding.
        most = 0.01 if half or expected.dtype.kind == "i" else 1e-3
        if not worst <= most or not np.isfinite(found).all():
            raise TesseraError(f"{path.name}: the graph differs from the module {how} (by {100 * worst:.2f} %); it must not use random numbers or sums over the batch, give values that are not finite, or need more than float16 if half=True", 2)
    what = "of ids differ" if expected.dtype.kind == "i" else "of the largest feature is the largest difference"
    return f"{100 * worst:.4f} % {what}, {len(sample)} images"


def _validate(path: Path, manifest: Mapping[str, Any]) -> None:
    """Lets Tessera check the input, and open the graph if its grid is square."""
    side, grid = manifest["input"]["side"], manifest.get("grid", [0, 1])
    model = {"model": os.fspath(path.absolute())}
    if grid[0] != grid[1] or side % grid[0]:
        # A suite's grid is square. This row has only the same input.
        grid = [1, 1]
        row = {"kind": "command", "with": {"command": [sys.executable], "codebook_size": 1, "input": manifest["input"]}}
    elif manifest["kind"] == "onnx-ids":
        row = {"kind": "onnx-ids", "with": model}
    else:
        row = {"kind": "continuous", "with": {"features": {"kind": "onnx", **model}}}
    suite = {
        "dataset": {"kind": "mosaics", "seed": 0, "train": 20, "val": 10, "size": side},
        "image_size": side,
        "patch_size": side // grid[0],
        "tokenizers": [{"name": "graph", **row}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "graph.yaml")
        file.write_text(json.dumps(suite))
        status, said, error = bench(["validate", os.fspath(file)], dict(os.environ))
    if status != 0:
        raise TesseraError(error or said, status)
