"""Runs suites with functions of this process as tokenizers."""
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from . import _native
from .__main__ import PARENT
from ._serve import Serving
from ._tokenizer import listed, tokenizer

logger = logging.getLogger("tessera_bench")
# Unlike `python -m`, this finds no module in the working folder.
_PROGRAM = "import sys; del sys.path[0]; from tessera_bench.__main__ import main; sys.exit(main())"


class TesseraError(RuntimeError):
    """Tessera refused: the message says what was found, what is expected, and what helps. `status` is the exit status of `bench`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CellsFailed(TesseraError):
    """Rows failed; the others are in `run`."""

    def __init__(self, message: str, status: int, run: "Run") -> None:
        super().__init__(message, status)
        self.run = run


class Run:
    """The results in a run folder, as they are when this object is made.

    Attributes:
        folder: the run folder, absolute.
        summary: what `bench` printed, a table.

    Raises:
        ValueError: if it is no run folder.
    """

    def __init__(self, folder: "Union[str, os.PathLike[str]]", summary: str = "") -> None:
        self.folder = Path(folder).absolute()
        self.summary = summary
        results, metrics, cells = _native.read(self.folder)
        self._results, self._metrics = json.loads(results), json.loads(metrics)
        self._cells = list(map(Path, cells))

    @property
    def results(self) -> Any:
        """A row per tokenizer and seed (`bench list columns` describes the columns): a pandas DataFrame, or a list of dicts without pandas."""
        return _table(self._results)

    @property
    def metrics(self) -> Any:
        """A row per tokenizer, metric and fit, with standard errors and chance levels, as `results`."""
        return _table(self._metrics)

    @property
    def page(self) -> Path:
        """The page with all tables and figures."""
        return self.folder / "report.html"

    @property
    def cells(self) -> Dict[Tuple[str, int], Path]:
        """The folder of each tokenizer and seed, with `encoder.safetensors`, predictions and losses."""
        names = [(record["tokenizer"], record["seed"]) for record in self._results]
        return dict(zip(names, self._cells))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __str__(self) -> str:
        return self.summary or repr(self)


def run(
    suite: "Union[str, os.PathLike[str]]",
    tokenizers: Optional[Mapping[str, Callable[[Any], Any]]] = None,
    set: Optional[Mapping[str, Any]] = None,
    *,
    train: bool = True,
    only: Union[str, Sequence[str]] = (),
    out: "Union[None, str, os.PathLike[str]]" = None,
    store: "Union[None, str, os.PathLike[str]]" = None,
    threads: Optional[int] = None,
    device: str = "auto",
    batch: int = 16,
    timeout: int = 300,
) -> Run:
    """Runs a suite as `bench run` does, with functions of this process as further rows.

    The same call resumes after an interruption. Ctrl-C keeps the state and raises KeyboardInterrupt. What `bench` says goes to the logger
    `tessera_bench`, or to standard error if logging is not configured.

    Args:
        suite: the suite file.
        tokenizers: functions by the name of their row. Each needs a declaration: `@tokenizer(codebook_size=...)`. A function is called in
            another thread of this process, one call at a time; `torch.no_grad()` and `torch.autocast()` of the caller do not reach it.
        set: fields of the suite by path, as `--set`: `{"pretrain.epochs": 5}`.
        train: if False, computes only the training-free metrics, as `bench score`.
        only: name or pattern of the rows to run, or several.
        out: the run folder. Default: `runs/NAME`.
        store: the folder of finished stages. Default: that of `bench`.
        threads: number of threads. Default: all cores.
        device: `auto`, `cpu` or `cuda`.
        batch: images per call of a function, always so many.
        timeout: seconds for a call.

    Raises:
        TesseraError: if the suite, the data or a function's results are wrong.
        CellsFailed: if rows failed; it has the results of the others.
    """
    functions: Dict[str, Callable[[Any], Any]] = {}
    words = ["run" if train else "score", os.fspath(suite), f"--device={device}"]
    for path, value in (set or {}).items():
        words += ["--set", f"{path}={_json(path, value)}"]
    for name, function in (tokenizers or {}).items():
        served = _identifier(name, functions)
        functions[served] = function
        row = {"name": name, "kind": "python", "with": _row(name, served, function, batch, timeout)}
        words += ["--set", f"tokenizers[]={literal(_json(name, row))}"]
    given = {"out": out and os.fspath(out), "store": store and os.fspath(store), "threads": threads}
    words += [f"--{option}={value}" for option, value in given.items() if value is not None]
    words += [f"--only={pattern}" for pattern in _listed(only)]
    with Serving(functions) as serving:
        status, said, error = bench(words, serving.environment)
    folder = next((line.rpartition(os.sep + "results.csv")[0] for line in said.splitlines() if _names_results(line)), None)
    if folder is None or status not in (0, 1):
        raise TesseraError(error or said, status)
    found = Run(folder, said)
    if status == 0:
        return found
    failed = [f"{row['tokenizer']}, seed {row['seed']}: {row['error']}" for row in found._results if row["error"]]
    raise CellsFailed("\n".join(failed) or error, status, found)


def evaluate(
    function: Callable[[Any], Any],
    folder: "Union[str, os.PathLike[str]]",
    *,
    codebook_size: Optional[int] = None,
    groups: Optional[Sequence[int]] = None,
    dim: Optional[int] = None,
    image_size: Optional[int] = None,
    patch_size: Optional[int] = None,
    version: Optional[int] = None,
    input: Optional[Mapping[str, Any]] = None,
    saw_labels: bool = False,
    name: Optional[str] = None,
    train: bool = False,
    kmeans: Union[str, Sequence[str]] = ("pixel", "hog"),
    k: Union[int, Sequence[int]] = (50, 100),
    set: Optional[Mapping[str, Any]] = None,
    **options: Any,
) -> Run:
    """Benchmarks a function on a folder of images, beside K-means of pixels and HOG.

    Args:
        function: as for `tokenizer`, which declares what it returns; or give that here.
        folder: class folders (alone, or in `train` and `val`), `.tar` shards, or CIFAR's binary files.
        codebook_size, groups, dim, version, input, saw_labels: as for `tokenizer`.
        image_size: side of the images in pixels. Default: about that of the first images.
        patch_size: side of a patch. A function returns `(image_size / patch_size) ** 2` ids for an image.
        name: name of the row. Default: the function's name.
        train: if True, also pretrains a small ViT for each row, and evaluates it by k-NN and linear probing. Without it the call takes
            seconds to minutes.
        kmeans: features of the K-means rows: `pixel`, `hog`.
        k: their numbers of clusters.
        set: fields of the suite by path: `{"pretrain.epochs": 5}`.
        options: those of `run`: `out` (default: `runs/FOLDER-NAME`), `store`, `threads`, `device`, `batch`, `timeout`.

    Raises:
        ValueError: if it is not clear what the function returns.
        TesseraError, CellsFailed: as for `run`.
    """
    row = str(name or getattr(function, "__name__", type(function).__name__))
    given = {"codebook_size": codebook_size, "groups": listed(groups), "dim": dim, "version": version, "input": input}
    given["saw_labels"] = saw_labels or None
    declared = dict(getattr(function, "tessera", {}))
    for field, value in given.items():
        if value is not None and declared.setdefault(field, value) != value:
            raise ValueError(f"{field}: found {value!r}, but the function declares {declared[field]!r}; leave it out")
    function = tokenizer(**declared)(function)
    sizes = {"image_size": image_size, "patch_size": patch_size}
    fields: Dict[str, Any] = {key: value for key, value in sizes.items() if value is not None}
    if not kmeans:
        fields["tokenizers"] = []
    fields.update(set or {})
    with tempfile.TemporaryDirectory(prefix="tessera-") as scratch:
        stem = re.sub(r"[^\w.-]", "-", Path(folder).resolve().name).lstrip(".") or "images"
        options.setdefault("out", os.path.join("runs", f"{stem}-{_identifier(row, ())[2:]}"))
        suite = os.path.join(scratch, f"{stem}.yaml")
        words = ["init", os.fspath(folder), f"--out={suite}", f"--k={','.join(map(str, _listed(k)))}"]
        words += [f"--kmeans={','.join(_listed(kmeans))}"] if kmeans else []
        status, said, error = bench(words + (["--train"] if train else []), dict(os.environ))
        if status != 0:
            raise TesseraError(without(suite, error or said), status)
        try:
            return run(suite, {row: function}, fields, train=train, **options)
        except TesseraError as refused:
            refused.args = (without(suite, str(refused)),)
            raise


def without(file: str, message: str) -> str:
    """Leaves the place in a temporary file out of a message."""
    return re.sub(re.escape(file) + r"(:\d+)*: ", "", message)


def literal(suite: str) -> str:
    """Returns the text of a suite in which no name is a variable of the environment."""
    return suite.replace("${", "${:-$}{")


def _json(name: str, value: Any) -> str:
    """Returns a value as JSON, which is YAML; NumPy's numbers and arrays, paths and tuples too."""

    def plain(other: Any) -> Any:
        for method in ("item", "tolist", "__fspath__"):
            if hasattr(other, method) and not (method == "item" and getattr(other, "size", 1) != 1):
                return getattr(other, method)()
        raise TypeError(f"{name}: found a value of type {type(other).__name__}, expected numbers, texts, lists or mappings")

    return json.dumps(value, ensure_ascii=False, default=plain)


