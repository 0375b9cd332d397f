"""From ten examples to scored replies by the real command line, killed and begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.llm.loopback.server import KEY, MODEL, OpenAiServer
from tests.llm.loopback.small_talk import WORDS, reply
from tests.pipeline.place import REPOSITORY, Place
from tests.waiting import wait_until

CONCURRENCY = 4
ASSETS = (
    "personal_data,preference_data,synthetic_conversations,synthetic_prompts,"
    "synthetic_completions,actor_training_data,rlhf_training_data,reward_training_data"
)


@pytest.fixture
def place(tmp_path: Path, openai_server: OpenAiServer) -> Place:
    """An assistant `tea` of ten examples, six scored replies and four without a score."""
    place = Place(tmp_path)
    llm = {
        **{"provider": "openai", "model": MODEL, "base_url": openai_server.url},
        **{"api_key_env": "TEA_KEY", "price": {"input": 1, "output": 2}},
        **{"concurrency": CONCURRENCY, "scored_pairs": 10},
        **{"synthetic_conversations": 24, "synthetic_prompts": 24, "synthetic_completions": 60},
    }
    folder = place.add_assistant(
        "tea", yaml.safe_dump({"llm": llm, "checks": {"min_reward_rows": 50}})
    )
    (folder / "templates.json").write_text('{"actor": "We are Harbor Tea: warm, plain, brief."}')
    (folder / "datasets").mkdir()
    actor = [
        {"user_input": f"How is {w} tea made?", "completion": f"Boil {w}."} for w in WORDS[:10]
    ]
    scores = [0, 1, 2, 3, 4, 5, None, None, None, None]
    reward = [{**row, "score": score} for row, score in zip(actor, scores, strict=True)]
    for name, rows in (("actor", actor), ("reward", reward)):
        (folder / "datasets" / f"{name}_training_data.json").write_text(json.dumps(rows))
    openai_server.behaviour.reply = reply
    return place


def start(place: Place) -> subprocess.Popen[bytes]:
    environment = place.environment()
    # The guard refuses every network, and the server is one.
    del environment["PYTHONPATH"]
    return subprocess.Popen(
        place.command("tea", ASSETS),
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_killed_in_the_middle_the_next_run_finishes_and_pays_nothing_twice(
    place: Place, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEA_KEY", KEY)
    openai_server.behaviour.latency = 0.05
    killed = start(place)
    wait_until(lambda: len(openai_server.seen) >= 40)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    paid = len(openai_server.seen)
    assert "reward_training_data" not in place.versions("tea")

    openai_server.behaviour.latency = 0.0
    run = place.materialize("tea", ASSETS)
    told = run.stderr
    assert run.returncode == 0, told

    bodies = Counter(json.dumps(seen.body, sort_keys=True) for seen in openai_server.seen)
    assert sum(bodies.values()) - len(bodies) <= CONCURRENCY
    assert len(openai_server.seen) > paid
    ledgers = {
        asset: place.store.read(asset, "tea").manifest.metrics
        for asset in ASSETS.split(",")
        if asset.startswith(("synthetic", "reward"))
    }
    # All that was answered before the kill came from the cache; those in flight were lost.
    assert sum(one["llm_cached"] for one in ledgers.values()) >= paid - CONCURRENCY
    assert sum(one["llm_calls"] for one in ledgers.values()) == len(openai_server.seen) - paid

    scored = pq.read_table(place.store.read("reward_training_data", "tea").path / "data.parquet")
    sources = Counter(scored["source"].to_pylist())
    assert sources == {"personal": 10, "synthetic_openai": 60}
    own = [row["score"] for row in scored.to_pylist() if row["source"] == "personal"]
    assert 0.0 in own
    assert "estimate: " in told
    assert KEY not in told
    files = [path for path in place.root.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
