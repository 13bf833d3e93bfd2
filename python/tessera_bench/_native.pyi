"""The native half of the package."""
from os import PathLike
from typing import List, Optional, Tuple

__version__: str
MOST_CODES: int
SHARP_T: float

def bench(program: "PathLike[str] | str", again: List[str], words: List[str]) -> int: ...
def score(
    ids: bytes, labels: bytes, grid: Tuple[int, int], sizes: Tuple[int, int], sharp_t: float
) -> List[Tuple[str, Optional[float], Optional[float], Optional[float], Optional[float]]]: ...
def read(folder: "PathLike[str] | str") -> Tuple[str, str, List[str]]: ...
