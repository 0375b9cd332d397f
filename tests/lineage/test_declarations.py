"""What an asset declares is all that its build gets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import dagster as dg
import pytest

from assets.sources import personal_data
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import UndeclaredSettingError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.models.bases import build
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.limited import limited_to
from chatllama_pipeline.store.versions import Store
from resources.refusals import Refused
from tests.quick import quick_instance
from tests.tiny import QUIET, MakeSpec

SETTINGS = AssistantSettings()


def test_a_build_that_reads_a_setting_its_asset_forgot_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    (tmp_path / "assistants" / "quickstart").mkdir(parents=True)
    (tmp_path / "assistants" / "quickstart" / "config.yaml").write_text("seed: 0")
    asset = ASSETS["personal_data"]
    kept = tuple(key for key in asset.settings if key != "data.redact")
    monkeypatch.setitem(ASSETS, "personal_data", dataclasses.replace(asset, settings=kept))
    with (
        quick_instance() as instance,
        pytest.raises(Refused, match="redact of DataSettings is read"),
    ):
        dg.materialize(
            [personal_data],
            partition_key="quickstart",
            resources=definitions.resources,
            instance=instance,
        )
    assert Store(tmp_path / "storage").versions("personal_data", "quickstart") == []


def test_so_is_a_stage(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec("actor_base", SETTINGS.model_dump(mode="json"), {})
    assert spec.readable is not None
    readable = [key for key in spec.readable if key != "actor_config.model"]
    dataclasses.replace(spec, readable=readable).write(tmp_path / "spec.json")
    with pytest.raises(UndeclaredSettingError, match="model of ActorSettings is read"):
        build.run(StageSpec.read(tmp_path / "spec.json"), QUIET)


def test_what_is_declared_keeps_its_value_at_every_depth() -> None:
    settings = AssistantSettings.model_validate(
        {"seed": 3, "llm": {"price": "free", "writer": {"temperature": 0.7}}, "rubric": []}
    )
    limited = limited_to(settings, {"seed", "llm.price", "llm.writer.temperature"})
    assert (limited.seed, limited.llm.price, limited.llm.writer.temperature) == (3, "free", 0.7)
    assert limited.at("llm.writer.temperature") == 0.7
    for read in (
        lambda: limited.rubric,
        lambda: limited.llm.writer.model,
        lambda: limited.llm.judge.temperature,
        lambda: limited.at("llm.max_usd"),
        lambda: limited.model_copy(update={"seed": 1}).data.sources,
    ):
        with pytest.raises(UndeclaredSettingError):
            read()
    assert settings.rubric == []  # the whole is as it was


def test_a_misspelt_setting_is_an_error_of_its_own() -> None:
    with pytest.raises(AttributeError, match="lable_noise"):
        SETTINGS.data.lable_noise  # type: ignore[attr-defined]  # noqa: B018


def test_every_upstream_asset_stands_before_what_is_made_from_it() -> None:
    seen: set[str] = set()
    for asset in ASSETS.values():
        assert set(asset.upstream) <= seen, asset.name
        assert set(asset.upstream_for(SETTINGS)) <= set(asset.upstream)
        seen.add(asset.name)


def test_nothing_is_said_twice() -> None:
    for asset in ASSETS.values():
        assert len(set(asset.settings)) == len(asset.settings), asset.name
        assert not set(asset.also_reads) & set(asset.settings), asset.name
