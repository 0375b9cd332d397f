"""Configs and tokenizers of version folders; a model's own code runs only where a setting says so.

`actor_base` and `reward_base` alone decide (`trust_remote_code`): they write the decision into the
config of the folder they publish, whatever the model's own config says, and later stages follow it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from chatllama_pipeline.machine import own_bytes
from chatllama_pipeline.models.chat.plain_text import unaltered
from chatllama_pipeline.models.families.switches import set_switches
from chatllama_pipeline.progress import MEGABYTE, watching
from chatllama_pipeline.store.model_files import base_folder

CODE_TRUSTED = "chatllama_code_trusted"
# transformers patches torch and itself while it loads: of two threads at once one would load
# nothing, and both leave it patched.
_LOADING = threading.RLock()


def code_arguments(folder: Path | str) -> dict[str, bool]:
    """Whether the code in `folder` may run, as an argument of `from_pretrained`."""
    path = Path(folder) / "config.json"
    trusted = path.is_file() and json.loads(path.read_text()).get(CODE_TRUSTED) is True
    return {"trust_remote_code": trusted}


def load_config(folder: Path | str) -> Any:
    """The config of the model in `folder`, its switches as our forwards expect them."""
    return set_switches(AutoConfig.from_pretrained(str(folder), **code_arguments(folder)))


@contextlib.contextmanager
def loading(folder: Path | str) -> Iterator[None]:
    """Alone among threads, tell how far the weights beneath `folder` are, where that takes long."""
    files = base_folder(folder).glob("*.safetensors")
    size = sum(path.stat().st_size for path in files) / MEGABYTE
    with _LOADING, watching("loads weights", size, lambda: own_bytes("cpu") / MEGABYTE, "MB"):
        yield


def load_tokenizer(folder: Path | str) -> Any:
    """The tokenizer in `folder`, which reads and writes texts as they are, to the last token."""
    return as_they_are(AutoTokenizer.from_pretrained(str(folder), **code_arguments(folder)))


def as_they_are(tokenizer: Any) -> Any:
    """`tokenizer` without what its files bring that changes texts.

    That is truncation and padding of what it reads, and spaces taken out of what it writes: a judge
    would read another text than was sampled.
    """
    tokenizer.clean_up_tokenization_spaces = False
    if (core := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        unaltered(core)
    return tokenizer
