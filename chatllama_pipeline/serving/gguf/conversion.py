"""A release's folder as one GGUF file of float16, by llama.cpp's own converter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.exportable import converter_folder, split_of
from chatllama_pipeline.serving.gguf import converting

UNKNOWN_SPLIT = "BPE pre-tokenizer was not recognized"


# llama.cpp takes some token for BOS where a model has none, and templates that ask would write it.
NO_BOS = "{% set bos_token = '' %}{{ '' }}"
TEMPLATE_FILE = "chat_template.jinja"


def convert(folder: Path, tokenizer: Any, name: str, target: Path) -> None:
    """Write the release in `folder` to `target`; SettingsError where the converter can't."""
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        # The converter writes down what the folder is called.
        whole = Path(place) / "release"
        whole.mkdir()
        for path in folder.iterdir():
            (whole / path.name).symlink_to(path.resolve())
        if tokenizer.bos_token is None:
            template = whole / TEMPLATE_FILE
            template.unlink(missing_ok=True)
            template.write_text(NO_BOS + tokenizer.chat_template, encoding="utf-8")
        _run(whole, tokenizer, name, target)


def _run(folder: Path, tokenizer: Any, name: str, target: Path) -> None:
    told = f"{name} as GGUF"
    command = [sys.executable, "-P", converting.__file__, str(converter_folder(told))]
    command += [split_of(tokenizer) or "", str(folder), "--model-name", name]
    done = subprocess.run(
        [*command, "--outtype", "f16", "--outfile", str(target)],
        capture_output=True,
        text=True,
        # The hub is asked for nothing: the folder is whole.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        check=False,
    )
    if done.returncode == 0 and target.is_file():
        return
    if UNKNOWN_SPLIT in done.stderr:
        raise SettingsError(
            f"{told}: llama.cpp's converter doesn't know how the tokenizer of this model splits a "
            f"text ({_split_told(tokenizer)}), and a guess would read every prompt wrong: release "
            "it as it is"
        )
    last = "\n".join(done.stderr.strip().splitlines()[-3:])
    raise SettingsError(
        f"{told}: llama.cpp's converter can't write it: release it as it is. It said: {last}"
    )


def _split_told(tokenizer: Any) -> str:
    split = tokenizer.backend_tokenizer.pre_tokenizer
    return "no pre-tokenizer" if split is None else str(split)[:200]
