"""A server from its start to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import uvicorn

from chatllama_pipeline.serving.api.access.place import Limits, Place
from chatllama_pipeline.serving.api.application import application
from chatllama_pipeline.serving.api.versions import Versions
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

# How long replies may go on once the server is told to end.
LAST_SECONDS = 30


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
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        ready()
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[place.listening])
    finally:
        versions.close()
        place.listening.close()
