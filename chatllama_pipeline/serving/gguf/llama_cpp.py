"""llama.cpp's server for one GGUF file: in this process, on loopback, for whoever has its key."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.launch.child import cores_at_hand

# The likeliest token, whatever the server would do by itself.
GREEDY: dict[str, Any] = {"temperature": 0.0, "samplers": ["temperature"]}
_SILENT = -1
_SECONDS = 600.0
# Of a file for each thread: of a smaller one, meeting at every layer costs more than it gains.
_BYTES_PER_THREAD = 32e6


class LlamaCpp:
    """Answers about ids for as long as it is open; `streams` rows of `context` tokens at once."""

    def __init__(self, file: Path, context: int, streams: int = 1) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = context * streams, streams
        params.warmup, params.verbosity, params.ui = False, _SILENT, False
        for threads in (params.cpuparams, params.cpuparams_batch):
            threads.n_threads = _threads(file)
            # Threads that wait by spinning cost whoever else has work on the same cores.
            threads.poll = 0
        key = secrets.token_urlsafe(32)
        params.api_keys, params.cors_origins = [key], ""
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            raise EngineError(f"llama.cpp can't run {file}: {error}") from error
        self.url: str = self._server.listening_address
        self.headers = {"authorization": f"Bearer {key}"}
        # Loopback goes through no proxy, whatever the environment says.
        self._client = httpx.Client(
            base_url=self.url, headers=self.headers, timeout=_SECONDS, trust_env=False
        )

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation as llama.cpp itself reads it, a reply following."""
        text = self._ask("/apply-template", {"messages": list(messages)})["prompt"]
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """The ids of a text, control tokens and what the tokenizer adds by itself among them."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        ids: list[int] = self._ask("/tokenize", asked)["tokens"]
        return ids

    def greedy(self, ids: Sequence[int], most: int) -> list[int]:
        """The likeliest tokens behind `ids`, `most` of them or up to one that ends a reply."""
        asked = {"prompt": list(ids), "n_predict": most, "return_tokens": True, **GREEDY}
        tokens: list[int] = self._ask("/completion", asked)["tokens"]
        return tokens

    def close(self) -> None:
        """End its threads."""
        self._client.close()
        self._server = None

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._client.post(path, json=body)
        if answer.is_error:
            raise EngineError(f"llama.cpp refuses {path}: {answer.text.strip()}")
        return answer.json()


def _threads(file: Path) -> int:
    return int(min(cores_at_hand(), max(1, file.stat().st_size // _BYTES_PER_THREAD)))
