"""Length limits in tokens, held before anything is trained.

A byte-level or SentencePiece tokenizer makes no more tokens of a text than it has bytes, so most
rows need no tokenizer: only where the bytes leave doubt are a row's longest texts tokenized, until
the rest leaves none; each distinct one once. `TURN_TOKENS` is allowed per turn for what a chat
template puts around it. The settings aren't imported here: each process that notes rows would wait
for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.hashes import Hashes, text_hashes
from chatllama_pipeline.data.spill.known import Known
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.plain_text import PlainText, unaltered

if TYPE_CHECKING:
    from chatllama_pipeline.models.bases.sources import Found

TURN_TOKENS = 8
# The reason under which rows beyond the limits are counted.
TOO_LONG = "too_long"
TOKENIZER_FILE = "tokenizer.json"
GPT2_FILES = ("vocab.json", "merges.txt")
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")

Flags = npt.NDArray[np.bool_]
# Where a tokenizer is: a folder, GGUF file or hub id, and the GGUF file in it; None: bytes count.
Place = tuple[str, str] | None


@dataclass(frozen=True)
class Limits:
    """Most tokens of prompt and reply together, and of a reply; None where there is no limit."""

    total: int | None
    reply: int | None


class TokenCounter:
    """Counts tokens with the tokenizer at a place, which is loaded once it is needed. What is in
    `known` isn't tokenized again."""

    def __init__(self, place: Place, known: Known) -> None:
        self._place = place
        self._plain: PlainText | None = None
        self._known = known
        self._tokenized: list[Hashes] = []

    def counts(self, texts: Iterable[str]) -> dict[str, int]:
        """Tokens of each text."""
        distinct = list(dict.fromkeys(texts))
        keys = text_hashes(distinct)
        found, counts, _ = self._known.find(keys)
        new = np.flatnonzero(~found)
        if len(new):
            made = self._count([distinct[i] for i in new])
            counts[new] = np.array(made, np.uint64)
            self._known.put(keys[new], counts[new], np.zeros(len(new), np.uint64))
            self._tokenized.append(keys[new])
        return dict(zip(distinct, counts.tolist(), strict=True))

    def _count(self, texts: list[str]) -> list[int]:
        if self._place is None:
            return [len(text.encode()) for text in texts]
        self._plain = self._plain or PlainText(load_tokenizer(*self._place))
        return self._plain.counts(texts)

    def taken(self) -> Hashes:
        """The hashes of the texts that were tokenized since the last call."""
        none = np.zeros(0, np.uint64)
        found, self._tokenized = np.concatenate([none, *self._tokenized]), []
        return none if self._place is None else found


def load_tokenizer(place: str, gguf_file: str = "") -> Any:
    """The tokenizer of a local folder, GGUF file or hub id, of the `tokenizers` library.

    It neither truncates nor pads. transformers, which takes seconds to import, is asked only where
    it must convert one. Raises DataError where there is none, with what to set.
    """
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    from chatllama_pipeline.models.bases.sources import find_tokenizer

    try:
        found = find_tokenizer(place, "actor_config", gguf_file=gguf_file or None)
        folder = found.folder
        if found.gguf is not None:
            return _converted(found)
        if (folder / TOKENIZER_FILE).is_file():
            return unaltered(Tokenizer.from_file(str(folder / TOKENIZER_FILE)))
        pair = [folder / name for name in GPT2_FILES]
        if all(file.is_file() for file in pair):
            return ByteLevelBPETokenizer(*map(str, pair))._tokenizer
        if any((folder / name).is_file() for name in SENTENCEPIECE_FILES):
            return _converted(found)
    # What is no tokenizer file makes `tokenizers` raise plain exceptions.
    except Exception as error:
        raise _no_tokenizer(place, f" ({type(error).__name__}: {error})") from error
    raise _no_tokenizer(place, "")


