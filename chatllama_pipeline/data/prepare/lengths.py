"""What an assistant's settings say of lengths: the limits, and the tokenizer that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatllama_pipeline.data.prepare.tokens import (
    GPT2_FILES,
    SENTENCEPIECE_FILES,
    TOKENIZER_FILE,
    Limits,
    Place,
)
from chatllama_pipeline.settings import SCRATCH, AssistantSettings
from chatllama_pipeline.store.manifests import hash_file


def limits_of(settings: AssistantSettings) -> Limits:
    """What `data` sets; without `max_length` what the actor reads, if its tokenizer is there.

    A model from scratch has no tokenizer before its data: only an explicit limit holds, in bytes.
    """
    total = settings.data.max_length
    if total is None and settings.actor_config.model != SCRATCH:
        total = settings.actor_config.max_sequence_length
    return Limits(total, settings.data.max_reply_length)


def limits_in_words(settings: AssistantSettings) -> str:
    """The keys that set `limits_of`, with their values."""
    limits, own = limits_of(settings), settings.data.max_length
    total = "actor_config.max_sequence_length" if own is None else "data.max_length"
    named = {total: limits.total, "data.max_reply_length": limits.reply}
    return " or ".join(f"{key} ({value})" for key, value in named.items() if value is not None)


def lengths_identity(settings: AssistantSettings) -> dict[str, Any]:
    """What decides the lengths of a table: the limits, and the tokenizer that counts."""
    limits = limits_of(settings)
    if limits == Limits(None, None):
        return {}
    folder = Path(*tokenizer_place(settings))
    place = str(folder)
    if folder.is_file():
        place = hash_file(folder)
    elif folder.is_absolute():
        files = [folder / name for name in (TOKENIZER_FILE, *GPT2_FILES)]
        if not files[0].is_file():
            files += [folder / name for name in SENTENCEPIECE_FILES]
        place = " ".join(hash_file(file) for file in files if file.is_file())
    return {"total": limits.total, "reply": limits.reply, "tokenizer": place}


def tokenizer_place(settings: AssistantSettings) -> tuple[str, str]:
    """Where the actor's tokenizer is: a folder, GGUF file or hub id, and the GGUF file in it."""
    actor = settings.actor_config
    if actor.tokenizer_path is not None:
        return actor.tokenizer_path, ""
    return actor.model, actor.gguf_file or ""


def counted_by(settings: AssistantSettings) -> Place:
    """Where the tokenizer is that rows' lengths are counted by; a model from scratch has none
    before its data."""
    place = tokenizer_place(settings)
    return None if place[0] == SCRATCH else place
