"""A changed result without a raised code version fails here.

`recorded_results.json` holds what each asset made of the tiny assistant, by code version: tables
by the hash of their rows, models by figures, which differ a little between processors.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.store.manifests import Version
from tests.pipeline.place import Place

RECORDED = Path(__file__).with_name("recorded_results.json")
FIGURES = {
    "data_audit": ["longer_wins"],
    "reward_model": ["loss", "validation_accuracy", "scored_replies", "pairs"],
    "actor_sft": ["loss", "validation_loss", "steps"],
    "actor_ppo": ["reply_tokens", "iterations"],
    "evaluation": ["prompts", "reward_model_accuracy", "reward_model_pairs"],
}
# Public sources need a download, a release the gate, feedback a person: none is in the tiny run.
UNRECORDED = {"shp", "hh_rlhf", "release", "feedback"}


def result_of(version: Version) -> Any:
    """What a version says, apart from the bytes that libraries choose."""
    asset = version.manifest.asset
    if asset in FIGURES:
        return {name: round(version.manifest.metrics[name], 4) for name in FIGURES[asset]}
    if asset.endswith("_base"):
        tokenizer = json.loads((version.path / "tokenizer.json").read_text())
        return _hash(tokenizer["model"]["merges"])
    tables = sorted(version.path.glob("*.parquet"))
    return _hash([pq.read_table(table).to_pylist() for table in tables])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("asset", sorted(set(ASSETS) - UNRECORDED))
def test_a_changed_result_comes_with_a_raised_code_version(tiny_run: Place, asset: str) -> None:
    owner = None if asset == "grammar" else "tiny"
    result = result_of(tiny_run.store.read(asset, owner))
    recorded = json.loads(RECORDED.read_text()).get(asset, {}).get(ASSETS[asset].code_version)
    how = f"raise code_version of {asset} and record {json.dumps(result)} for it"
    if isinstance(result, dict):
        assert result == pytest.approx(recorded, rel=0.1), how
    else:
        assert result == recorded, how
