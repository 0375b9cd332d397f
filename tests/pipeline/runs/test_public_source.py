"""What a run's config asks of a public source."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.sources import PublicSource, shp
from chatllama_pipeline.store.versions import Store
from resources.run_options import RunOptions
from resources.store import StoreResource

ROW = {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "Dunno.", "labels": 1}


def test_a_run_says_where_a_source_is_and_its_page_says_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = tmp_path / "assistants" / "mine"
    assistant.mkdir(parents=True)
    (assistant / "config.yaml").write_text("data: {sources: [shp]}")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    monkeypatch.setenv("CHATLLAMA_SHP", "/no/such/folder")
    domain = tmp_path / "shp" / "askbaking"
    domain.mkdir(parents=True)
    (domain / "train.json").write_text(json.dumps(ROW) + "\n")

    run = dg.materialize(
        [shp],
        resources={"store": StoreResource(), "run_options": RunOptions()},
        run_config=dg.RunConfig(
            ops={"shp": PublicSource(source=str(tmp_path / "shp"), offline=True)}
        ),
    )
    [made] = run.asset_materializations_for_node("shp")
    shown = {name: value.value for name, value in made.metadata.items()}
    assert shown["dagster/row_count"] == 1
    assert shown["location"] == str(tmp_path / "shp")
    assert shown["domains"] == {"askbaking": 1}
    assert shown["licence"] == "see the dataset's page (Reddit's terms)"
    assert shown["bytes"] == (domain / "train.json").stat().st_size
    assert shown["sample"][0]["chosen"] == "So."
    current = Store(tmp_path / "storage").current("shp", None)
    assert current is not None
    assert current.version == shown["version"]


def test_a_forced_source_is_looked_up_anew() -> None:
    assert PublicSource().asked(forced=True).refresh
    assert not PublicSource(source="a/b").asked(forced=False).refresh
