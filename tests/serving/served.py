"""A server on loopback in this process, and releases of tiny models for it to serve."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.serving.api.access.place import Limits, open_place
from chatllama_pipeline.serving.api.application import application
from chatllama_pipeline.serving.api.running import server_of
from chatllama_pipeline.serving.api.versions import Versions
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.trials import Trial
from chatllama_pipeline.store.versions import Store, Workbench
from tests.waiting import PATIENCE

NAME = "tiny"
LIMITS = Limits()
JSON = {"content-type": "application/json"}


def lively(base: Path, folder: Path, seed: int, context: int = 0) -> Path:
    """The model of `base` with large random weights: its replies hang on all that it read.

    With a `context` of its own it reads so many tokens, and greedily never comes to an end.
    """
    config = AutoConfig.from_pretrained(base, tie_word_embeddings=False, initializer_range=0.4)
    tokenizer = load_tokenizer(base)
    if context:
        config.max_position_embeddings = tokenizer.model_max_length = context
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    if context:
        # Nought is never the largest of many random numbers.
        model.lm_head.weight.data[tokenizer.eos_token_id] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def publish(store: Store, model: Path, take: str, **settings: Any) -> Version:
    """A release of the model in `model`, which samples as `settings` say (greedy, 12 tokens)."""
    recipe = Recipe("release", NAME, "1", {}, {"take": take}, {})

    def build(bench: Workbench) -> Outcome:
        tokenizer = load_tokenizer(model)
        AutoModelForCausalLM.from_pretrained(model).save_pretrained(bench.output)
        tokenizer.save_pretrained(bench.output)
        own = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": tokenizer.eos_token_id}
        GenerationConfig(**own | settings, pad_token_id=0).save_pretrained(bench.output)
        return Outcome()

    return store.make(recipe, build, {}, force=False).version


@dataclass
class Served:
    """A running server; `wanted` may be changed, and `said` is what it told."""

    wanted: list[Wanted]
    feedback: FeedbackLog
    said: list[str] = field(default_factory=list)
    port: int = 0
    versions: Versions = None  # type: ignore[assignment]
    server: uvicorn.Server = None  # type: ignore[assignment]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body (JSON as data) of a request by plain HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            known = JSON if sent is not None else {}
            connection.request(
                method or ("GET" if sent is None else "POST"), path, sent, known | (headers or {})
            )
            answer = connection.getresponse()
            text = answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
        is_json = told.get("content-type", "").startswith("application/json")
        return answer.status, told, json.loads(text) if is_json else text.decode()

    def chat(self, text: str, **more: Any) -> tuple[int, dict[str, str], Any]:
        body = {"model": NAME, "messages": [{"role": "user", "content": text}], **more}
        return self.ask("/v1/chat/completions", body)


@contextlib.contextmanager
def serving(
    wanted: Sequence[Wanted],
    limits: Limits = LIMITS,
    cors: tuple[str, ...] = (),
    look: Callable[[], Sequence[Wanted]] | None = None,
    feedback: FeedbackLog | None = None,
    page: bool = False,
    trial: Trial | None = None,
) -> Iterator[Served]:
    """A server of these versions until the block ends; the key is that of the environment."""
    # Where none is given, there is none to write to.
    served = Served(list(wanted), feedback or FeedbackLog(Path("/proc/none"), NAME))
    place = open_place("127.0.0.1", 0, cors)
    served.port = place.listening.getsockname()[1]
    versions = Versions(NAME, look or (lambda: served.wanted), limits.streams, served.said.append)
    versions.begin()
    served.versions = versions
    app = application(versions, limits, place, served.feedback, page=page, trial=trial)
    server = served.server = server_of(app, last_seconds=1)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[place.listening])), daemon=True
    )
    thread.start()
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(60)
        # A second interrupt, as a person would give: some test left what doesn't end.
        server.force_exit = True
        thread.join(PATIENCE)
        versions.close()
        place.listening.close()
        assert not thread.is_alive()


def greedy(folder: Path, ids: list[int], count: int, stops: list[int]) -> list[int]:
    """What plain `generate` writes behind `ids`."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    told = torch.tensor([ids])
    plain = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=stops, pad_token_id=0
    )
    output = model.generate(told, attention_mask=torch.ones_like(told), generation_config=plain)
    return [int(number) for number in output[0, len(ids) :]]
