"""An assistant whose versions hold a word each: the store's own code, nothing trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store, Workbench

NAME = "mine"
# A version of this asset with that text: made, checked, published, current.
Make = Callable[..., Version]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, and an assistant `mine` that draws on no public source."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    write_config(tmp_path, "data: {sources: []}\n")
    return Store(tmp_path / "storage")


def write_config(root: Path, text: str, name: str = NAME) -> None:
    folder = root / "assistants" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)


@pytest.fixture
def make(store: Store) -> Make:
    def make(
        asset: str,
        text: str,
        upstream: dict[str, str] | None = None,
        *,
        owner: str | None = NAME,
        settings: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        checks: list[Check] | None = None,
        rows: int | None = None,
        inputs: dict[str, Any] | None = None,
    ) -> Version:
        def build(bench: Workbench) -> Outcome:
            (bench.output / "word.txt").write_text(f"{asset} {text}")
            return Outcome(rows=rows, metrics=metrics or {}, checks=checks or [])

        asked = {"text": text, **(inputs or {})}
        recipe = Recipe(asset, owner, "1", upstream or {}, settings or {}, asked)
        return store.make(recipe, build, {}, force=False).version

    return make


def gate(passed: bool) -> Check:
    """The check of an evaluation that says whether its candidate may be released."""
    return Check("release_gate", passed, False, 0.6, 0.5, "it won" if passed else "it lost")


@pytest.fixture
def two_releases(make: Make) -> tuple[Version, Version]:
    """Two releases, each with an evaluation and a trained model behind it; the second in use."""
    found = []
    for word in ("one", "two"):
        actor = make("actor_ppo", word, settings={"seed": len(found)})
        evaluation = make("evaluation", word, {"actor_ppo": actor.id}, checks=[gate(True)])
        upstream = {"evaluation": evaluation.id, "actor_ppo": actor.id}
        settings = {"release.stage": "actor_ppo"}
        found.append(make("release", word, upstream, settings=settings))
    return found[0], found[1]
