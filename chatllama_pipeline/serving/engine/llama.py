"""llama.cpp as an engine: it runs a release's GGUF file, and is asked over loopback."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.serving.engine.jobs import AskingEngine, Job
from chatllama_pipeline.serving.gguf.llama_cpp import LlamaCpp

# llama.cpp draws with chances of its own where a request names none.
_ANY_SEED = 2**32 - 1
# The most tokens that are asked for at once.
PIECE = 16


class LlamaEngine(AskingEngine):
    """`streams` rows at once of `context` tokens each; the rest wait in llama.cpp."""

    name, why = "llama.cpp", ""

    def __init__(
        self, file: Path, streams: int, context: int, place: tempfile.TemporaryDirectory[str]
    ) -> None:
        """`file` stands in `place`, which goes with the engine."""
        super().__init__()
        self._server, self._place = LlamaCpp(file, context, streams), place
        self.longest, self._streams = context, streams
        self._rooms: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    def close(self) -> None:
        super().close()
        self._server.close()
        self._place.cleanup()

    def _room(self) -> asyncio.Semaphore:
        """A place for a row, which keeps what it has read from piece to piece."""
        loop = asyncio.get_running_loop()
        if self._rooms is None or self._rooms[0] is not loop:
            self._rooms = (loop, asyncio.Semaphore(self._streams))
        return self._rooms[1]

    async def pieces(self, job: Job) -> AsyncGenerator[list[int]]:
        """The reply's tokens, some at a time.

        llama.cpp's own stream leaves out tokens that end within a character: so it is asked for a
        few tokens again and again, and goes on from what it has read.
        """
        # There is no TLS on loopback, and to get ready for it takes longer than a short reply.
        client = httpx.AsyncClient(
            base_url=self._server.url,
            headers=self._server.headers,
            timeout=None,
            trust_env=False,
            verify=False,
        )
        written: list[int] = []
        async with self._room(), client:
            while len(written) < job.most:
                count = min(max(len(written), 1), PIECE, job.most - len(written))
                answer = await client.post("/completion", json=asked(job, written, count))
                if answer.is_error:
                    raise EngineError(answer.text.strip())
                told = answer.json()
                piece = told["tokens"]
                ends = [place for place, token in enumerate(piece) if token in job.stops]
                piece = piece[: ends[0] + 1] if ends else piece
                written += piece
                yield piece
                if ends or not piece or told["stop_type"] != "limit":
                    return


def asked(job: Job, written: Sequence[int], count: int) -> dict[str, Any]:
    """What llama.cpp is asked for: the settings of `job`, in our order, and no others."""
    sampling = job.sampling
    # Each piece has chances of its own, which follow from the reply's seed.
    seed = _ANY_SEED if sampling.seed is None else (sampling.seed + len(written)) % _ANY_SEED
    return {
        "prompt": [*job.ids, *written],
        "n_predict": count,
        "return_tokens": True,
        "samplers": ["temperature", "top_k", "top_p"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "seed": seed,
        # What nothing ends goes on behind what ends a reply by the file.
        "ignore_eos": not job.stops,
    }
