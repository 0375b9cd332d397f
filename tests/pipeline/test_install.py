"""`install.sh` against a registry on the loopback: it goes on where a call before broke off."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]

# A project whose build needs nothing from a registry, and which needs two packages to run.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "house"
version = "1"
dependencies = ["brick", "mortar"]
"""
BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/house-1-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    return "house-1-py3-none-any.whl"
build_wheel = build_editable
"""


def wheel_files(name: str, *needs: str) -> dict[str, str]:
    """The files of a wheel of one module, at version 1."""
    info = f"{name}-1.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    return {
        f"{name}.py": f"NAME = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }


def publish(registry: Path, name: str) -> None:
    folder = registry / "simple" / name
    folder.mkdir(parents=True)
    file = f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as wheel:
        for path, text in wheel_files(name).items():
            wheel.writestr(path, text)
    (folder / "index.html").write_text(f'<a href="{file}">{file}</a>')


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: pytest shows what matters."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which a registry serves it."""
    folder = tmp_path / "registry"
    (folder / "simple").mkdir(parents=True)
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()


@pytest.mark.slow
def test_without_uv_and_after_a_registry_that_fails_half_way_the_next_call_goes_on(
    tmp_path: Path, registry: tuple[Path, str]
) -> None:
    folder, url = registry
    house = tmp_path / "house"
    house.mkdir()
    shutil.copy(REPOSITORY / "install.sh", house)
    shutil.copy(REPOSITORY / "Makefile", house)
    (house / "constraints.txt").write_text("brick==1\n")
    (house / "pyproject.toml").write_text(PYPROJECT)
    files = wheel_files("house", "brick", "mortar")
    (house / "backend.py").write_text(f"FILES = {files!r}\n{BACKEND}")

    def install(index: str) -> subprocess.CompletedProcess[str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_RETRIES": "0"}
        return subprocess.run(
            ["make", ".venv/.installed"],
            cwd=house,
            env={**ours, **pip, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    dead = install("http://127.0.0.1:9/simple")
    assert dead.returncode != 0
    publish(folder, "brick")
    half = install(url)
    assert half.returncode != 0 and "mortar" in half.stderr
    assert not (house / ".venv" / ".installed").exists()
    publish(folder, "mortar")
    whole = install(url)
    assert whole.returncode == 0, whole.stderr
    assert "install: no uv: pip does without" in whole.stdout
    assert "a virtual environment" not in whole.stdout
    python = house / ".venv" / "bin" / "python"
    program = "import house, brick, mortar; print(house.NAME, brick.NAME, mortar.NAME)"
    said = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "house brick mortar\n"
    assert "install:" not in install(url).stdout
