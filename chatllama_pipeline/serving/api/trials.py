"""A blind trial over HTTP: the pairs that a rater is shown, and his votes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatllama_pipeline.data.feedback.ratings import Better, Reason, Word
from chatllama_pipeline.data.tables import as_messages
from chatllama_pipeline.evaluation.trials.votes import vote, waiting_pairs
from chatllama_pipeline.serving.api.access.reading import read_json
from chatllama_pipeline.serving.api.access.refusals import Refusal
from chatllama_pipeline.serving.api.feedback import BAD_REQUEST, CONFLICT, done, visit_of
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

PATH = "/v1/trial"


class _Vote(BaseModel):
    """What a rater sends: `pair` is the number under which he was shown it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    visit: Word
    pair: int
    better: Better
    reason: Reason = ""


class TrialService:
    """The handlers of `PATH`; a rater is known by his visit, and which version wrote a reply is
    told to nobody."""

    def __init__(self, trial: Trial, log: FeedbackLog, body_bytes: int) -> None:
        self._trial, self._log, self._body_bytes = trial, log, body_bytes

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self.pairs, methods=["GET"]),
            Route(PATH, self.vote, methods=["POST"]),
        ]

    async def pairs(self, request: Request) -> Response:
        """The pairs that a rater hasn't voted on, in the order in which he should see them."""
        rater = visit_of(request)
        waiting = await done(lambda: waiting_pairs(self._trial, self._log, rater), BAD_REQUEST)
        pairs = [
            {
                "pair": one.number,
                "prompt": as_messages(one.prompt),
                "left": one.left,
                "right": one.right,
            }
            for one in waiting
        ]
        told = {"id": self._trial.id, "of": len(self._trial.open_pairs), "pairs": pairs}
        return JSONResponse({"object": "trial", **told})

    async def vote(self, request: Request) -> Response:
        """Keep a vote: whoever is answered 200 may forget it, whoever isn't may send it again."""
        said = _vote_of(await read_json(request, self._body_bytes))
        given = (said.visit, said.pair, said.better, said.reason)
        added = await done(lambda: vote(self._trial, self._log, *given), CONFLICT)
        return JSONResponse({"object": "vote", "trial": self._trial.id, "added": added})


def _vote_of(body: dict[str, Any]) -> _Vote:
    """Raises Refusal where a key is unknown or a value is none."""
    try:
        return _Vote.model_validate(body)
    except ValidationError as error:
        detail = error.errors()[0]
        key, told = detail["loc"][0], detail["msg"]
        raise Refusal(BAD_REQUEST, f"{key}: {told[:1].lower()}{told[1:]}", param=str(key)) from None
