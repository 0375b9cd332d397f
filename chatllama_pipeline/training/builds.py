"""DeepSpeed's operations are built at first use; what a killed build leaves is cleared away.

torch lets one process build and has all others wait for its file `lock`, for ever where the builder
was killed (torch.utils.file_baton).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

LOCK = "lock"
# Memory that ranks on one CPU share, which none of what we ask DeepSpeed for would use.
SHARED_MEMORY = "deepspeed_shm_comm"
# Before its compilers start, a builder that has the lock writes one small file.
OLD_SECONDS = 60.0


def builds_root() -> Path:
    """Where torch builds: `TORCH_EXTENSIONS_DIR`, else its folder in the user's cache."""
    if named := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(named)
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root())


def do_without_shared_memory() -> None:
    """Have ranks on a CPU talk by gloo alone: what would help it takes minutes to compile."""
    from deepspeed import ops

    ops.__compatible_ops__[SHARED_MEMORY] = False


def clear_abandoned_builds(root: Path) -> list[Path]:
    """Remove the locks under `root` that are old and in whose folders nobody compiles."""
    now = time.time()
    removed = []
    for lock in sorted(root.glob(f"**/{LOCK}")):
        with contextlib.suppress(FileNotFoundError):
            if now - lock.stat().st_mtime > OLD_SECONDS and not _works_in(lock.parent):
                lock.unlink()
                removed.append(lock)
    return removed


def _works_in(folder: Path) -> bool:
    """Whether a process, ninja or a compiler of its, has `folder` as its working directory."""
    place = str(folder.resolve())
    return any(process.info["cwd"] == place for process in psutil.process_iter(["cwd"]))
