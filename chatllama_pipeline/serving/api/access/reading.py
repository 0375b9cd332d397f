"""A request's body, read within limits of size and time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from chatllama_pipeline.data.sources.json_text import JsonError, once
from chatllama_pipeline.serving.api.access.refusals import Refusal

BODY_SECONDS = 30.0
# What is left unread of a refused body ends with its connection.
_CLOSE = {"connection": "close"}


async def read_json(request: Request, most_bytes: int) -> dict[str, Any]:
    """The JSON object in the body; raises Refusal for what is too long, too slow or none."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    # A browser sends other kinds from any page, without asking whether it may.
    if kind != "application/json":
        told = f"content-type is {kind!r}, and must be application/json"
        raise Refusal(415, told, headers=_CLOSE)
    if (packing := request.headers.get("content-encoding", "identity").lower()) != "identity":
        told = f"content-encoding is {packing!r}: send the body as it is"
        raise Refusal(415, told, headers=_CLOSE)
    try:
        text = await asyncio.wait_for(_read(request, most_bytes), BODY_SECONDS)
    except TimeoutError:
        told = f"the body didn't arrive within {BODY_SECONDS:.0f} s"
        raise Refusal(408, told, headers=_CLOSE) from None
    try:
        found = json.loads(text, parse_constant=_no_number, object_pairs_hook=once)
    except (ValueError, RecursionError, JsonError) as error:
        # What Python advises behind a semicolon is nothing that a client could do.
        told = f"the body is not JSON: {str(error).partition('; use sys.')[0]}"
        raise Refusal(400, told, code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return found


async def disconnected(receive: Receive) -> None:
    """Returns once the client is gone, or was answered; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, most_bytes: int) -> bytes:
    told = int(request.headers.get("content-length") or 0)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if max(told, size) > most_bytes:
                raise _too_large(most_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise Refusal(400, "the client left amid the body", headers=_CLOSE) from None
    return b"".join(parts)


def _too_large(most_bytes: int) -> Refusal:
    message = f"the body is longer than the {most_bytes} bytes that this server reads"
    return Refusal(413, message, code="body_too_large", headers=_CLOSE)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
