"""Which files a model's version folder has; no torch."""

from __future__ import annotations

from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FOLDER = "base"


def has_adapter(folder: Path | str) -> bool:
    """Whether the model in `folder` is an adapter on a base."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def base_folder(folder: Path | str) -> Path:
    """Where the model's full weights stand: `base/` under an adapter's folder, else itself."""
    return Path(folder) / BASE_FOLDER if has_adapter(folder) else Path(folder)
