"""The addresses of the API, and what is done at each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatllama_pipeline.serving.api.access.guard import Guard
from chatllama_pipeline.serving.api.access.place import Limits, Place
from chatllama_pipeline.serving.api.access.reading import disconnected, read_json
from chatllama_pipeline.serving.api.access.refusals import Refusal, failed, not_found, refused
from chatllama_pipeline.serving.api.answering import Answer, Places, answers, job_of, speech_of
from chatllama_pipeline.serving.api.asked import AskedChat, AskedText, asked_chat, asked_text
from chatllama_pipeline.serving.api.feedback import FeedbackService
from chatllama_pipeline.serving.api.metrics import Metrics
from chatllama_pipeline.serving.api.replies import DONE, Form, event, usage_of
from chatllama_pipeline.serving.api.streaming import EventStream
from chatllama_pipeline.serving.api.trials import TrialService
from chatllama_pipeline.serving.api.versions import Speaker, Versions
from chatllama_pipeline.serving.engine.jobs import Job
from chatllama_pipeline.serving.page.route import page_route
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

VERSION_HEADER = "x-chatllama-version"
OWNER = "chatllama"
# What nginx calls a client that left before its answer; nobody reads it.
CLIENT_LEFT = 499


class Service:
    """The handlers of a server whose `versions` speak."""

    def __init__(self, versions: Versions, limits: Limits) -> None:
        self._versions, self._limits = versions, limits
        self._places = Places(limits.streams, limits.queue)
        self._metrics = Metrics(lambda: self._places.taken)

    async def chat(self, request: Request) -> Response:
        return await self._reply(request, asked_chat)

    async def completion(self, request: Request) -> Response:
        return await self._reply(request, asked_text)

    async def models(self, request: Request) -> Response:
        data = [_model(name, since) for name, since in self._versions.models().items()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(_model(name, self._versions.since(name)))

    async def load_model(self, request: Request) -> Response:
        name = (await read_json(request, self._limits.body_bytes)).get("model")
        if not isinstance(name, str):
            raise Refusal(400, "model: must be the name of one", param="model")
        self._versions.since(name)
        ready = {"status": "ready", "model": name, "cached": True}
        return Response(event(ready), media_type="text/event-stream")

    async def health(self, request: Request) -> Response:
        shares = self._versions.shares
        versions = [
            {
                "version": one.id,
                "share": shares[one.id],
                "engine": one.engine.name,
                "why": one.engine.why or None,
            }
            for one in self._versions.speakers
        ]
        return JSONResponse({"status": "ok", "model": self._versions.name, "versions": versions})

    async def metrics(self, request: Request) -> Response:
        shares = self._versions.shares
        engines = {one.id: one.engine.name for one in self._versions.speakers}
        self._metrics.show_versions({(one, engines[one]): shares[one] for one in shares})
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    def count(self, path: str, status: int) -> None:
        """A request was answered."""
        self._metrics.requests.labels(path, str(status)).inc()

    async def _reply(
        self, request: Request, read: Callable[[dict[str, Any]], AskedChat | AskedText]
    ) -> Response:
        began = monotonic()
        asked = read(await read_json(request, self._limits.body_bytes))
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(self._places.taking())
            speaker = held.enter_context(self._versions.speaking(asked.model))
            job = await job_of(speaker, asked)
            form = Form(isinstance(asked, AskedChat), asked.model, speaker.id)
            steps = self._counted(speaker, job, asked, began)
            headers = {VERSION_HEADER: speaker.id}
            if not asked.stream:
                return await self._whole(request, form, steps, len(job.ids), headers)
            events = self._events(form, steps, len(job.ids), usage=asked.include_usage)
            held.push_async_callback(events.aclose)
            return EventStream(events, held.pop_all(), headers)

    async def _counted(
        self, speaker: Speaker, job: Job, asked: AskedChat | AskedText, began: float
    ) -> AsyncGenerator[Answer]:
        """The reply's steps, which are measured on their way."""
        answer = Answer("", 0, "")
        self._metrics.tokens.labels("prompt", speaker.id).inc(len(job.ids))
        try:
            async with contextlib.aclosing(
                answers(speaker, job, speech_of(speaker, asked))
            ) as steps:
                async for step in steps:
                    if not answer.tokens:
                        self._metrics.first_token.observe(monotonic() - began)
                    answer = step
                    yield step
        finally:
            self._metrics.tokens.labels("completion", speaker.id).inc(answer.tokens)
            self._metrics.reply.observe(monotonic() - began)
            if not answer.reason:
                self._metrics.cancelled.inc()

    async def _whole(
        self,
        request: Request,
        form: Form,
        steps: AsyncGenerator[Answer],
        prompt: int,
        headers: dict[str, str],
    ) -> Response:
        async def last() -> Answer:
            async with contextlib.aclosing(steps):
                return [step async for step in steps][-1]

        writing, leaving = (
            asyncio.create_task(last()),
            asyncio.create_task(disconnected(request.receive)),
        )
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not writing.done():
                writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            answer = await writing
            usage = usage_of(prompt, answer.tokens)
            return JSONResponse(form.whole(answer.text, answer.reason, usage), headers=headers)
        return Response(status_code=CLIENT_LEFT)

    async def _events(
        self,
        form: Form,
        steps: AsyncGenerator[Answer],
        prompt: int,
        *,
        usage: bool,
    ) -> AsyncGenerator[tuple[str, bool]]:
        """What is sent, each time with a piece of the reply, since each sending costs; and whether
        it is the last."""
        said, told, answer = form.begin(), 0, Answer("", 0, "")
        async with contextlib.aclosing(steps):
            try:
                async for answer in steps:
                    if len(answer.text) > told:
                        said += form.piece(answer.text[told:])
                        told = len(answer.text)
                        if not answer.reason:
                            yield said, False
                            said = ""
            except Refusal as refusal:
                yield said + event(refusal.body), True
                return
        said += form.end(answer.reason)
        if usage:
            said += form.usage(usage_of(prompt, answer.tokens))
        yield said + DONE, True


def application(
    versions: Versions,
    limits: Limits,
    place: Place,
    feedback: FeedbackLog,
    *,
    page: bool = False,
    trial: Trial | None = None,
) -> Starlette:
    """The whole API, with the `page` to talk and to rate, or to rate in a `trial`, if that is
    wanted; pages of other origins may ask it where `place` says so."""
    service = Service(versions, limits)
    routes = [
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.completion, methods=["POST"]),
        Route("/v1/models", service.models),
        Route("/v1/models/{name}", service.model),
        *FeedbackService(feedback, limits.body_bytes).routes(),
        Route("/load_model", service.load_model, methods=["POST"]),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
        *([page_route("talk" if trial is None else "trial")] if page else []),
        *(TrialService(trial, feedback, limits.body_bytes).routes() if trial else []),
    ]
    middleware = [Middleware(Counting, service=service)]
    if place.cors:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=place.cors,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type"],
                expose_headers=[VERSION_HEADER],
            )
        )
    middleware.append(Middleware(Guard, key=place.key, local=place.is_local))

    @contextlib.asynccontextmanager
    async def following(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(versions.follow())
        try:
            yield
        finally:
            following.cancel()

    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={Refusal: refused, HTTPException: not_found, Exception: failed},
        lifespan=following,
    )


class Counting:
    """Counts requests by their route and status; unknown addresses count as one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", None) or "other"
                self._service.count(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


def _model(name: str, since: str) -> dict[str, Any]:
    created = int(datetime.fromisoformat(since).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}
