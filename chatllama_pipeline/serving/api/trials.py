"""A blind trial over HTTP: the pairs that a rater is shown, and his votes."""

from __future__ import annotations

from typing import Any, cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatllama_pipeline.data.feedback.ratings import MOST_REASON, Better
from chatllama_pipeline.data.tables import as_messages
from chatllama_pipeline.evaluation.trials.votes import vote, waiting_pairs
from chatllama_pipeline.serving.api.access.reading import read_json
from chatllama_pipeline.serving.api.access.refusals import Refusal
from chatllama_pipeline.serving.api.feedback import BAD_REQUEST, CONFLICT, done, visit_of
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

PATH = "/v1/trial"
_KEYS = {"visit", "pair", "better", "reason"}


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
        rater = visit_of(request.query_params)
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
        body = await read_json(request, self._body_bytes)
        rater = visit_of(body)
        pair, better, reason = _vote_of(body)
        added = await done(
            lambda: vote(self._trial, self._log, rater, pair, better, reason), CONFLICT
        )
        return JSONResponse({"object": "vote", "trial": self._trial.id, "added": added})


def _vote_of(body: dict[str, Any]) -> tuple[int, Better, str]:
    """Pair, side and reason of a vote; Refusal where a key is unknown or a value is none."""
    if unknown := sorted(set(body) - _KEYS):
        raise _refusal(unknown[0], f"there is no such key; a vote has {', '.join(sorted(_KEYS))}")
    pair, better, reason = body.get("pair"), body.get("better"), body.get("reason", "")
    if not isinstance(pair, int) or isinstance(pair, bool):
        raise _refusal("pair", "must be the number of a pair")
    if better not in get_args(Better):
        raise _refusal("better", f"must be one of {', '.join(get_args(Better))}")
    if not isinstance(reason, str) or len(reason) > MOST_REASON:
        raise _refusal("reason", f"must be a text of at most {MOST_REASON} characters")
    return pair, cast(Better, better), reason


def _refusal(key: str, told: str) -> Refusal:
    return Refusal(BAD_REQUEST, f"{key}: {told}", param=key)
