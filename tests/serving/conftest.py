"""A release of a tiny actor, with the evaluation that it rests on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatllama_pipeline.evaluation.figures import (
    ActorFigures,
    Comparison,
    Evaluation,
    Figures,
    Reply,
    Verdict,
    write_comparisons,
)
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Message, StageSpec, user_prompt
from chatllama_pipeline.serving.gguf.conversion import convert
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.settings.known_questions import KnownAnswers
from chatllama_pipeline.store.manifests import Version, hash_file
from chatllama_pipeline.store.versions import Store
from tests.serving.served import Served, lively, publish, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 360, "height": 740}
# What Chromium says itself of an answer that is a refusal.
REFUSED = "Failed to load resource"
SFT = ActorFigures(0.5, 0.1, 24.0, 0.98, 0.4, 0.3)
PPO = ActorFigures(0.85, 1.9, 30.0, 1.0, 0.65, 0.2)
KNOWN = KnownAnswers(60, 50, 48, 47, kept_by_sft=46, kept_by_ppo=45)
FIGURES = Figures(SFT, PPO, 2.25, 0.9, 0.86, 0.94, 0.88, 431, 0.34, 200, known_answers=KNOWN)
RELEASED = Verdict(True, "it won")


@pytest.fixture
def release(tmp_path: Path, tiny_base_folder: Path) -> Callable[..., Path]:
    """Releases the tiny actor; `verdict` and settings as asked for."""
    from chatllama_pipeline.serving.release import run

    def make(verdict: Verdict = RELEASED, actor: Path = tiny_base_folder, **sections: Any) -> Path:
        sizes = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
        settings: dict[str, Any] = {"data": {"sources": ["grammar"]}, "actor_config": sizes}
        for name, section in sections.items():
            settings[name] = settings[name] | section if name in settings else section
        stage = settings.get("release", {}).get("stage", "actor_ppo")
        source, evaluation = tmp_path / "source", tmp_path / "evaluation"
        for folder in (source, evaluation, tmp_path / "release"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(actor, source)
        (source / "critic").mkdir()
        (source / "critic" / "model.safetensors").write_bytes(b"a critic")
        (source / "curves.json").write_text("{}")
        (source / "samples.jsonl").write_text("")
        evaluation.mkdir()
        (tmp_path / "release").mkdir()
        Evaluation(FIGURES, verdict).write(evaluation)
        reply = Reply("yes", 2, True, 0.0, 1.0, None)
        talk = [Message("user", "Hi"), Message("assistant", "Hi"), Message("user", "Three turns")]
        asked = [("private", user_prompt("My secret?")), ("grammar", talk)]
        asked += [("grammar", user_prompt(f"Question {i}?")) for i in range(5)]
        write_comparisons(
            evaluation, [Comparison(prompt, source, reply, reply, 0.0) for source, prompt in asked]
        )
        spec = StageSpec(
            stage="release",
            assistant="tiny",
            settings=settings,
            inputs={stage: str(source), "evaluation": str(evaluation)},
            output=str(tmp_path / "release"),
            run_folder=str(tmp_path / "run"),
            result=str(tmp_path / "result.json"),
            readable=ASSETS["release"].readable,
        )
        run(spec, Progress("release", lambda line: None))
        return Path(spec.output)

    return make


@pytest.fixture(scope="session")
def released(
    tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Version, Version]:
    """A store with two releases of assistant `tiny`, the second by another random model."""
    store = Store(tmp_path_factory.mktemp("store"))
    models = [tmp_path_factory.mktemp("lively") for _ in range(2)]
    for seed, folder in enumerate(models):
        lively(tiny_base_folder, folder, seed)
    return store, publish(store, models[0], "first"), publish(store, models[1], "second")


@pytest.fixture(scope="session")
def convert_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """llama.cpp's converter, which takes seconds: a model that it has read gets a copy."""
    files: dict[tuple[str, str], Path] = {}

    def convert_new(folder: Path, tokenizer: Any, name: str, target: Path) -> None:
        asked = (hash_file(folder / "model.safetensors"), tokenizer.chat_template)
        if asked in files:
            shutil.copyfile(files[asked], target)
            return
        convert(folder, tokenizer, name, target)
        files[asked] = tmp_path_factory.mktemp("converted") / "whole.gguf"
        shutil.copyfile(target, files[asked])

    return convert_new


@pytest.fixture(scope="module")
def served(released: tuple[Store, Version, Version]) -> Iterator[Served]:
    """A server of the first release."""
    with serving([Wanted(released[1], 1.0)]) as running:
        yield running


@pytest.fixture
def phone() -> Iterator[Page]:
    """Chromium, as wide as a phone and in the dark; whatever a page's console says is an error."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        # Root can't have a sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport=PHONE, color_scheme="dark")
        context.set_default_timeout(120_000)
        page, told = context.new_page(), []
        page.on("console", lambda message: told.append(message.text))
        page.on("dialog", lambda dialog: told.append("a dialog"))
        page.on("pageerror", lambda error: told.append(str(error)))
        yield page
        browser.close()
    assert [text for text in told if not text.startswith(REFUSED)] == []
