"""Serves functions of this process to the programs that Tessera starts (`served.py`)."""
import contextlib
import os
import shutil
import socket
import tempfile
import threading
import traceback
from typing import Any, Callable, Dict, Mapping

from ._driver import serve
from .served import SOCKET


# A function is called once at a time, also by a run that did not wait for its last call: models are rarely safe in threads.
_CALLS = threading.Lock()
# Most systems take 104 to 108 bytes.
_LONGEST = 90


class _Failed(Exception):
    """The function raised; the text is its traceback."""


class Serving:
    """Serves `functions` while the `with` block runs. `environment` is that of a program which may call them."""

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]) -> None:
        self.functions = dict(functions)
        self.ended = False

    def __enter__(self) -> "Serving":
        folder = tempfile.gettempdir()
        self.folder = tempfile.mkdtemp(prefix="tessera-", dir=folder if len(os.fsencode(folder)) < _LONGEST - 30 else "/tmp")
        self.address = os.path.join(self.folder, "functions")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        # Wakes the thread.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.connect(self.address)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> Dict[str, str]:
        return {**os.environ, SOCKET: self.address}

    def _accept(self) -> None:
        with self.listener:
            while not self.ended:
                link, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link:
            name, pipes, _, _ = socket.recv_fds(link, 4096, 2)
            if not name:
                return
            for pipe in pipes:
                os.set_inheritable(pipe, False)
            requests, replies = (os.fdopen(pipe, mode, 0) for pipe, mode in zip(pipes, ("rb", "wb")))
            function = self.functions[name.decode()]

            def call(images: Any) -> Any:
                try:
                    with _CALLS:
                        return function(images)
                except BaseException:
                    raise _Failed(traceback.format_exc()) from None

            error = ""
            try:
                with replies:
                    serve(call, requests, replies)
            except _Failed as failed:
                error = str(failed)
            except BrokenPipeError:
                pass  # The row has ended.
            except BaseException:
                error = traceback.format_exc()
            with contextlib.suppress(OSError):
                link.sendall(error.encode())
