"""What the API refuses, in the shape that OpenAI's clients know."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

INVALID = "invalid_request_error"


class Refusal(Exception):
    """An answer that is an error; `message` says what is wrong and the cure."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        # What was asked may stand in them, and JSON can spell halves of characters.
        message, param = _sendable(message), param and _sendable(param)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> Response:
        return JSONResponse(self.body, self.status, headers=self.headers)


def unsupported(param: str, message: str) -> Refusal:
    """400 for something that OpenAI's API has and this one hasn't."""
    return Refusal(400, f"{param}: {message}", code="unsupported_parameter", param=param)


def too_long(prompt: int, context: int) -> Refusal:
    """400 in OpenAI's words where a row has no room for a reply to so many tokens."""
    return Refusal(
        400,
        f"This model's maximum context length is {context} tokens. However, your messages resulted "
        f"in {prompt} tokens, which leaves none for a reply. Please reduce the length of the "
        "messages.",
        code="context_length_exceeded",
        param="messages",
    )


async def refused(request: Request, error: Exception) -> Response:
    """Starlette's handler of `Refusal`."""
    assert isinstance(error, Refusal)
    return error.response()


async def not_found(request: Request, error: Exception) -> Response:
    """Starlette's handler where no route fits: 404, and 405 for another method."""
    if methods := _methods_at(request):
        allowed = ", ".join(sorted(methods))
        told, headers = f"the address takes {allowed} alone", {"allow": allowed}
    else:
        told, headers = "there is no such address; try POST /v1/chat/completions", None
    message = f"{request.method} {request.url.path}: {told}"
    status = 405 if methods else 404
    return Refusal(status, message, code="unknown_url", headers=headers).response()


def _methods_at(request: Request) -> set[str]:
    """What may be done at the address of a request, by all of its routes; nothing at no address."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods


def _sendable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


async def failed(request: Request, error: Exception) -> Response:
    """Starlette's handler of what nobody expected: the reason stays in the server's log."""
    message = "the server failed to answer; its log says why"
    return Refusal(500, message, kind="server_error").response()
