"""An interpreter that imports trl 1.12.0, which nothing of ours needs, beside what runs here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.launch.allocator import allocator_environment
from chatllama_pipeline.launch.child import child_environment, cores_at_hand

VERSION = "1.12.0"
ROOT = Path(__file__).parents[2]
PACKAGES = ("site-packages", "dist-packages")


class Interpreter(NamedTuple):
    """A Python, and what its path must begin with."""

    python: Path
    path: tuple[Path, ...] = (ROOT,)

    def environment(self, *, allocator: bool) -> dict[str, str]:
        """Of its processes: that of the pipeline's stages, their `allocator` or not; no network."""
        stages = child_environment(cores_at_hand())
        if not allocator:
            for name in allocator_environment(os.environ):
                del stages[name]
        return stages | {
            "PYTHONPATH": os.pathsep.join(map(str, self.path)),
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }


HERE = Interpreter(Path(sys.executable))


def with_trl(wheel: Path | None, unpacked: Path) -> Interpreter:
    """The one that runs, where it has that trl or its `wheel`; else one made for it.

    `wheel` may be a folder of them. They are put into `unpacked`.
    """
    if wheel is not None:
        return unpack(wheel, unpacked)
    if _version_here() == VERSION:
        return HERE
    return make(Path(tempfile.gettempdir()) / f"chatllama_trl_{VERSION}_{sys.hexversion:x}")


def unpack(wheel: Path, folder: Path) -> Interpreter:
    """The interpreter that runs, with what is in the wheel or in the folder's wheels."""
    found = sorted(wheel.glob("*.whl")) if wheel.is_dir() else [wheel]
    if not any(path.name.startswith(f"trl-{VERSION}-") and path.is_file() for path in found):
        raise SystemExit(
            f"{wheel}: no trl-{VERSION} here; fetch it where there is a network: "
            f"pip download --no-deps trl=={VERSION}"
        )
    for path in found:
        with zipfile.ZipFile(path) as packed:
            packed.extractall(folder)
    return HERE._replace(path=(ROOT, folder))


def make(folder: Path) -> Interpreter:
    """A virtual environment of trl alone, which sees all that this interpreter has."""
    python = folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / PACKAGES[0]
    if not (site / f"trl-{VERSION}.dist-info").is_dir():
        if importlib.util.find_spec("pip") is None:
            raise SystemExit(
                f"{sys.executable} has no pip to fetch trl {VERSION} with: give its wheel, "
                "--trl-wheel PATH"
            )
        venv.EnvBuilder(symlinks=True, clear=True).create(folder)
        fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*fetch, str(site), f"trl=={VERSION}"], check=True)
    seen = [path for path in sys.path if Path(path).name in PACKAGES]
    (site / "what_runs_here.pth").write_text("".join(f"{path}\n" for path in seen))
    return Interpreter(python)


def _version_here() -> str | None:
    try:
        return importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        return None
