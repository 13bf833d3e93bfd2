"""Functions of another Python process, as `callable: "tessera_bench.served:NAME"`.

`tessera_bench.run` serves functions: this process, which Tessera starts, passes its pipes to the process that has the function, and waits.
"""
import os
import socket
import sys
from typing import Any

SOCKET = "TESSERA_SERVED"


class Served:
    """The function `name` of the process that listens at `TESSERA_SERVED`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def take_over(self, requests: Any, replies: Any) -> None:
        """Passes the pipes on, and ends this process with the function's error if it fails."""
        address = os.environ.get(SOCKET)
        if address is None:
            sys.exit(f"the function {self.name} is one of a Python program, which is not running; run the suite by `tessera_bench.run`")
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(address)
            with requests, replies:
                socket.send_fds(link, [self.name.encode()], [requests.fileno(), replies.fileno()])
            error = b"".join(iter(lambda: link.recv(65536), b""))
        if error:
            sys.exit(error.decode())


def __getattr__(name: str) -> Served:
    if name.startswith("__"):
        raise AttributeError(name)
    return Served(name)
