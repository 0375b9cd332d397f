"""Seeds that differ by stage and yet follow from the assistant's one seed."""

from __future__ import annotations

import hashlib


def stage_seed(seed: int, *names: str | int) -> int:
    """A 31-bit seed from the assistant's seed and any names (stage, iteration, epoch, row)."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
