"""Training-free metrics of ids."""
import math
import operator
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

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
    groups: Optional[Sequence[int]] = None,
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
        groups: number of codes of each of several codebooks. `ids` then has one more dimension at the end, and the metrics are those of the
            joint code.
        num_classes: number of classes. Default: the largest label plus 1.
        grid: rows and columns of patches, if `ids` is `[images, patches]` and the grid is not square.
        sharp_t: temperature of `tcas_sharp`.

    Returns:
        Metrics by name. `bench list metrics` describes them.

    Raises:
        ValueError: for ids or labels of another type, shape or range.
    """
    ids, labels = _whole("ids", ids), _whole("labels", labels)
    if groups is not None:
        groups = whole_numbers("groups", groups, "the number of codes of each group")
        if codebook_size is not None:
            raise ValueError("codebook_size: found it beside groups, expected one of the two")
        ids, codebook_size = _joint(ids, groups)
    if ids.ndim not in (2, 3):
        raise ValueError(f"ids: found the shape {list(ids.shape)}, expected [images, patches] or [images, rows, columns]")
    if labels.shape != ids.shape[:1]:
        raise ValueError(f"labels: found the shape {list(labels.shape)}, expected [{len(ids)}], a label for each image")
    if ids.size == 0:
        raise ValueError("ids: found no images or no patches, expected at least one")
    if not 0 < sharp_t <= 1000:
        raise ValueError(f"sharp_t: found {sharp_t}, expected a number above 0 and at most 1000")
    sizes = _size("codebook_size", codebook_size, ids), _size("num_classes", num_classes, labels)
    found = _native.score(ids.tobytes(), labels.tobytes(), _grid(ids, grid), sizes, float(sharp_t))
    return {name: Metric(*numbers) for name, *numbers in found}


def whole_numbers(name: str, values: Any, what: str) -> Tuple[int, ...]:
    """Returns integers of Python, NumPy or torch, each at least 1."""
    try:
        found = tuple(map(operator.index, values))
    except TypeError:
        found = ()
    if not found or min(found) < 1:
        raise ValueError(f"{name}: found {values!r}, expected {what}: integers of at least 1")
    return found


def whole_number(name: str, value: Any) -> int:
    """Returns an integer of Python, NumPy or torch, at least 1."""
    found = operator.index(value) if hasattr(value, "__index__") else 0
    if found < 1:
        raise ValueError(f"{name}: found {value!r}, expected an integer of at least 1")
    return found


def _whole(name: str, values: Any) -> "np.ndarray":
    array = plain(values, name)
    if array.dtype.kind != "i":
        raise ValueError(f"{name}: found numbers of type {array.dtype}, expected integers")
    if array.size and not 0 <= array.min() <= array.max() < 2**32:
        raise ValueError(f"{name}: found {array.min()} to {array.max()}, expected 0 to {2**32 - 1}")
    return array.astype(np.uint32)


def _joint(codes: "np.ndarray", groups: Sequence[int]) -> "Tuple[np.ndarray, int]":
    """Returns the joint codes, the first group's digit first, and their number."""
    count = math.prod(groups)
    if count > _native.MOST_CODES:
        raise ValueError(f"groups: found {count} joint codes, expected at most {_native.MOST_CODES}; score each group alone")
    if codes.ndim < 3 or codes.shape[-1] != len(groups) or (codes >= np.asarray(groups)).any():
        raise ValueError(f"ids: found the shape {list(codes.shape)}, expected a code below its size of each of the {len(groups)} groups at the end")
    digits = tuple(np.moveaxis(codes.astype(np.int64), -1, 0))
    return np.ravel_multi_index(digits, tuple(groups)).astype(np.uint32), count


def _size(name: str, given: Optional[int], values: "np.ndarray") -> int:
    least = int(values.max()) + 1
    size = least if given is None else whole_number(name, given)
    if size < least:
        raise ValueError(f"{name}: found {given}, but the largest value is {least - 1}, so expected at least {least}")
    if size > _native.MOST_CODES:
        raise ValueError(f"{name}: found {size}, expected at most {_native.MOST_CODES}; give ids and labels the numbers 0, 1, and so on")
    return size


def _grid(ids: "np.ndarray", given: Optional[Tuple[int, int]]) -> Tuple[int, int]:
    patches = math.prod(ids.shape[1:])
    own = ids.shape[1:] if ids.ndim == 3 else (math.isqrt(patches),) * 2
    found = tuple(own) if given is None else whole_numbers("grid", given, "grid=(rows, columns)")
    if math.prod(found) != patches or len(found) != 2 or (ids.ndim == 3 and found != own):
        raise ValueError(f"grid: found {found} for ids of the shape {list(ids.shape)}; give rows and columns of patches, grid=(rows, columns)")
    return found
