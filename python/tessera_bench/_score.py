"""Training-free metrics of ids."""
import math
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from . import _native
from ._driver import plain


class Metric(NamedTuple):
    """A metric. Undefined numbers are None."""

    value: Optional[float]
    """Value on all images."""
    se: Optional[float]
    """Standard error: the standard deviation over bootstrap draws of images."""
    null: Optional[float]
    """Chance level: the mean with permuted labels, or for `mi_position`, `mi_left` and `mi_upper` with patches in random order."""
    null_se: Optional[float]
    """Standard error of `null`."""


def score(
    ids: Any,
    labels: Any,
    *,
    codebook_size: Optional[int] = None,
    num_classes: Optional[int] = None,
    grid: Optional[Tuple[int, int]] = None,
    sharp_t: float = _native.SHARP_T,
) -> Dict[str, Metric]:
    """Computes every training-free metric: TCAS and its variants, PNMI, NMI, purities, perplexity, and others.

    The numbers are those of `bench score` for the same images in the same order.

    Args:
        ids: integers `[images, patches]` or `[images, rows, columns]`, a NumPy array, a torch tensor or nested lists.
        labels: integers `[images]`, the class of each image.
        codebook_size: number of different ids that the tokenizer can give. Default: the largest id plus 1.
        num_classes: number of classes. Default: the largest label plus 1.
        grid: rows and columns of patches, if `ids` is `[images, patches]` and the grid is not square.
        sharp_t: temperature of `tcas_sharp`.

    Returns:
        Metrics by name. `bench list metrics` describes them.

    Raises:
        ValueError: for ids or labels of another type, shape or range.
    """
    ids, labels = _whole("ids", ids), _whole("labels", labels)
    if ids.ndim not in (2, 3):
        raise ValueError(f"ids: found the shape {list(ids.shape)}, expected [images, patches] or [images, rows, columns]")
    if labels.shape != ids.shape[:1]:
        raise ValueError(f"labels: found the shape {list(labels.shape)}, expected [{len(ids)}], a label for each image")
    if ids.size == 0:
        raise ValueError("ids: found no images or no patches, expected at least one")
    sizes = _size("codebook_size", codebook_size, ids), _size("num_classes", num_classes, labels)
    found = _native.score(ids.tobytes(), labels.tobytes(), _grid(ids, grid), sizes, float(sharp_t))
    return {name: Metric(*numbers) for name, *numbers in found}


def _whole(name: str, values: Any) -> "np.ndarray":
    array = plain(values)
    if array.dtype.kind != "i":
        raise ValueError(f"{name}: found numbers of type {array.dtype}, expected integers")
    if array.size and not 0 <= array.min() <= array.max() < 2**32:
        raise ValueError(f"{name}: found {array.min()} to {array.max()}, expected 0 to {2**32 - 1}")
    return array.astype(np.uint32)


def _size(name: str, given: Optional[int], values: "np.ndarray") -> int:
    least = int(values.max()) + 1
    if given is not None and given < least:
        raise ValueError(f"{name}: found {given}, but the largest value is {least - 1}, so expected at least {least}")
    return least if given is None else given


def _grid(ids: "np.ndarray", given: Optional[Tuple[int, int]]) -> Tuple[int, int]:
    patches = math.prod(ids.shape[1:])
    own = ids.shape[1:] if ids.ndim == 3 else (math.isqrt(patches),) * 2
    found = tuple(given or own)
    if math.prod(found) != patches or len(found) != 2 or (ids.ndim == 3 and found != own):
        raise ValueError(f"grid: found {found} for ids of the shape {list(ids.shape)}; give rows and columns of patches, grid=(rows, columns)")
    return int(found[0]), int(found[1])
