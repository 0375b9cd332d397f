"""Lengths in characters, of all rows; in tokens, of a sample, where a tokenizer is to be had."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chatllama_pipeline.data.audit.tables import TableScan
from chatllama_pipeline.data.prepare.lengths import tokenizer_place
from chatllama_pipeline.data.tables import plain_text
from chatllama_pipeline.models.chat.plain_text import PlainText
from chatllama_pipeline.settings import SCRATCH, AssistantSettings
from chatllama_pipeline.settings.training.base_model import GGUF_SUFFIX
from chatllama_pipeline.store.manifests import hash_file
from chatllama_pipeline.table_files import rows_at

# Characters per token where nothing can be measured: about what English text has.
USUAL_CHARACTERS_PER_TOKEN = 4.0
SAMPLED_ROWS = 1_000
_FEWEST_BINS = 12
_TOKENIZER_FILE = "tokenizer.json"

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Lengths of one part of a table's rows. `bins` are (from, to, rows), alike in octaves."""

    rows: int
    median: int
    most_of: int
    longest: int
    bins: list[tuple[float, float, int]]


@dataclass(frozen=True)
class TokenFigures:
    """Lengths in tokens of `sampled` rows; `too_long` of them pass `limit` tokens in all."""

    sampled: int
    lengths: dict[str, Lengths]
    characters_per_token: float
    too_long: int
    limit: int


def lengths_of(values: Numbers, counts: Numbers | None = None) -> Lengths:
    """Median, 95th percentile, maximum and histogram of lengths; with `counts` (1 each where there
    are none) of so many of each value, in order."""
    if counts is None:
        values, counts = np.unique(values, return_counts=True)
    if not len(values):
        return Lengths(0, 0, 0, 0, [])
    shown = np.maximum(values, 1)
    per_octave = _bins_per_octave(int(shown.min()), int(shown.max()))
    # A hair up, so that 2 ** (3 / 8) stays in the bin that it begins.
    places = np.floor(per_octave * np.log2(shown) + 1e-9).astype(np.int64)
    first = int(places.min())
    bins = [
        (2 ** ((first + place) / per_octave), 2 ** ((first + place + 1) / per_octave), int(count))
        for place, count in enumerate(np.bincount(places - first, weights=counts))
    ]
    ends = np.cumsum(counts)
    median, most_of = (_percentile(values, ends, share) for share in (0.5, 0.95))
    return Lengths(int(ends[-1]), round(median), round(most_of), int(values.max()), bins)


def _percentile(values: Numbers, ends: Numbers, share: float) -> float:
    """As numpy's: between two values by the share that lies between them."""
    place = share * (int(ends[-1]) - 1)
    low, high = np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")
    return float(values[low] + (values[high] - values[low]) * (place - math.floor(place)))


def _bins_per_octave(shortest: int, longest: int) -> int:
    """Twice as many until a dozen bins are filled, or one is narrower than a character."""
    per_octave = 2
    while per_octave * np.log2((longest + 1) / shortest) < _FEWEST_BINS and (
        shortest * (2 ** (0.5 / per_octave) - 1) >= 1
    ):
        per_octave *= 2
    return per_octave


def tokenizer_file(settings: AssistantSettings) -> Path | None:
    """The actor's tokenizer, where it is at hand without a download: in a local folder, or in
    the hub's cache. None for a model from scratch, whose tokenizer is trained later."""
    name, gguf_file = tokenizer_place(settings)
    if name == SCRATCH:
        return None
    inner = gguf_file or _TOKENIZER_FILE
    local = Path(name) if name.endswith(GGUF_SUFFIX) else Path(name) / inner
    if Path(name).is_absolute() or local.is_file():
        return local if local.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):
        cached = try_to_load_from_cache(name, inner)
        return Path(cached) if isinstance(cached, str) else None
    return None


def tokenizer_name(settings: AssistantSettings) -> str:
    """What the actor's tokenizer is called: a hub id, or the name of its folder or file."""
    name, _ = tokenizer_place(settings)
    return Path(name).name if Path(name).is_absolute() else name


def tokenizer_fingerprint(settings: AssistantSettings) -> str | None:
    """Name and sha256 of the tokenizer that lengths are measured by; None where there is none."""
    file = tokenizer_file(settings)
    return f"{tokenizer_name(settings)} {hash_file(file)}" if file else None


def measure_tokens(scan: TableScan, plain: PlainText, limit: int) -> TokenFigures:
    """Tokens of evenly spaced rows of a table."""
    sampled = min(scan.rows, SAMPLED_ROWS)
    places = np.linspace(0, scan.rows - 1, sampled).astype(np.int64)
    columns = list(scan.characters)
    rows = rows_at(scan.path, places, columns).to_pylist()
    lengths = {}
    characters = 0
    for part in columns:
        texts = [plain_text(row[part]) if part == "prompt" else row[part] for row in rows]
        characters += sum(map(len, texts))
        lengths[part] = np.array(plain.counts(texts), np.int64)
    tokens = sum(int(counts.sum()) for counts in lengths.values())
    replies = [counts for part, counts in lengths.items() if part != "prompt"]
    longest = np.max(replies, axis=0) if replies else np.zeros(len(rows), np.int64)
    return TokenFigures(
        sampled=len(rows),
        lengths={part: lengths_of(counts) for part, counts in lengths.items()},
        characters_per_token=characters / tokens if tokens else USUAL_CHARACTERS_PER_TOKEN,
        too_long=int((lengths["prompt"] + longest > limit).sum()),
        limit=limit,
    )
