"""vLLM as an engine: servers of it that run elsewhere, one of which holds the release's folder."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import httpx

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.serving.engine.jobs import AskingEngine, Job

# The key that vLLM itself reads there.
KEY_VARIABLE = "VLLM_API_KEY"
_CONNECT_SECONDS = 10.0
_EVENT, _DONE = "data: ", "[DONE]"


class Held(NamedTuple):
    """A model of the server at `url`, by the name that it has there; `longest`: of its rows."""

    url: str
    model: str
    longest: int


def holding(urls: Sequence[str], folder: Path) -> Held:
    """Which server holds the release in `folder`: the one whose model has that version's name, by
    whatever path it reaches it.

    Raises EngineError with what each of them says, and how to start one.
    """
    told = []
    for url in urls:
        try:
            models = _models(url)
        except EngineError as error:
            told.append(str(error))
            continue
        for model in models:
            if folder.name in (PurePath(str(model.get(key))).name for key in ("root", "id")):
                return Held(url, str(model["id"]), int(model["max_model_len"]))
        names = ", ".join(str(model.get("root") or model.get("id")) for model in models)
        told.append(f"{url} serves {names or 'nothing'}")
    raise EngineError(
        f"no vLLM holds version {folder.name}: {'; '.join(told)}. Start one with `vllm serve "
        f"{folder}`, and name its address with --url"
    )


class VllmEngine(AskingEngine):
    """Asks the server that holds the release, by ids: what is read is never another text."""

    why = ""

    def __init__(self, held: Held, context: int) -> None:
        super().__init__()
        self.name, self._held = f"vLLM at {held.url}", held
        self.longest = min(context, held.longest)

    async def pieces(self, job: Job) -> AsyncGenerator[list[int]]:
        asking = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            trust_env=False,
            # To get ready for TLS takes longer than a short reply.
            verify=self._held.url.startswith("https:"),
        )
        body = asked(self._held.model, job)
        address = f"{self._held.url}/completions"
        async with (
            asking as client,
            client.stream("POST", address, json=body, headers=_headers()) as answer,
        ):
            if answer.is_error:
                raise EngineError((await answer.aread()).decode(errors="replace").strip())
            async for line in answer.aiter_lines():
                if not line.startswith(_EVENT) or line == _EVENT + _DONE:
                    continue
                told = json.loads(line.removeprefix(_EVENT))
                if "choices" not in told:
                    raise EngineError(json.dumps(told))
                for choice in told["choices"]:
                    yield _tokens(choice, job)
                    if choice.get("finish_reason"):
                        return
        raise EngineError(f"{self._held.url} ended a reply before its end")


def asked(model: str, job: Job) -> dict[str, Any]:
    """What vLLM is asked for: the settings of `job`, and none of the model's own."""
    sampling = job.sampling
    return {
        "model": model,
        "prompt": list(job.ids),
        "max_tokens": job.most,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": sampling.seed,
        "stop_token_ids": sorted(job.stops),
        # What ends a reply is the job's to say.
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }


def _tokens(choice: dict[str, Any], job: Job) -> list[int]:
    """What is new of a reply, the token that stops it included."""
    if (ids := choice.get("token_ids")) is None:
        raise EngineError("this vLLM tells no ids of tokens: take one that knows return_token_ids")
    ended = choice.get("finish_reason") == "stop" and job.stops
    if ended and (not ids or ids[-1] not in job.stops):
        reason = choice.get("stop_reason")
        return [*ids, reason if reason in job.stops else min(job.stops)]
    return list(ids)


def _models(url: str) -> list[dict[str, Any]]:
    try:
        answer = httpx.get(
            f"{url}/models", headers=_headers(), timeout=_CONNECT_SECONDS, trust_env=False
        )
        if answer.is_error:
            raise EngineError(f"{url} says {answer.status_code}: {answer.text.strip()[:200]}")
        # An adapter's row may be as long as its base's, which alone is told.
        return [model for model in answer.json()["data"] if model.get("max_model_len")]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(f"{url} doesn't answer ({error})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"{url} answers, but not as vLLM does (name its /v1)") from None


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"authorization": f"Bearer {key}"} if key else {}
