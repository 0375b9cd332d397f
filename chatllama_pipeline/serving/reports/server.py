"""Serves the pages of the store's versions, and nothing else, to this machine."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from chatllama_pipeline.serving.api.access.place import Place
from chatllama_pipeline.serving.reports.addresses import PAGES
from chatllama_pipeline.settings.folder import NAME
from chatllama_pipeline.store.versions import Store

VERSION = re.compile(r"[0-9a-f]{16}")
# By these a page on the web, whose own name points to this machine, can't call it.
HOSTS = ["127.0.0.1", "localhost"]
# A page is one file: it loads nothing, runs nothing, sends nothing, and stands in no frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def reports(store: Store) -> Starlette:
    """The application: GET /ASSET/ASSISTANT/VERSION is that version's page."""

    def page(request: Request) -> Response:
        asset, name, version = (request.path_params[key] for key in ("asset", "name", "version"))
        named = asset in PAGES and NAME.fullmatch(name) and VERSION.fullmatch(version)
        found = store.version(asset, name, version) if named else None
        file = found.path / PAGES[asset] if found else None
        if file is None or file.is_symlink() or not file.is_file():
            told = "there is no such report: it was pruned, or stands in another store"
            return PlainTextResponse(told, 404, HEADERS)
        return HTMLResponse(file.read_bytes(), headers=HEADERS)

    return Starlette(
        routes=[Route("/{asset}/{name}/{version}", page, methods=["GET"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def serve_reports(place: Place, store: Store) -> None:
    """Answer until INT or TERM."""
    with contextlib.suppress(KeyboardInterrupt):
        _server(store).run(sockets=[place.listening])


@contextlib.contextmanager
def reports_beside(place: Place, store: Store) -> Iterator[None]:
    """Answer while something else goes on."""
    server = _server(store)
    thread = threading.Thread(target=server.run, args=([place.listening],), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _server(store: Store) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(reports(store), log_level="warning", access_log=False, server_header=False)
    )
