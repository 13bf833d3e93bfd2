"""From a PyTorch module to an ONNX graph with its manifest."""
import copy
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from ._compare import agreement, alone, called, check_alone, check_training, drawn, first_line
from ._run import TesseraError, bench, literal, without
from ._score import whole_number

OPSET = 17
# Pixels of a patch of the suite that opens a graph.
PATCH = 8


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

    The graph has a dynamic batch, 64-bit ids, and float32 input. It is that of the module in evaluation mode, with weights in float32. The module is
    called on each image alone and in batches of two sizes, and its graph, in ONNX Runtime, too: on `sample` and on images that were not traced
    (darker, brighter and mirrored ones, and squares). All must agree. `bench validate` opens the graph, unless its grid is not square. Needs
    torch, onnx and onnxruntime.

    Args:
        module: a `torch.nn.Module`. It maps `[batch, 3, side, side]` to ids, integers `[batch, patches]` of a square grid or
            `[batch, rows, columns]`, or to features, `[batch, dim, rows, columns]` or `[batch, tokens, dim]`. If training mode changes its
            output (batch norm, dropout), call `module.eval()` first.
        sample: float32 `[batch, 3, side, side]`, at least two images as the module sees them, so scaled by `scale`.
        path: the `.onnx` file to write. The manifest is the `.yaml` file beside it. Of a module above 2 GiB, weights are in
            a third file, `.onnx.data`. Files that exist are replaced if the graph is right.
        scale: scaling of the pixels, as in a suite: `zero-one`, `imagenet`, `minus-one-one`, `dvae`, or `{"custom": {"mean": [..], "std": [..]}}`.
        codebook_size: number of different ids; required for ids.
        half: computes in float16, which makes the file half as large. The graph is compared with the module in float32.
        opset: version of the ONNX operators.
        saw_labels: whether labels of any dataset were used in training.
        source, licence: origin of the weights, for the record of a run.

    Returns:
        The manifest. `agreement` says how the graph agrees with the module.

    Raises:
        ValueError: if the module fails, is in training mode, or its output or the sample is of another type, shape or range.
        TesseraError: if the output of an image depends on the others, the graph differs from the module, or Tessera refuses it.
    """
    try:
        import onnx  # noqa: F401  torch needs it
        import onnxruntime  # noqa: F401
        import torch
    except ImportError as error:
        raise TesseraError(f"{error}; pip install torch onnx onnxruntime", 2) from None
    path, sample = Path(path), torch.as_tensor(sample, dtype=torch.float32, device="cpu").detach().clone()
    if path.suffix != ".onnx" or sample.ndim != 4 or len(sample) < 2 or sample.shape[1] != 3 or sample.shape[2] != sample.shape[3]:
        raise ValueError(f"found {path} and a sample of the shape {list(sample.shape)}, expected a path that ends in .onnx, and [2 or more, 3, side, side]")
    if not sample.isfinite().all():
        raise ValueError("sample: found values that are NaN or infinite, expected images as the module sees them")
    codebook_size = None if codebook_size is None else whole_number("codebook_size", codebook_size)

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(module)

        def forward(self, images: Any) -> Any:
            out = self.module(images.half() if half else images)
            return out.float() if out.is_floating_point() else out.long()

    graph = Graph().cpu().float()
    images = np.concatenate([sample.numpy(), drawn(sample.numpy())])
    given = copy.deepcopy(graph.module) if any(part.training for part in getattr(graph.module, "modules", list)()) else None
    call = called(graph.eval().module)
    expected = alone(call, images)
    about = _about(expected, codebook_size)
    check_alone(call, images, len(sample), expected)
    if given is not None:
        check_training(called(given), images[: len(sample)], expected)
    name = "features" if codebook_size is None else "token_ids"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, path.name)
        try:
            with torch.no_grad():
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
        except Exception as error:
            raise TesseraError(f"{path.name}: torch.onnx.export does not write this module with opset={opset}: {first_line(error)}", 2) from error
        _gather(file)
        manifest = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "source": source,
            "licence": licence,
            "weights": type(module).__name__ + (", float16" if half else ""),
            "input": {"side": sample.shape[3], "scale": scale},
            **about,
            "saw_labels": saw_labels,
            "agreement": agreement(file, images, len(sample), expected, half),
        }
        # JSON is YAML.
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in manifest.items())
        file.with_suffix(".yaml").write_text(text)
        _validate(file, manifest, expected.shape[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        for one in Path(folder).iterdir():
            shutil.copyfile(one, path.with_name(one.name))
    return manifest


def _gather(file: Path) -> None:
    """Puts the weights that torch has written beside a graph, because they have more than 2 GiB, into one file."""
    import onnx

    if len(os.listdir(file.parent)) > 1:
        model = onnx.load(file)
        for one in file.parent.iterdir():
            one.unlink()
        onnx.save_model(model, file, save_as_external_data=True, location=f"{file.name}.data")


def _about(output: "np.ndarray", codebook_size: Optional[int]) -> Dict[str, Any]:
    """Returns the manifest's description of an output."""
    shape = f"[batch, {', '.join(map(str, output.shape[1:]))}]"
    if output.dtype.kind in "iu":
        grid = list(output.shape[1:]) if output.ndim == 3 else [math.isqrt(output.shape[1])] * 2
        if output.ndim not in (2, 3) or math.prod(grid) != math.prod(output.shape[1:]):
            raise ValueError(f"ids: found the shape {shape}, expected [batch, patches] of a square grid, or [batch, rows, columns]")
        if codebook_size is None or output.min() < 0 or output.max() >= codebook_size:
            raise ValueError(f"codebook_size: found {codebook_size} for ids from {output.min()} to {output.max()}, expected more than the largest id")
        return {"kind": "onnx-ids", "grid": grid, "codebook_size": codebook_size}
    if codebook_size is not None:
        raise ValueError(f"ids: found the type {output.dtype}, expected integers, because codebook_size is given; end the module in an argmax, or in .long()")
    if output.dtype.kind != "f":
        raise ValueError(f"features: found the type {output.dtype}, expected floating-point numbers; for ids end the module in .long(), and give codebook_size")
    if not np.isfinite(output).all():
        raise ValueError("features: found values that are NaN or infinite, expected numbers; correct the weights, or give a sample as the module sees images")
    if output.ndim == 4:
        return {"kind": "onnx", "grid": list(output.shape[2:]), "dim": output.shape[1]}
    if output.ndim == 3:
        return {"kind": "onnx", "dim": output.shape[2]}
    raise ValueError(f"features: found the shape {shape}, expected [batch, dim, rows, columns] or [batch, tokens, dim]")


