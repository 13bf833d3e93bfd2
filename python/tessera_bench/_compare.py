"""Compares a module of PyTorch with itself and with its graph, on a sample and on images that were not traced."""
import math
import os
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import numpy as np

from ._driver import described, plain
from ._run import TesseraError

# Images of the sample that are changed, each in several ways.
CHANGED = 4
Call = Callable[["np.ndarray"], "np.ndarray"]


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def drawn(sample: "np.ndarray") -> "np.ndarray":
    """Returns images that are not in a sample, in its range of values: dark, bright, with other contrast, mirrored, and squares of random colours."""
    some = sample[:CHANGED]
    low, high = (bound(sample, (0, 2, 3), keepdims=True) for bound in (np.min, np.max))
    if not (low < high).any():
        raise ValueError(f"sample: found only the value {low.flat[0]}, expected different images, as the module sees them")
    draw = np.random.default_rng(0)
    side = sample.shape[3]
    square = max(side // 8, 1)
    colors = draw.random((len(some), 3, math.ceil(side / square), math.ceil(side / square)))
    squares = colors.repeat(square, 2).repeat(square, 3)[:, :, :side, :side]
    noise = draw.random(some.shape)
    all = [
        low + 0.2 * (some - low),
        high - 0.2 * (high - some),
        low + high - some,
        0.5 * (low + some)[:, :, :, ::-1],
        low + (high - low) * (0.9 * squares + 0.1 * noise),
    ]
    return np.concatenate(all).astype(np.float32)


def called(module: Any) -> Call:
    """Returns a function that calls a module on a batch, and says what is wrong with its output."""
    import torch

    def call(images: "np.ndarray") -> "np.ndarray":
        given = f"float32 {list(images.shape)}"
        try:
            with torch.no_grad():
                # A copy, which the module may change.
                out = module(torch.tensor(images))
        except Exception as error:
            remedy = "take any number of images (`images.shape[0]`, not that of the sample), and convert no image to another type than that of the weights, float32"
            raise ValueError(f"module: found {type(error).__name__} for {given}, expected ids or features; {remedy}: {first_line(error)}") from error
        if not isinstance(out, torch.Tensor):
            raise ValueError(f"module: found {described(out)} for {given}, expected one tensor; return the member that has the ids or features")
        if out.ndim < 2 or len(out) != len(images):
            raise ValueError(f"module: found the shape {list(out.shape)} for {given}, expected ids or features of each patch of each image: [{len(images)}, ..]")
        return plain(out, "module")

    return call


def alone(call: Call, images: "np.ndarray") -> "np.ndarray":
    return np.concatenate([call(image[None]) for image in images])


def batches(images: "np.ndarray", size: int) -> "Iterator[Tuple[str, List[np.ndarray]]]":
    """Returns batches of two sizes, as indices: the images in order, so first the sample, and all in another order."""
    order = np.arange(len(images))
    for name, each, order in ("a batch", size, order), ("another batch", size + 1, np.random.default_rng(0).permutation(order)):
        yield f"in {name} of {each}", np.split(order, range(each, len(order), each))


def in_batches(call: Call, images: "np.ndarray", size: int) -> "Iterator[Tuple[str, np.ndarray]]":
    """Returns the outputs of images in batches, in the order of the images."""
    for how, parts in batches(images, size):
        found = np.concatenate([call(images[part]) for part in parts])
        yield how, found[np.argsort(np.concatenate(parts))]


def difference(found: "np.ndarray", expected: "np.ndarray", count: int) -> float:
    """Returns how far outputs differ, for the first `count` images or for the others, whichever is more."""
    if found.shape != expected.shape:
        return math.inf
    if expected.dtype.kind in "iu":
        return max(float((found[part] != expected[part]).mean()) for part in (slice(count), slice(count, None)) if len(found[part]))
    worst = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    return float(worst) if np.isfinite(found).all() else math.inf


def told(worst: float) -> str:
    return f"by {100 * worst:.2f} %" if math.isfinite(worst) else "by its shape, or by values that are not finite"


def tolerance(expected: "np.ndarray", half: bool = False) -> float:
    """Ids of equal scores may differ; values differ by rounding."""
    return 0.01 if half or expected.dtype.kind in "iu" else 1e-3


def check_alone(call: Call, images: "np.ndarray", size: int, expected: "np.ndarray") -> None:
    """Refuses a module whose output for an image, `expected`, is another one in a batch."""
    for how, found in in_batches(call, images, size):
        worst = difference(found, expected, size)
        if not worst <= tolerance(expected):
            raise TesseraError(
                f"module: found other outputs {how} images than for each image alone ({told(worst)}), expected the same; "
                "compute each image alone: no sum, mean, largest or smallest value over the batch, no random numbers, nothing kept between calls",
                2,
            )


def check_training(call: Call, sample: "np.ndarray", expected: "np.ndarray") -> None:
    """Refuses a module in training mode whose output is not that in evaluation mode, `expected` for the sample."""
    try:
        same = difference(call(sample), expected[: len(sample)], len(sample)) <= tolerance(expected)
    except ValueError:
        same = False
    if not same:
        raise ValueError("module: found training mode, which changes its output (batch norm, dropout), expected evaluation mode; call module.eval() first")


def agreement(path: Path, images: "np.ndarray", size: int, expected: "np.ndarray", half: bool) -> str:
    """Compares the graph with the outputs of its module."""
    import onnxruntime

    def session(model: Any) -> Any:
        options = onnxruntime.SessionOptions()
        # Errors are raised.
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def call(graph: Any, images: "np.ndarray") -> "List[np.ndarray]":
        try:
            return graph.run(None, {"pixel_values": images})
        except Exception as error:
            remedy = "tracing keeps `len(images)` and loops over the sample's images; write `images.shape[0]`, and compute all images at once"
            raise TesseraError(f"{path.name}: the graph does not run on {list(images.shape)}; {remedy}: {first_line(error)}", 2) from error

    graph = session(os.fspath(path))
    one: Call = lambda images: call(graph, images)[0]
    worst = 0.0
    for how, found in ("alone", alone(one, images)), *in_batches(one, images, size):
        worst = max(worst, difference(found, expected, size))
        if not worst <= tolerance(expected, half):
            raise TesseraError(
                f"{path.name}: the graph differs from the module {how} ({told(worst)}); tracing keeps the numbers and branches of the sample, "
                "so the module must have no `float(..)`, `.item()`, `.numpy()`, `len(images)` or `if` of its images; nor may it need more than float16 if half=True",
                2,
            )
    check_scores(path, session, call, images)
    what = "of ids differ" if expected.dtype.kind in "iu" else "of the largest feature is the largest difference"
    return f"{100 * worst:.4f} % {what}, {size} images and {len(images) - size} that were not traced, alone and in batches"


def check_scores(path: Path, session: Any, call: Any, images: "np.ndarray") -> None:
    """Refuses a graph that takes the largest or smallest of numbers that are NaN, which ids do not show."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    names = {node.input[0] for node in model.graph.node if node.op_type in ("ArgMax", "ArgMin", "TopK")}
    names -= {value.name for value in (*model.graph.output, *model.graph.input, *model.graph.initializer)}
    if not names:
        return
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    # A file beside the graph, because a graph in memory finds no weights in other files.
    scored = path.with_name(f"scores-{path.name}")
    onnx.save_model(model, scored)
    graph = session(os.fspath(scored))
    scored.unlink()
    if any(np.isnan(scores).any() for image in images for scores in call(graph, image[None])[1:]):
        raise ValueError("module: found scores that are NaN, expected numbers before an argmax or argmin; correct its weights, or give a sample as it sees images")
