"""64-bit hashes that are the same on every machine: of a million, two agree once in 10^7 times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def text_hash(text: str) -> int:
    """A hash of one text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def text_hashes(texts: Iterable[str]) -> Hashes:
    """`text_hash` of each text."""
    return raw_hashes(text.encode("utf-8", "surrogatepass") for text in texts)


def raw_hashes(texts: Iterable[bytes | memoryview]) -> Hashes:
    """`text_hash` of each text, as its bytes in UTF-8."""
    blake2b = hashlib.blake2b
    digests = b"".join([blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def row_hash(*texts: str) -> int:
    """A hash of several texts in their order; the lengths keep their borders apart."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return int.from_bytes(digest.digest(), "little")


def mixed(*columns: Hashes | int) -> Hashes:
    """Hashes over columns of hashes, row by row (the finalizer of splitmix64, Steele 2014)."""
    total: Hashes = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            total = total * np.uint64(0x9E3779B97F4A7C15) + np.asarray(column, np.uint64)
            total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total = total ^ (total >> np.uint64(31))
    return total


def among(values: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Which values stand among some in order."""
    if not len(wanted):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    found: npt.NDArray[np.bool_] = wanted[at] == values
    return found
