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


class Serving:
    """Serves `functions` while the `with` block runs. `environment` is that of a program which may call them."""

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]) -> None:
        # Rows are opened one after another, but several processes may ask for one row; models are rarely safe in threads.
        self.functions = {name: (function, threading.Lock()) for name, function in functions.items()}

    def __enter__(self) -> "Serving":
        self.folder = tempfile.mkdtemp(prefix="tessera-")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.folder, "functions"))
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Unlike `close`, this wakes the thread.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> Dict[str, str]:
        return {**os.environ, SOCKET: os.path.join(self.folder, "functions")}

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link:
            try:
                name, pipes, _, _ = socket.recv_fds(link, 4096, 2)
                requests, replies = (os.fdopen(pipe, mode, 0) for pipe, mode in zip(pipes, ("rb", "wb")))
                function, lock = self.functions[name.decode()]

                def call(images: Any) -> Any:
                    with lock:
                        return function(images)

                with replies:
                    serve(call, requests, replies)
                requests.close()
            except BrokenPipeError:
                pass  # The row has ended.
            except BaseException:
                with contextlib.suppress(OSError):
                    link.sendall(traceback.format_exc().encode())
