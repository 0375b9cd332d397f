"""A model's files in its version folder: full weights, or an adapter and its base; no torch."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from chatllama_pipeline.store.manifests import hash_files

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FOLDER = "base"
# The name that peft gives a model's only adapter.
ADAPTER_NAME = "default"


def has_adapter(folder: Path | str) -> bool:
    """Whether the model in `folder` is an adapter on a base."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def base_folder(folder: Path | str) -> Path:
    """Where the model's full weights stand: `base/` under an adapter's folder, else itself."""
    return Path(folder) / BASE_FOLDER if has_adapter(folder) else Path(folder)


def weights_digest(folder: Path) -> str:
    """A hash of the weights in `folder`: equal where two models have the same base."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        digest.update(_hash(path, status.st_ino, status.st_mtime_ns).encode())
    return digest.hexdigest()


@functools.cache
def _hash(path: Path, inode: int, changed: int) -> str:
    return hash_files("hashes the base's weights", [path])[0]
