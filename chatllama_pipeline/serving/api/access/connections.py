"""Connections on which a request's head has an end: uvicorn reads any that is sent."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chatllama_pipeline.serving.api.access.refusals import Refusal

# Far beyond what browsers and proxies send, in the line of the request and in its headers.
HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0


class BoundedConnection(HttpToolsProtocol):
    """Ends with 431 where a head, or what stands between the parts of a body, is too long, and with
    408 where a head doesn't arrive in time."""

    # Bytes since a head, a part of a body or a request came to its end.
    _unread = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_BYTES and not self.transport.is_closing():
            self._end(431, f"the head of a request is longer than {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._unread = 0
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell of bytes that are no request, in the shape of other refusals."""
        # Amid an answer nothing else may stand.
        if not (self._is_answering and self.cycle.response_started):
            told = "what was sent is no HTTP request that can be read; https is a proxy's in front"
            self.transport.write(_answer(400, told))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_came()
        self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        if self._is_answering:
            self._await_head()
        else:
            self._end(408, f"no request arrived within {HEAD_SECONDS:.0f} s")

    def _end(self, status: int, told: str) -> None:
        # Behind an answer that is being written nothing else may stand.
        if not self._is_answering:
            self.transport.write(_answer(status, told))
        self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


def _answer(status: int, told: str) -> bytes:
    body = bytes(Refusal(status, told).response().body)
    head: dict[str, Any] = {"content-type": "application/json", "content-length": len(body)}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (head | {"connection": "close"}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
