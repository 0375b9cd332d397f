"""Libraries that a stage has no use for, kept from being imported.

transformers and accelerate import whatever of their relatives is installed: DeepSpeed as soon as a
model is saved, peft and datasets with their Trainer; that takes longer than a small model trains.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.store.model_files import has_adapter

# library -> the settings of a section that ask for it; tables are read by pyarrow alone.
ASKED_BY = {
    "deepspeed": ("deepspeed_enable", "zero_stage"),
    "peft": ("peft_enable",),
    "datasets": (),
}


def needless(spec: StageSpec) -> frozenset[str]:
    """The libraries that the stage of `spec` doesn't use.

    A model that brings code of its own may import any of them.
    """
    sections = [section for section in spec.settings.values() if isinstance(section, Mapping)]
    if any(section.get("trust_remote_code") for section in sections):
        return frozenset()
    used = {name for name, keys in ASKED_BY.items() if _any_set(sections, keys)}
    if any(has_adapter(folder) for folder in spec.inputs.values()):
        used.add("peft")
    return frozenset(ASKED_BY.keys() - used)


def hide_unused(spec: StageSpec) -> None:
    """Let this process find none of the libraries that are `needless`."""
    for name in needless(spec) - sys.modules.keys():
        # What Python itself takes for "not there": importing it raises ModuleNotFoundError.
        sys.modules[name] = None  # type: ignore[assignment]


def reveal(name: str) -> None:
    """Let this process find a library again that it turned out to have a use for."""
    if name in sys.modules and sys.modules[name] is None:
        del sys.modules[name]


def _any_set(sections: list[Mapping[str, Any]], keys: tuple[str, ...]) -> bool:
    return any(section.get(key) for section in sections for key in keys)
