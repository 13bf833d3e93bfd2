"""What a function declares of itself."""
import functools
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence


class Tokenizer:
    """A function with the declaration `tessera`: fields of its row in a suite.

    Call it as the function. `kind: python` compares the declaration with the fields of the row.
    """

    def __init__(self, function: Callable[[Any], Any], fields: Dict[str, Any]) -> None:
        self._function = function
        self.tessera = fields
        functools.update_wrapper(self, function, updated=())

    def __call__(self, images: Any) -> Any:
        return self._function(images)

    def __get__(self, instance: Any, owner: Any = None) -> "Tokenizer":
        """Binds a method."""
        return self if instance is None else Tokenizer(self._function.__get__(instance, owner), self.tessera)


def listed(groups: Optional[Sequence[int]]) -> Optional[List[int]]:
    """Returns the sizes of groups as a list, also from a NumPy array."""
    return None if groups is None else [getattr(size, "item", lambda: size)() for size in groups]


def tokenizer(
    *,
    codebook_size: Optional[int] = None,
    groups: Optional[Sequence[int]] = None,
    dim: Optional[int] = None,
    version: int = 1,
    input: Optional[Mapping[str, Any]] = None,
    saw_labels: bool = False,
) -> Callable[[Callable[[Any], Any]], Tokenizer]:
    """Declares what a function returns. Use it as a decorator, or as `tokenizer(codebook_size=512)(function)`.

    The function gets float32 `[batch, 3, height, width]` (NumPy) and returns ids, integers `[batch, patches]` or
    `[batch, rows, columns]`, or values `[batch, patches, dim]`, as NumPy arrays, torch tensors or nested lists. The targets of an image
    must not depend on the other images of a batch.

    Args:
        codebook_size: number of different ids. Give either this, `groups` or `dim`.
        groups: number of codes of each of several codebooks; arrays of ids then have one more dimension at the end.
        dim: numbers per patch.
        version: increase it when the targets change. The targets of 16 fixed images are compared too, but may miss a small change.
        input: size and scaling of the images, as `input:` in a suite: `{"side": 112, "scale": "imagenet"}`. By default the suite's
            image size and values from 0 to 1.
        saw_labels: whether labels of any dataset were used to make the function. Its row is then marked and left out of the ranking.

    Raises:
        ValueError: if not exactly one of `codebook_size`, `groups` and `dim` is given.
    """
    targets = {"codebook_size": codebook_size, "groups": listed(groups), "dim": dim}
    given = {field: value for field, value in targets.items() if value is not None}
    if len(given) != 1:
        raise ValueError("expected either codebook_size (the number of different ids), groups (of each codebook) or dim (numbers per patch)")
    fields: Dict[str, Any] = {"version": version, **given}
    if input is not None:
        fields["input"] = dict(input)
    if saw_labels:
        # A row need not state the default.
        fields["saw_labels"] = True
    return lambda function: Tokenizer(function, fields)
