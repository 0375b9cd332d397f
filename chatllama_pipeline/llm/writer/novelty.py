"""Is a written text new, sound, and unlike the others? Measured alike in every script.

Texts are compared as sequences of tokens: words, and single characters in scripts that put no
spaces between words. The similarity of two texts is ROUGE-L's F-measure (Lin 2004), by which
Self-Instruct (Wang et al. 2022) keeps an instruction that is below .7 to all there are; rapidfuzz
computes it as the normalised indel similarity 2 LCS / (m + n).
"""

from __future__ import annotations

import itertools
import random
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

from rapidfuzz import process
from rapidfuzz.distance import Indel

from chatllama_pipeline.data.words import WORD

# Similar enough to be a repetition.
MOST_SIMILAR = 0.7
LONGEST_TOKENS = 1500

# Why a text is refused.
EMPTY = "empty"
GARBLED = "garbled"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
REPETITIVE = "repetitive"
LIKE_AN_EXAMPLE = "like_an_example"
LIKE_ANOTHER = "like_another"

# Loops compress far better than prose: 30 words of English keep over half of their bytes, a
# sentence said six times keeps a quarter.
_SMALLEST_COMPRESSED = 0.25
_LONG_ENOUGH_TO_COMPRESS = 200
_MOST_ONE_TOKEN = 0.5
_FEW_TOKENS = 8
# Code points that are handed out to tokens: a supplementary private plane, and the next.
_FIRST_CODE, _CODES = 0xF0000, 0x1FFFE
_SAMPLE = 500


def tokens(text: str) -> list[str]:
    """Words of a text, case and Unicode form evened out; of a text without any, its characters."""
    even = unicodedata.normalize("NFKC", text).casefold()
    return WORD.findall(even) or [character for character in even if not character.isspace()]


def fault_of(text: str, fewest_tokens: int = 1) -> str | None:
    """Why a text is unfit in any language, or None: empty, garbled, of a wrong length, a loop."""
    if not text.strip():
        return EMPTY
    if any(_is_garbage(character) for character in text):
        return GARBLED
    words = tokens(text)
    if len(words) < fewest_tokens:
        return TOO_SHORT
    if len(words) > LONGEST_TOKENS:
        return TOO_LONG
    return REPETITIVE if _loops(text, words) else None


def _is_garbage(character: str) -> bool:
    if character in "\n\t\r":
        return False
    # Control, surrogate, unassigned; joiners and direction marks (Cf) belong to many scripts.
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cs", "Cn")


def _loops(text: str, words: Sequence[str]) -> bool:
    if len(words) >= _FEW_TOKENS and Counter(words).most_common(1)[0][1] > _MOST_ONE_TOKEN * len(
        words
    ):
        return True
    raw = text.encode()
    return len(raw) >= _LONG_ENOUGH_TO_COMPRESS and len(
        zlib.compress(raw, 9)
    ) < _SMALLEST_COMPRESSED * len(raw)


class Pool:
    """Texts that new ones are compared with: the user's examples, and what was written so far."""

    def __init__(self, examples: Iterable[str], most_similar: float = MOST_SIMILAR) -> None:
        self._most_similar = most_similar
        self._codes: dict[str, str] = {}
        self._examples = [self._coded(text) for text in examples]
        self._written: list[str] = []

    def __len__(self) -> int:
        return len(self._written)

    def add(self, text: str) -> str | None:
        """Take a text in, or return why not: it repeats an example or another text."""
        coded = self._coded(text)
        for reason, others in ((LIKE_AN_EXAMPLE, self._examples), (LIKE_ANOTHER, self._written)):
            if _nearest(coded, others, self._most_similar) >= self._most_similar:
                return reason
        self._written.append(coded)
        return None

    def _coded(self, text: str) -> str:
        """The text with one code point for each distinct token, which compares fastest."""
        return "".join(
            self._codes.setdefault(token, chr(_FIRST_CODE + len(self._codes) % _CODES))
            for token in tokens(text)
        )


def _nearest(coded: str, others: Sequence[str], cutoff: float = 0.0) -> float:
    found = process.extractOne(
        coded, others, scorer=Indel.normalized_similarity, score_cutoff=cutoff
    )
    return float(found[1]) if found else 0.0


def similarity(one: str, other: str) -> float:
    """ROUGE-L's F-measure of two texts, 0..1."""
    return float(Indel.normalized_similarity(tokens(one), tokens(other)))


def diversity(texts: Sequence[str]) -> dict[str, float]:
    """How different texts are from each other.

    `distinct_1` and `distinct_2` are the shares of different tokens and bigrams (Li et al. 2016);
    `self_similarity` is the mean over at most 500 of them of the ROUGE-L to the nearest other.
    """
    rows = [tokens(text) for text in texts]
    if not rows:
        return {}
    codes: dict[str, str] = {}
    coded = [
        "".join(codes.setdefault(word, chr(_FIRST_CODE + len(codes) % _CODES)) for word in row)
        for row in rows
    ]
    chosen = random.Random(0).sample(range(len(rows)), min(_SAMPLE, len(rows)))
    near = [_nearest(coded[n], [coded[m] for m in chosen if m != n]) for n in chosen]
    return {
        "distinct_1": _distinct(itertools.chain.from_iterable(rows)),
        "distinct_2": _distinct(pair for row in rows for pair in itertools.pairwise(row)),
        "self_similarity": round(sum(near) / len(near), 4),
    }


def _distinct(items: Iterable[object]) -> float:
    counted = Counter(items)
    return round(len(counted) / max(1, counted.total()), 4)
