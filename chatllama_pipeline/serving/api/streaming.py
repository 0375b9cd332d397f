"""A reply that is sent while it is written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatllama_pipeline.serving.api.access.reading import disconnected


class EventStream(Response):
    """Server-sent events, some at a time; with the connection, however that ends, `held` is left.

    `events` yields texts with whether each is the last: then it takes no message of its own to say
    so. Starlette's own stream starts a group of tasks for each reply, which costs as much as its
    pieces.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[tuple[str, bool]],
        held: contextlib.AsyncExitStack,
        headers: dict[str, str],
    ) -> None:
        self._events, self._held = events, held
        self.status_code, self.background = 200, None
        self.init_headers({**headers, "cache-control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, cut = asyncio.current_task(), False
        assert sending is not None

        def leave(_: asyncio.Task[None]) -> None:
            nonlocal cut
            if not over and not leaving.cancelled():
                cut = True
                sending.cancel()

        async with self._held:
            over, leaving = False, asyncio.create_task(disconnected(receive))
            leaving.add_done_callback(leave)
            try:
                await self._send(send)
            except asyncio.CancelledError:
                # That somebody left is no error; a server that ends cancels, too.
                if not cut or sending.uncancel():
                    raise
            finally:
                over = True
                leaving.cancel()

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for text, last in self._events:
            body = text.encode()
            await send({"type": "http.response.body", "body": body, "more_body": not last})
            if last:
                return