def _converted(found: Found) -> Any:
    """The tokenizer that transformers makes of a SentencePiece or GGUF file."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(
        str(found.folder), local_files_only=True, **found.arguments
    )
    return unaltered(made.backend_tokenizer)


def _no_tokenizer(place: str, why: str) -> DataError:
    return DataError(
        f"rows may be longer than the limit in tokens, and {place} gives no {TOKENIZER_FILE} to "
        f"count them by{why}; set actor_config.tokenizer_path to a folder that holds one, or "
        "data.max_length to more bytes than any row has"
    )


def fit(
    table: pa.Table, replies: tuple[str, ...], limits: Limits, counter: TokenCounter
) -> tuple[Flags, npt.NDArray[np.int64]]:
    """Which rows fit, and how many turns their prompts lose on the left for it.

    A prompt is cut before a user's turn and keeps its system turn; a reply is never cut.
    """
    count = table.num_rows
    fits, cuts = np.ones(count, np.bool_), np.zeros(count, np.int64)
    doubtful = np.flatnonzero(_doubtful(table, replies, limits))
    if not len(doubtful):
        return fits, cuts
    rows = table.select(["prompt", *replies]).take(pa.array(doubtful)).to_pylist()
    waiting = [_Doubtful(row["prompt"], [row[name] for name in replies], limits) for row in rows]
    places = doubtful.tolist()
    while waiting:
        tokens = counter.counts(row.longest() for row in waiting)
        for row in waiting:
            row.count_longest(tokens)
        settled = [row.is_settled() for row in waiting]
        for place, row, done in zip(places, waiting, settled, strict=True):
            if done:
                cut = row.cut()
                fits[place], cuts[place] = cut is not None, cut or 0
        left = [number for number, done in enumerate(settled) if not done]
        places, waiting = [places[number] for number in left], [waiting[number] for number in left]
    return fits, cuts


class _Doubtful:
    """A row that has more bytes than tokens are allowed. Its longest texts are counted until the
    rest fits by its bytes: which they are follows from the row alone."""

    def __init__(self, prompt: list[dict[str, str]], replies: list[str], limits: Limits) -> None:
        self._prompt, self._limits = prompt, limits
        self._texts = [*(turn["content"] for turn in prompt), *replies]
        # Of each text its tokens or, where it isn't counted, its bytes: never fewer.
        self._most = [len(text.encode()) for text in self._texts]
        self._left = sorted(range(len(self._texts)), key=self._most.__getitem__)

    def longest(self) -> str:
        """The longest text that isn't counted."""
        return self._texts[self._left[-1]]

    def count_longest(self, tokens: dict[str, int]) -> None:
        place = self._left.pop()
        self._most[place] = tokens[self._texts[place]]

    def is_settled(self) -> bool:
        """Whether more counts change nothing: all fits, or there is none left."""
        return not self._left or self.cut() == 0

    def cut(self) -> int | None:
        """How many turns go on the left (see `_cut`) by what is known; None: it never fits."""
        turns = len(self._prompt)
        reply = max(self._most[turns:], default=0)
        if self._limits.reply is not None and reply > self._limits.reply:
            return None
        if self._limits.total is None:
            return 0
        room = self._limits.total - (reply + TURN_TOKENS if self._most[turns:] else 0)
        return _cut(self._most[:turns], self._prompt, room)


def _doubtful(table: pa.Table, replies: tuple[str, ...], limits: Limits) -> Flags:
    """Rows that have more bytes than tokens are allowed."""
    prompts = table["prompt"].combine_chunks()
    sizes = pc.binary_length(prompts.flatten().field("content")).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(sizes.astype(np.int64) + TURN_TOKENS)])
    offsets = prompts.offsets.to_numpy() - prompts.offsets[0].as_py()
    total = ends[offsets[1:]] - ends[offsets[:-1]]
    reply = np.zeros(table.num_rows, np.int64)
    for name in replies:
        reply = np.maximum(reply, pc.binary_length(table[name]).to_numpy())
    doubtful = np.zeros(table.num_rows, np.bool_)
    if limits.total is not None:
        doubtful |= total + reply + (TURN_TOKENS if replies else 0) > limits.total
    if limits.reply is not None:
        doubtful |= reply > limits.reply
    return doubtful


def _cut(tokens: list[int], prompt: list[dict[str, str]], room: int) -> int | None:
    """How many turns go on the left (after a system turn) for the rest to fit; None: none does."""
    system = int(prompt[0]["role"] == "system") if prompt else 0
    head = sum(tokens[:system]) + TURN_TOKENS * system
    for first in range(system, len(prompt)):
        if first > system and prompt[first]["role"] != "user":
            continue
        if head + sum(tokens[first:]) + TURN_TOKENS * (len(prompt) - first) <= room:
            return first - system
    return None


def cut_prompts(table: pa.Table, cuts: npt.NDArray[np.int64]) -> pa.Table:
    """The rows with that many turns fewer on the left of their prompts, system turns kept."""
    if not cuts.any():
        return table
    place = table.schema.get_field_index("prompt")
    prompts = table["prompt"].to_pylist()
    for number in np.flatnonzero(cuts).tolist():
        prompt = prompts[number]
        system = int(prompt[0]["role"] == "system")
        prompts[number] = prompt[:system] + prompt[system + int(cuts[number]) :]
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(prompts, field.type))
