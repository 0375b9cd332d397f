"""On the PYTHONPATH of a run under test: its processes refuse, and record, any network."""

import os
import socket
import sys


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        return
    first = arguments[0]
    if isinstance(first, socket.socket) and first.family == socket.AF_UNIX:
        return
    with open(os.environ["NETWORK_ATTEMPTS"], "a") as attempts:
        attempts.write(f"{event} {arguments[1:]} by {sys.argv}\n")
    raise PermissionError(f"a network was touched: {event} {arguments[1:]}")


def _record() -> None:
    with open(os.environ["GUARDED_PROCESSES"], "a") as guarded:
        guarded.write(" ".join(sys.orig_argv) + "\n")


sys.addaudithook(_refuse)
_record()
# A fork is guarded by what its parent was, and is a process of the run like any other.
os.register_at_fork(after_in_child=_record)
