"""Plain rows: their hashes, the side that a conversation stands on, and label noise.

Sides follow a hash of the first user turn alone, so adding rows moves no old prompt, and every
table of an assistant splits alike. Label noise follows a hash of the pair in the same way.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from chatllama_pipeline.data.near_duplicates import evened, place_of
from chatllama_pipeline.records import Split

if TYPE_CHECKING:
    from chatllama_pipeline.settings import DataSettings

Row = dict[str, Any]
Messages = list[dict[str, str]]


def content_hash(*parts: Any) -> str:
    """A hash of plain values, the same on every machine."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split_of(prompt: Messages, data: DataSettings) -> Split:
    """The side of a prompt: test, validation or train, in the shares that `data` sets."""
    first = next((turn["content"] for turn in prompt if turn["role"] == "user"), "")
    place = place_of(evened(first))
    if place < data.test_share:
        return "test"
    return "validation" if place < data.test_share + data.validation_share else "train"


def is_flipped(pair: Row, noise: float, seed: int) -> bool:
    """Whether label noise swaps this pair's replies; a matter of the seed and the pair alone."""
    digest = content_hash(seed, pair["prompt"], pair["chosen"], pair["rejected"])
    return noise > 0 and int(digest[:13], 16) / 16**13 < noise
