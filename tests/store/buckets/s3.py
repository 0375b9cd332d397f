"""A server that speaks S3 on loopback: moto's, with what can go wrong on the way to a bucket.

`python tests/store/buckets/s3.py` says its port, then serves one request at a time, so that a put
under a condition is one step, until it is killed. `PUT /_faults` sets what goes wrong, as JSON:

    drop        every so manieth request's connection is cut: before it is served, or after
    refuse      requests whose method is in the list are answered 403
    stale       lists leave out what was put since this was set
    unconditional   a put's conditions are passed over
    lose        puts to keys with this text are served, and their connection is cut
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

BUCKET = "versions"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Faults:
    """What goes wrong between a client and the application behind."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.wanted: dict[str, Any] = {}
        self.requests = 0
        self.put: list[str] = []

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/_faults":
            self.fail(json.loads(_body(environ)))
            start("200 OK", [])
            return [b""]
        self.requests += 1
        if method in self.wanted.get("refuse", ()):
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        every = self.wanted.get("drop", 0)
        cut = bool(every) and self.requests % every == 0
        if cut and self.requests // every % 2:
            return self._cut(environ)
        if self.wanted.get("unconditional"):
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        answer = b"".join(self.application(environ, start))
        if method == "PUT":
            self.put.append(path.split("/", 2)[-1])
        lose = self.wanted.get("lose")
        if cut or (lose and method == "PUT" and lose in path):
            if lose:
                self.wanted.pop("lose")
            return self._cut(environ)
        if "stale" in self.wanted and "list-type" in environ.get("QUERY_STRING", ""):
            return [self._without_news(answer)]
        return [answer]

    def fail(self, wanted: dict[str, Any]) -> None:
        """Have these go wrong, and no others, from here on."""
        self.wanted, self.requests, self.put = wanted, 0, []

    def _without_news(self, answer: bytes) -> bytes:
        """A list of the same length, which its header tells, without what was put since."""
        text = answer.decode()
        for key in self.put:
            text = re.sub(
                rf"<Contents>\s*<Key>{re.escape(key)}</Key>.*?</Contents>",
                lambda found: " " * len(found.group()),
                text,
                flags=re.S,
            )
        return text.encode()

    @staticmethod
    def _cut(environ: Environ) -> Iterable[bytes]:
        with contextlib.suppress(OSError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [b""]


def _body(environ: Environ) -> bytes:
    return bytes(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


def serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=False)
    print(server.server_port, flush=True)
    server.serve_forever()


@dataclass(frozen=True)
class S3:
    """The server at `address`."""

    address: str

    def fail(self, **wanted: object) -> None:
        """Have these faults, and no others, from here on."""
        httpx.put(f"{self.address}/_faults", content=json.dumps(wanted)).raise_for_status()

    def make_bucket(self, name: str) -> None:
        httpx.put(f"{self.address}/{name}").raise_for_status()


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """The server, for as long as the block goes on."""
    pytest.importorskip("moto", reason="moto isn't installed: it speaks S3")
    pytest.importorskip("flask_cors", reason="moto's server wants flask and flask-cors")
    pytest.importorskip("obstore", reason="obstore isn't installed: stores in a bucket want it")
    program = [sys.executable, "-W", "ignore", str(Path(__file__))]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield S3(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def environment(server: S3) -> dict[str, str]:
    """The variables by which a client finds the server."""
    return {**VARIABLES, "AWS_ENDPOINT_URL": server.address, "PATH": os.environ["PATH"]}


if __name__ == "__main__":
    serve()
