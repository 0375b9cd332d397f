"""Which code runs: nodes that read one spec must hold one engine."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

from chatllama_pipeline.errors import SettingsError

PACKAGE = Path(__file__).resolve().parents[1]
# Handed to stages that start on other machines: the fingerprint of the code that asked for them.
VARIABLE = "CHATLLAMA_SOURCE"


def source_fingerprint() -> str:
    """A hash of the engine's own Python files, by their place and content."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def require_same_source() -> None:
    """Raises SettingsError where whoever asked for this stage runs other code than this process."""
    asked = os.environ.get(VARIABLE)
    if asked is not None and asked != source_fingerprint():
        raise SettingsError(
            f"{socket.gethostname()} has another version of the project in {PACKAGE} than the "
            "machine that started the run: install the same one on every node, or share its folder"
        )
