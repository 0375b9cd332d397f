"""Who may ask: hosts by which a server on loopback is called, and the key where there is one."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from chatllama_pipeline.serving.api.access.place import KEY_VARIABLE, is_loopback
from chatllama_pipeline.serving.api.access.refusals import Refusal

# What watches whether the server lives has no key, nor has a browser that opens the page.
OPEN_PATHS = {"/health", "/"}


class Guard:
    """Refuses requests without the `key`, if there is one, and, where `local`, by other names.

    A page on the web may have its own name point to this machine, and then ask as if it stood
    here: the name that it calls by gives it away.
    """

    def __init__(self, app: ASGIApp, key: str | None, *, local: bool) -> None:
        self._app, self._key, self._local = app, key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        for host in headers.getlist("host") or [""]:
            name = host.partition("]")[0].strip("[") if host.startswith("[") else host.split(":")[0]
            if self._local and not is_loopback(name):
                return Refusal(421, f"host {host!r}: this server is asked by localhost alone")
        preflight = scope["method"] == "OPTIONS"
        if self._key is None or scope["path"] in OPEN_PATHS or preflight:
            return None
        given = headers.get("authorization", "")
        scheme, _, given_key = given.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given_key.strip().encode("latin-1"), self._key.encode()
        ):
            return None
        told = "the API key is wrong" if given else "an API key is missing"
        return Refusal(
            401,
            f"{told}: send `Authorization: Bearer` with the server's {KEY_VARIABLE}",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
