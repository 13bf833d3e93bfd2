"""The command line: `bench`, `tessera-bench` and `python -m tessera_bench`."""
import os
import sys
import sysconfig

from . import _native


def main() -> int:
    """Runs `bench` with the arguments of this process and returns its exit status."""
    # `kind: python` finds this interpreter, although its environment may not be active.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    script = os.path.join(sysconfig.get_path("scripts"), "tessera-bench")
    return _native.bench(script, ["bench", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
