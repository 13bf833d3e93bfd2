"""Calls a function for the frames on standard input: `python3 -c DRIVER package.module:function FIELDS`.

The function gets float32 [batch, 3, height, width] and returns integers [batch, patches] or [batch, rows, columns], or numbers per
patch. What it or its module prints goes to standard error. FIELDS is the row's `with:` as JSON. PROTOCOL.md describes the frames.
"""
import contextlib
import importlib.util
import io
import json
import os
import queue
import sys
import threading
import time

if __name__ == "__main__":
    # Before any other import: only this file writes replies, and nothing else reads requests.
    PIPES = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

import numpy as np


def end_with(parent):
    """Ends this process when its parent has ended, even while the function runs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def function(name):
    """Returns the function `package.module:function`."""
    module, _, path = name.partition(":")
    sys.path.insert(0, os.getcwd())
    # Python takes the bytecode of an earlier text for that of this one if the second of their change and their length are the same. The key has
    # the text.
    stem = os.path.join(os.getcwd(), *module.split("."))
    for file in (os.path.join(stem, "__init__.py"), stem + ".py"):
        with contextlib.suppress(OSError):
            os.remove(importlib.util.cache_from_source(file))
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def check(call, row):
    """Compares what a function declares of itself (`call.tessera`) with the fields of its row."""
    for field, declared in getattr(call, "tessera", {}).items():
        found = row.get(field, 1 if field == "version" else None)
        if found != declared:
            sys.exit(f"{field}: the row has {found!r}, the function declares {declared!r}; give both the same")


def filled(requests, count):
    """Returns the next bytes; None at the end."""
    found = bytearray(count)
    left = memoryview(found)
    while left:
        read = requests.readinto(left)
        if not read:
            return None
        left = left[read:]
    return found


def request(requests):
    """Returns the next images; None at the end."""
    head = filled(requests, 8)
    frame = head and filled(requests, int.from_bytes(head, "little"))
    if not frame:
        return None
    header = io.BytesIO(frame[:128])
    np.lib.format.read_magic(header)
    shape, _, kind = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(frame, kind, offset=header.tell()).reshape(shape)


def described(value):
    """Says in a few words what a value is."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    name = type(value).__name__
    if hasattr(value, "keys"):
        return f"{name} with the keys {', '.join(map(repr, value.keys()))}"
    if isinstance(value, (list, tuple)):
        members = [described(member) if hasattr(member, "shape") else type(member).__name__ for member in value[:3]]
        return f"{name} of {len(value)} ({', '.join(members)}{', ..' if len(value) > 3 else ''})"
    return "None" if value is None else name


def plain(targets, name="the function's result"):
    """Returns targets as a NumPy array, from torch tensors on any device too: int64, float32 or float64."""
    found = targets
    if hasattr(targets, "detach"):
        targets = targets.detach().cpu()
        # NumPy has no bfloat16.
        targets = (targets.float() if targets.is_floating_point() and targets.element_size() < 4 else targets).numpy()
    if np.ma.is_masked(targets):
        raise ValueError(f"{name}: found an array with masked values, expected a number for each; fill them or give them an id of their own")
    try:
        targets = np.asarray(targets)
        kind = targets.dtype.kind
    except Exception:
        kind = "O"
    if kind == "O":
        remedy = "of a dict or a tuple, return the member that has the ids or values"
        raise ValueError(f"{name}: found {described(found)}, expected one array, tensor or nested list of numbers; {remedy}")
    if kind in "iu":
        targets = targets.astype(np.int64)
    elif kind == "f" and targets.dtype.itemsize != 8:
        targets = targets.astype(np.float32)
    return np.ascontiguousarray(targets)


def reply(replies, targets):
    """Writes a reply."""
    out = io.BytesIO()
    np.lib.format.write_array(out, plain(targets), allow_pickle=False)
    array = out.getbuffer()
    for part in (len(array).to_bytes(8, "little"), array):
        left = memoryview(part)
        while left:
            left = left[replies.write(left):]


def read_ahead(requests, ready):
    """Reads requests while the function computes. There are two at most."""
    try:
        while (images := request(requests)) is not None:
            ready.put(images)
    finally:
        ready.put(None)
        requests.close()


def serve(call, requests, replies):
    """Replies to every request until they end."""
    ready = queue.SimpleQueue()
    threading.Thread(target=read_ahead, args=(requests, ready), daemon=True).start()
    while (images := ready.get()) is not None:
        reply(replies, call(images))


def main():
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    call = function(sys.argv[1])
    check(call, json.loads(sys.argv[2]))
    # A function that lives in another process passes the pipes on.
    getattr(call, "take_over", lambda *pipes: serve(call, *pipes))(*PIPES)


if __name__ == "__main__":
    main()