def _listed(value: Any) -> List[Any]:
    return [value] if isinstance(value, (str, int)) else list(value)


def _row(name: str, served: str, function: Callable[[Any], Any], batch: int, timeout: int) -> Dict[str, Any]:
    fields = getattr(function, "tessera", None)
    if fields is None:
        raise ValueError(f"tokenizers[{name!r}]: the function declares nothing; write tokenizer(codebook_size=...)(function), or dim=... for values")
    return {"callable": f"tessera_bench.served:{served}", "python": sys.executable, "batch": batch, "timeout": timeout, **fields}


def _identifier(name: str, taken: Iterable[str]) -> str:
    """Returns a name for Python that is part of the key of results, so it follows from the row's name."""
    plain = "f_" + re.sub(r"\W", "_", name)
    while plain in taken:
        plain += "_"
    return plain


def _names_results(line: str) -> bool:
    return re.search(re.escape(os.sep) + r"results\.csv in ", line) is not None


def bench(words: List[str], environment: Dict[str, str]) -> Tuple[int, str, str]:
    """Runs `bench`. Returns its status, its standard output, and the error that it printed last."""
    command = [sys.executable, "-c", _PROGRAM, *words]
    environment = {**environment, PARENT: str(os.getpid())}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout and process.stderr
    said: List[str] = []
    logged: List[str] = []
    readers = [
        threading.Thread(target=said.extend, args=(process.stdout,), daemon=True),
        threading.Thread(target=_log, args=(process.stderr, logged), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # The process may have had the signal from the terminal already; two within 0.2 s count as one.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        if process.poll() is None:
            process.kill()
        for reader, pipe in zip(readers, (process.stdout, process.stderr)):
            reader.join()
            pipe.close()
    if status == 130:
        raise KeyboardInterrupt
    text = "".join(logged)
    at = max(text.rfind("\nerror: "), 0 if text.startswith("error: ") else -1)
    error = text[at:].strip() if at >= 0 else text.strip()
    return status, "".join(said), re.sub("^error: ", "", error)


def _log(lines: Iterable[str], kept: List[str]) -> None:
    for line in lines:
        kept.append(line)
        # The process waits for a reader, so nothing may end this one.
        with contextlib.suppress(Exception):
            if logger.hasHandlers():
                logger.info("%s", line.rstrip("\n"))
            elif sys.stderr is not None:
                sys.stderr.write(line)


def _table(rows: List[Dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)
