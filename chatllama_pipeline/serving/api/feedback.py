"""Ratings over HTTP: given, listed and taken back by whoever gave them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatllama_pipeline.data.feedback.importing import as_row, entry_of
from chatllama_pipeline.data.feedback.ratings import word_of
from chatllama_pipeline.errors import DataError, StoreError
from chatllama_pipeline.serving.api.access.reading import read_json
from chatllama_pipeline.serving.api.access.refusals import Refusal
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import utc_now

PATH = "/v1/feedback"
CONFLICT, BAD_REQUEST, NO_STORAGE = 409, 400, 507

# What tells whose a rating is, and which.
_OWN = ("id", "visit")

_Done = TypeVar("_Done")


class FeedbackService:
    """The handlers of `PATH`; a visit's id is the key to what was said in it."""

    def __init__(self, log: FeedbackLog, body_bytes: int) -> None:
        self._log, self._body_bytes = log, body_bytes

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self.give, methods=["POST"]),
            Route(PATH, self.given, methods=["GET"]),
            Route(PATH, self.take_back, methods=["DELETE"]),
            Route(PATH + "/{number}", self.take_back, methods=["DELETE"]),
        ]

    async def give(self, request: Request) -> Response:
        """Keep a rating: whoever is answered 200 may forget it, whoever isn't may send it again."""
        body = await read_json(request, self._body_bytes)
        # Whose it is and when it was given is not for others to say.
        if "at" in body:
            raise Refusal(BAD_REQUEST, "at: the server says when; leave it out", param="at")
        if "trial" in body:
            # Whose reply stood on which side is the server's to say.
            raise Refusal(BAD_REQUEST, "trial: votes are given at /v1/trial", param="trial")
        # Nobody's words are those that the owner imports: what is sent is always somebody's.
        body = {key: body[key] for key in body if key not in _OWN or body[key] not in (None, "")}
        if "id" in body and "visit" not in body:
            # Sent again, it would be another visit's.
            raise Refusal(BAD_REQUEST, "visit: an id needs one of yours beside it", param="visit")
        body.setdefault("visit", uuid.uuid4().hex)
        entry = _checked(lambda: entry_of(body, uuid.uuid4().hex, utc_now()))
        added = await done(lambda: self._log.add([entry]), CONFLICT)
        return _told(id=entry.id, visit=entry.visit, added=bool(added))

    async def given(self, request: Request) -> Response:
        visit = visit_of(request)
        entries = await done(lambda: self._log.entries(visit), BAD_REQUEST)
        return _told(data=[as_row(entry) for entry in entries])

    async def take_back(self, request: Request) -> Response:
        visit, number = visit_of(request), request.path_params.get("number")
        ids = [] if number is None else [number]
        gone = await done(lambda: self._log.delete(ids=ids, visit=visit), BAD_REQUEST)
        if number is not None and not gone:
            raise Refusal(404, f"{number}: this visit has no such feedback", param="id")
        return _told(deleted=gone)


async def done(work: Callable[[], _Done], status: int) -> _Done:
    """What `work` on the log returns; it may wait for the disk, so that others go on. What it
    refuses is answered with `status`."""
    try:
        return await asyncio.to_thread(work)
    except DataError as error:
        raise Refusal(status, str(error)) from None
    except StoreError as error:
        told = f"nothing was kept: {error.__cause__ or error}"
        raise Refusal(NO_STORAGE, told, kind="server_error", code="not_stored") from error


def visit_of(request: Request) -> str:
    """The visit in a request's query; Refusal where it holds none."""
    return _checked(lambda: word_of(request.query_params.get("visit", ""), "visit"))


def _checked(read: Callable[[], _Done]) -> _Done:
    try:
        return read()
    except DataError as error:
        told = str(error)
        where, found, _ = told.partition(": ")
        raise Refusal(BAD_REQUEST, told, param=where if found else None) from None


def _told(**what: Any) -> Response:
    return JSONResponse({"object": "feedback", **what})
