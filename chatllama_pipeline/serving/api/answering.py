"""From what is asked to a reply: the job, its text while it grows, and the counts."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import date
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from jinja2 import TemplateError

from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.models.chat.template import prompt_ids, text_ids
from chatllama_pipeline.serving.api.access.refusals import Refusal, too_long
from chatllama_pipeline.serving.api.asked import Asked, AskedChat, AskedText, conversation
from chatllama_pipeline.serving.api.versions import Speaker
from chatllama_pipeline.serving.engine.jobs import Job, Sampling
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.speech import Speech

_NO_LIMIT = 10**9
# What is read where it came in, in tenths of a millisecond: to have a thread read it, and to wake,
# would take as long.
_SHORT_CHARACTERS = 2_000


class Answer(NamedTuple):
    """All that a reply says by now, in `tokens` tokens; `reason`: why it ended, "" if it hasn't."""

    text: str
    tokens: int
    reason: str


class Places:
    """Room for `streams` replies at once and for `queue` that wait."""

    def __init__(self, streams: int, queue: int) -> None:
        self.taken, self._most, self._streams = 0, streams + queue, streams
        self._usual_seconds = 1.0

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """A place until the block ends; 429 where there is none."""
        if self.taken >= self._most:
            # By then those that are before it have been written.
            seconds = math.ceil(self._usual_seconds * self.taken / self._streams)
            raise Refusal(
                429,
                f"{self.taken} replies are written or wait, which is all that this server takes: "
                f"ask again in {seconds} s",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": str(seconds)},
            )
        self.taken += 1
        began = monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            self._usual_seconds += 0.1 * (monotonic() - began - self._usual_seconds)


async def job_of(speaker: Speaker, asked: AskedChat | AskedText) -> Job:
    """What the engine is to write; raises Refusal where it doesn't fit into the context."""
    ids = await _read(speaker, asked)
    if not ids:
        raise Refusal(400, "the prompt is empty: write something", param="prompt")
    release = speaker.release
    room = min(release.context, speaker.engine.longest)
    left = room if release.model.config.is_encoder_decoder else room - len(ids)
    if len(ids) > room or left < 1:
        raise too_long(len(ids), room)
    # A reply that the context cuts short says so by its reason.
    most = min(asked.most or release.max_tokens, left)
    return Job(ids, most, frozenset(release.stops), sampling_of(release.model, asked))


def sampling_of(model: Any, asked: Asked) -> Sampling:
    """What is asked, and for the rest the release's own settings."""
    own = model.generation_config
    temperature = float(own.temperature) if own.do_sample else 0.0
    return Sampling(
        temperature if asked.temperature is None else asked.temperature,
        (own.top_p or 1.0) if asked.top_p is None else asked.top_p,
        (own.top_k or 0) if asked.top_k is None else asked.top_k,
        asked.seed,
    )


def speech_of(speaker: Speaker, asked: AskedChat | AskedText) -> Speech:
    """How the reply's ids become text."""
    release = speaker.release
    plain = isinstance(asked, AskedText)
    return Speech(release.tokenizer, release.stops, asked.stops, plain=plain)


async def answers(speaker: Speaker, job: Job, speech: Speech) -> AsyncGenerator[Answer]:
    """The reply each time there is more of it, last of all the whole; close it to cancel it."""
    read = 0
    async with contextlib.aclosing(written(speaker.engine, job)) as steps:
        async for told in steps:
            if told.error:
                raise Refusal(500, f"the reply failed: {told.error}", kind="server_error")
            said = speech.said(told.ids, finished=told.finished)
            reason = "stop" if said.ended else ""
            if told.finished and not said.ended:
                reason = "stop" if told.ids[-1:] and told.ids[-1] in job.stops else "length"
            tokens = _until_stop(speech, told.ids, read) if said.ended else len(told.ids)
            yield Answer(said.text, tokens, reason)
            if reason:
                return
            read = len(told.ids)


def _until_stop(speech: Speech, ids: Sequence[int], read: int) -> int:
    """How many of `ids` the reply took to its stop text, which the first `read` don't hold.

    The engine may be some tokens ahead.
    """
    counts = range(read + 1, len(ids))
    ended = (count for count in counts if speech.said(ids[:count], finished=False).ended)
    return next(ended, len(ids))


async def _read(speaker: Speaker, asked: AskedChat | AskedText) -> Sequence[int]:
    """The prompt's ids; a long one is read in the thread that reads: it takes its time."""
    work: Callable[[Any], list[int]]
    if isinstance(asked, AskedChat):
        turns = conversation(asked.messages)
        length = sum(len(turn.content) for turn in turns)
        work = partial(prompt_ids, prompt=turns, max_length=_NO_LIMIT, day=date.today())
    else:
        goes_on, length = not speaker.release.model.config.is_encoder_decoder, len(asked.text)
        work = partial(text_ids, text=asked.text, goes_on=goes_on)
    try:
        if length <= _SHORT_CHARACTERS:
            return work(speaker.release.tokenizer)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(speaker.reading, work, speaker.reader)
    except TemplateError as error:
        told = f"messages: this model's chat template refuses them: {error}"
        raise Refusal(400, told, param="messages") from None
    except ChatllamaError as error:
        raise Refusal(400, str(error), param="messages") from None
