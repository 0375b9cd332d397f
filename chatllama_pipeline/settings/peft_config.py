"""`peft_config.yaml` -> the `lora` of a section: the original's file is taken as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import LoraSettings
from chatllama_pipeline.settings.training.lora import PEFT_CONFIG_FILE

SECTIONS = ("actor_config", "reward_config", "critic_config")


def fill_lora(raw: dict[str, Any], folder: Path) -> list[str]:
    """Put the keys of `peft_config_path` under each section's `lora`; what stands there wins.

    Paths are relative to the assistant's `folder`. Where the named file doesn't exist (the
    original's default stood beside its own code), `peft_config.yaml` in the folder is read; where
    neither does and `peft_enable` is set, the warning says so. Raises SettingsError for a file
    that can't be understood.
    """
    warnings = []
    for section in SECTIONS:
        keys = raw.get(section) or {}
        if not isinstance(keys, dict):
            continue
        named = keys.get("peft_config_path", PEFT_CONFIG_FILE)
        files = [folder / str(named), folder / PEFT_CONFIG_FILE]
        file = next((path for path in files if path.is_file()), None)
        if file is not None:
            own = keys.get("lora") or {}
            if isinstance(own, dict):
                raw[section] = {**keys, "lora": {**read_peft_config(file), **own}}
        if "peft_config_path" in keys and keys.get("peft_enable") and file != files[0]:
            taken = f"{file} is read" if file else "the defaults of lora are used"
            warnings.append(f"{section}.peft_config_path: {files[0]} does not exist; {taken}")
    return warnings


def read_peft_config(path: Path) -> dict[str, Any]:
    """The file's keys, validated."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} holds a {type(raw).__name__}, not `key: value` lines")
    try:
        LoraSettings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_explain(detail, path) for detail in error.errors())
        ) from None
    return raw


def _explain(detail: Any, path: Path) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key {key}; those there are: {', '.join(LoraSettings.model_fields)}"
    if detail["type"] == "value_error":
        return f"{path}: {detail['ctx']['error']}"
    return f"{path}: {key}: {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
