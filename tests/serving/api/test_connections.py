from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from chatllama_pipeline.serving.api.access import connections
from tests.serving.served import Served
from tests.waiting import PATIENCE

GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
# More than systems hold back between a client and its server.
MOST = 30_000_000


@contextlib.contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as one:
        yield one


def answered(one: socket.socket) -> bytes:
    told = b""
    with contextlib.suppress(OSError):
        while part := one.recv(65536):
            told += part
    return told


def sent_until_refused(one: socket.socket, part: bytes) -> int:
    sent = 0
    with contextlib.suppress(OSError):
        while sent < MOST:
            one.sendall(part)
            sent += len(part)
    return sent


@pytest.mark.parametrize(
    ("begun", "part"),
    [
        (b"GET /", b"y" * 65536),
        (GET, b"x-a: b\r\n" * 8192),
        (GET + b"x: ", b"y" * 65536),
        (POST + b"transfer-encoding: chunked\r\n\r\n5;", b"y" * 65536),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: b\r\n" * 8192),
    ],
    ids=["an address", "headers", "a header", "a part's extension", "trailers"],
)
def test_what_never_comes_to_its_end_ends_its_connection(
    served: Served, begun: bytes, part: bytes
) -> None:
    with connected(served) as one:
        one.sendall(begun)
        assert sent_until_refused(one, part) < MOST
    assert served.ask("/health")[0] == 200


def test_a_head_that_is_too_long_is_told_how_long_it_may_be(served: Served) -> None:
    with connected(served) as one:
        one.sendall(GET + b"x: " + b"y" * connections.HEAD_BYTES)
        told = answered(one)
    assert told.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"longer than 65536 bytes" in told
    long = {"x-trace": "y" * (connections.HEAD_BYTES // 2)}
    assert served.ask("/health", None, long)[0] == 200


@pytest.mark.parametrize("begun", [b"", b"GET /hea"], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_ends_its_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with connected(served) as one:
        one.sendall(begun)
        assert answered(one).startswith(b"HTTP/1.1 408 ")
    # Behind a request, too, which is answered first.
    with connected(served) as one:
        one.sendall(GET + b"\r\n" + (begun or b"G"))
        told = answered(one)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in told


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", POST + b"content-length: x\r\n\r\n"]
)
def test_what_is_no_request_is_told_as_other_refusals_are(served: Served, sent: bytes) -> None:
    with connected(served) as one:
        one.sendall(sent)
        head, _, body = answered(one).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and "no HTTP request" in error["message"]


def test_a_body_as_long_as_it_may_be_comes_in_however_many_parts(served: Served) -> None:
    text = b'{"model": "tiny", "prompt": "alpha", "max_tokens": 2' + b" " * 200_000 + b"}"
    with connected(served) as one:
        one.sendall(POST + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        for place in range(0, len(text), 1000):
            part = text[place : place + 1000]
            one.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        one.sendall(b"0\r\n\r\n")
        assert answered(one).startswith(b"HTTP/1.1 200 ")