def _validate(file: Path, manifest: Mapping[str, Any], tokens: int) -> None:
    """Lets Tessera check the input, and open the graph unless its grid is not square."""
    about: Dict[str, Any] = {"model": os.fspath(file.absolute())}
    grid = manifest.get("grid")
    if grid is None:
        # Patches may follow other tokens, as that of a class. Any square will do to open the graph.
        grid = [math.isqrt(tokens)] * 2
        about["drop_tokens"] = tokens - grid[0] ** 2
    if grid[0] != grid[1]:
        # A suite's grid is square. This row has only the same input.
        grid = [1, 1]
        row = {"kind": "command", "with": {"command": [sys.executable], "codebook_size": 1, "input": manifest["input"]}}
    elif manifest["kind"] == "onnx-ids":
        row = {"kind": "onnx-ids", "with": about}
    else:
        row = {"kind": "continuous", "with": {"features": {"kind": "onnx", **about}}}
    suite = {
        "dataset": {"kind": "mosaics", "seed": 0, "train": 20, "val": 10, "size": PATCH * grid[0]},
        "image_size": PATCH * grid[0],
        "patch_size": PATCH,
        "tokenizers": [{"name": "graph", **row}],
    }
    with tempfile.TemporaryDirectory() as folder:
        suite_file = Path(folder, "graph.yaml")
        suite_file.write_text(literal(json.dumps(suite)))
        status, said, error = bench(["validate", os.fspath(suite_file)], dict(os.environ))
    if status != 0:
        # The files are temporary.
        message = (error or said).replace(f"{file.with_suffix('.yaml')}: input.", "")
        raise TesseraError(without(os.fspath(suite_file), message).replace(f"{file.parent}{os.sep}", ""), status)
