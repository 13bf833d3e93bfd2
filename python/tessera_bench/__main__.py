"""The command line: `bench`, `tessera-bench` and `python -m tessera_bench`."""
import os
import signal
import sys
import sysconfig
import threading
import time
from typing import List

from . import _native

PARENT = "TESSERA_PARENT"


def script() -> str:
    """Returns the file that starts the command line, for the nodes of a submitted suite."""
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", f"{os.name}_user")]
    files = [sys.argv[0], *(os.path.join(folder, "tessera-bench") for folder in folders)]
    named = (file for file in files if os.path.basename(file) in ("bench", "tessera-bench") and os.path.isfile(file))
    return os.path.abspath(next(named, files[1]))


def again() -> List[str]:
    """Returns the command that starts this command line in another process, wherever the package and the script are."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Not the current folder, and the package's folder last: neither may hide a module of Python.
    program = f"import sys; del sys.path[0]; sys.path.append({folder!r}); from tessera_bench.__main__ import main; sys.exit(main())"
    return [sys.executable, "-c", program]


def follow(parent: int) -> None:
    """Interrupts this process, which then keeps its state, when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


def main() -> int:
    """Runs `bench` with the arguments of this process and returns its exit status."""
    # Python's handler would wait for the end of the call.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = os.environ.pop(PARENT, None)
    if parent:
        threading.Thread(target=follow, args=(int(parent),), daemon=True).start()
    # `kind: python` finds this interpreter, and graphs its onnxruntime, although its environment may not be active.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    os.environ["VIRTUAL_ENV"] = os.environ.get("VIRTUAL_ENV") or sys.prefix
    return _native.bench(script(), again(), ["bench", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
