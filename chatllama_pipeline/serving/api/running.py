"""A server from its start to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from chatllama_pipeline.serving.api.access.connections import BoundedConnection
from chatllama_pipeline.serving.api.access.place import Limits, Place
from chatllama_pipeline.serving.api.application import application
from chatllama_pipeline.serving.api.versions import Versions
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

# How long replies may go on once the server is told to end.
LAST_SECONDS = 30
# How long a connection stays that nobody asks on: longer than clients and proxies keep theirs (5 s
# and 60 s are usual), since who asks on one that is being closed is never answered.
KEEP_SECONDS = 75


def run(
    place: Place,
    versions: Versions,
    limits: Limits,
    feedback: FeedbackLog,
    ready: Callable[[], None],
    *,
    page: bool = False,
    trial: Trial | None = None,
) -> None:
    """Load what is wanted, say that it is `ready`, and answer until INT or TERM."""
    try:
        versions.begin()
        app = application(versions, limits, place, feedback, page=page, trial=trial)
        ready()
        with contextlib.suppress(KeyboardInterrupt):
            server_of(app).run(sockets=[place.listening])
    finally:
        versions.close()
        place.listening.close()


def server_of(app: Starlette, last_seconds: int = LAST_SECONDS) -> uvicorn.Server:
    """What answers by `app`; once told to end it gives replies `last_seconds`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=last_seconds,
            timeout_keep_alive=KEEP_SECONDS,
        )
    )
