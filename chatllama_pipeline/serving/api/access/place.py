"""Where a server listens and within which limits; all that is told before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from chatllama_pipeline.errors import SettingsError

KEY_VARIABLE = "CHATLLAMA_API_KEY"
_CURES = {
    errno.EADDRINUSE: "is in use: end what listens there, or choose another with {option}",
    errno.EACCES: "is not for everybody: choose one above 1023 with {option}",
    errno.EADDRNOTAVAIL: "is no address of this machine: choose one of its own with --host",
}


@dataclass(frozen=True)
class Limits:
    """Replies at once, those that wait, and the longest body in bytes."""

    streams: int = 32
    queue: int = 64
    body_bytes: int = 10**6


@dataclass(frozen=True)
class Place:
    """A listening socket, the key that one must have, and the origins whose pages may ask."""

    listening: socket.socket
    key: str | None = None
    cors: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return str(self.listening.getsockname()[0])

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        port = self.listening.getsockname()[1]
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"


def open_place(host: str, port: int, cors: tuple[str, ...], option: str = "--port") -> Place:
    """Listen at `host` and `port` (0: any that is free), the key from `CHATLLAMA_API_KEY`.

    Raises SettingsError where that can't be, naming the `option` that chooses another port, and
    beyond loopback without a key.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    place = Place(_listen(host, port, option), key, cors)
    if key is None and not place.is_local:
        place.listening.close()
        raise SettingsError(
            f"--host {host}: other machines reach it, and anyone there could ask: set "
            f"{KEY_VARIABLE} to a long random word, or listen on 127.0.0.1"
        )
    return place


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int, option: str) -> socket.socket:
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise SettingsError(f"--host {host} is no address: {error.strerror}") from None
    listening = socket.socket(kind, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        # At once: two that are only bound don't notice each other.
        listening.listen()
    except OSError as error:
        listening.close()
        cure = _CURES.get(error.errno or 0, str(error.strerror)).format(option=option)
        raise SettingsError(f"{host}:{port} {cure}") from None
    return listening
