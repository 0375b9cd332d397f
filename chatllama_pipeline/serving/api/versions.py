"""Which versions of a release speak, and how a new one takes over while others still do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.serving.api.access.refusals import Refusal
from chatllama_pipeline.serving.engine.ways import Way, open_release
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.manifests import Version

LOOK_SECONDS = 1.0
# A version that couldn't be loaded is tried again: it may have been mended.
AGAIN_SECONDS = 30.0
AT = "@"
IN_MEMORY = Way()


class Speaker:
    """A version in memory; `busy` counts the replies that it owes."""

    def __init__(self, version: Version, streams: int, way: Way) -> None:
        self.id, self.created = version.id, version.manifest.created
        self.release, self.engine = open_release(version.path, streams, way)
        # Tokenizers that one thread reads with are not to be touched by another.
        self.reader = load_tokenizer(version.path)
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="reading")
        self.busy, self.spoken = 0, 0

    @property
    def slow(self) -> str:
        """What a person should know of its engine, where it isn't the one that there might be."""
        engine = self.engine
        return f"version {self.id} is written by {engine.name}: {engine.why}" if engine.why else ""

    def close(self) -> None:
        """End its threads."""
        self.engine.close()
        self.reading.shutdown()


class Versions:
    """The versions of assistant `name` that speak, which `wanted` tells anew at every look.

    `wanted` raises ChatllamaError where it can't tell: then those that speak go on. `say` hears
    what changes.
    """

    def __init__(
        self,
        name: str,
        wanted: Callable[[], Sequence[Wanted]],
        streams: int,
        say: Callable[[str], None],
        way: Way = IN_MEMORY,
    ) -> None:
        self.name, self._way = name, way
        self._wanted, self._streams, self._say = wanted, streams, say
        self._speakers: dict[str, tuple[Speaker, float]] = {}
        self._leaving: set[Speaker] = set()
        self._failed: dict[str, float] = {}
        self._told = ""

    def begin(self) -> None:
        """Load what is wanted; raises ChatllamaError."""
        for version, weight in self._wanted():
            self._speakers[version.id] = (Speaker(version, self._streams, self._way), weight)
        self._say_what_is_slow(self.speakers)

    async def follow(self) -> None:
        """Look for what is wanted until this is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
                self._told = ""
            except ChatllamaError as error:
                self._say_once(str(error))

    def close(self) -> None:
        """End all threads."""
        for speaker in [*self.speakers, *self._leaving]:
            speaker.close()

    @property
    def shares(self) -> dict[str, float]:
        """Version -> its share of the requests."""
        total = sum(weight for _, weight in self._speakers.values())
        return {number: weight / total for number, (_, weight) in self._speakers.items()}

    @property
    def speakers(self) -> list[Speaker]:
        return [speaker for speaker, _ in self._speakers.values()]

    def models(self) -> dict[str, str]:
        """What may be asked for by `model`, and since when it is there."""
        named = {f"{self.name}{AT}{one.id}": one.created for one in self.speakers}
        return {self.name: max(named.values()), **named}

    @contextlib.contextmanager
    def speaking(self, model: str) -> Iterator[Speaker]:
        """Who answers a request to `model`; a version that is replaced stays until then."""
        speaker = self._pick(model)
        speaker.busy += 1
        try:
            yield speaker
        finally:
            speaker.busy -= 1
            self._dismiss(speaker)

    def since(self, model: str) -> str:
        """Since when there is that `model`; 404 where there is none."""
        models = self.models()
        if model not in models:
            raise Refusal(
                404,
                f"The model `{model}` does not exist; those there are: {', '.join(models)}",
                code="model_not_found",
                param="model",
            )
        return models[model]

    def _pick(self, model: str) -> Speaker:
        self.since(model)
        _, _, number = model.partition(AT)
        if number:
            return self._speakers[number][0]
        shares, said = self.shares, 1 + sum(one.spoken for one in self.speakers)
        # Who is furthest behind its share: ten requests at 90 to 10 are nine and one.
        chosen = max(self.speakers, key=lambda one: shares[one.id] * said - one.spoken)
        chosen.spoken += 1
        return chosen

    async def _look(self) -> None:
        wanted = await asyncio.to_thread(self._wanted)
        if {version.id: weight for version, weight in wanted} == {
            number: weight for number, (_, weight) in self._speakers.items()
        }:
            return
        if not (fresh := await self._fresh(wanted)):
            return
        before, self._speakers = self._speakers, fresh
        for speaker in self.speakers:
            speaker.spoken = 0
        for number, (speaker, _) in before.items():
            if number not in fresh:
                self._leaving.add(speaker)
                self._dismiss(speaker)
        self._say(f"{self.name} speaks by version {', '.join(fresh)}")
        self._say_what_is_slow([fresh[number][0] for number in fresh if number not in before])

    async def _fresh(self, wanted: Sequence[Wanted]) -> dict[str, tuple[Speaker, float]]:
        """The wanted speakers; none where one can't be had yet."""
        known = self._speakers
        found: dict[str, tuple[Speaker, float]] = {}
        for version, weight in wanted:
            if version.id in known:
                found[version.id] = (known[version.id][0], weight)
                continue
            if monotonic() < self._failed.get(version.id, 0.0):
                return {}
            try:
                speaker = await asyncio.to_thread(Speaker, version, self._streams, self._way)
            except Exception as error:
                # Whatever is wrong with it: those that speak go on.
                self._failed[version.id] = monotonic() + AGAIN_SECONDS
                self._say(f"version {version.id} can't speak, the others go on: {error}")
                unneeded = {one for number, (one, _) in found.items() if number not in known}
                self._leaving |= unneeded
                for one in unneeded:
                    self._dismiss(one)
                return {}
            found[version.id] = (speaker, weight)
        return found

    def _dismiss(self, speaker: Speaker) -> None:
        if speaker in self._leaving and not speaker.busy:
            self._leaving.remove(speaker)
            # Its thread may take a step to end: nobody waits for it.
            asyncio.get_running_loop().run_in_executor(None, speaker.close)

    def _say_what_is_slow(self, speakers: Sequence[Speaker]) -> None:
        for speaker in speakers:
            if speaker.slow:
                self._say(speaker.slow)

    def _say_once(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)
