"""Tokens of a tokenizer for which its model has no embedding.

Published models have them: Gemma 3 in its text-only size has 262,144 embeddings and, with its
siblings that see, a token for images with the id 262,144. Such a token can only be left out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError

CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def without_unembedded(tokenizer: Any, rows: int, key: str, told: str) -> tuple[Any, list[str]]:
    """`tokenizer` without the special tokens whose ids are not below `rows`; and those tokens.

    Their spellings are then plain text. Raises SettingsError, naming `key` and the tokenizer as
    `told`, where others have no embedding either: words, or what begins and ends a turn.
    """
    beyond = {token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return tokenizer, []
    added = tokenizer.added_tokens_decoder.values() if tokenizer.is_fast else ()
    special = {str(token) for token in added if token.special}
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    used |= {token for token in beyond if token in str(tokenizer.chat_template)}
    if needed := (beyond - special) | (beyond & used):
        ids = max(tokenizer.get_vocab().values()) + 1
        some = ", ".join(sorted(needed)[:3])
        raise SettingsError(
            f"{key}: {told} has {ids} ids, and the model has embeddings for {rows}: it could not "
            f"read {some}; save the model with as many (resize_token_embeddings), or name a "
            "tokenizer that fits it"
        )
    return _without(tokenizer, beyond), sorted(beyond)


def _without(tokenizer: Any, tokens: set[str]) -> Any:
    """The same tokenizer, read again from files that don't name `tokens`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        core = json.loads((folder / "tokenizer.json").read_text())
        core["added_tokens"] = _pruned(core["added_tokens"], tokens)
        (folder / "tokenizer.json").write_text(json.dumps(core))
        for path in map(folder.joinpath, CONFIG_FILES):
            if path.is_file():
                path.write_text(json.dumps(_pruned(json.loads(path.read_text()), tokens)))
        return type(tokenizer).from_pretrained(folder)


def _pruned(value: Any, tokens: set[str]) -> Any:
    """`value` without entries, at any depth, that are one of `tokens`, plain or with its flags."""

    def is_one(entry: Any) -> bool:
        text = entry.get("content") if isinstance(entry, dict) else entry
        return isinstance(text, str) and text in tokens

    if isinstance(value, dict):
        return {key: _pruned(entry, tokens) for key, entry in value.items() if not is_one(entry)}
    if isinstance(value, list):
        return [_pruned(entry, tokens) for entry in value if not is_one(entry)]
    return value
