"""`preview`: the first filled prompts and the estimate, without a call and without a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import DataError
from tests.llm.loopback.server import OpenAiServer

TEAS = ["amber", "brook", "candle", "dune", "ember", "frost", "glade", "harbor", "island"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An assistant `tea` with nine examples, of which five replies have no score."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    datasets = tmp_path / "tea" / "datasets"
    datasets.mkdir(parents=True)
    actor = [
        {"user_input": f"How is {tea} tea made?", "completion": f"Boil {tea}."} for tea in TEAS
    ]
    reward = [{**row, "score": None if n < 5 else 4} for n, row in enumerate(actor)]
    (datasets / "actor_training_data.json").write_text(json.dumps(actor))
    (datasets / "reward_training_data.json").write_text(json.dumps(reward))
    return tmp_path / "tea"


def preview(folder: Path, llm: dict[str, object], **sections: object) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump({"llm": llm, **sections}))
    shown = CliRunner().invoke(cli, ["preview", "tea"], catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.output


PRICED = {"provider": "openai", "model": "big", "price": {"input": 1, "output": 10}}


def test_the_first_prompts_and_their_cost_are_shown_and_nobody_is_called(
    folder: Path, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    (folder / "templates.json").write_text('{"actor": "We are Harbor Tea."}')
    llm = {**PRICED, "base_url": openai_server.url, "max_tokens": 100, "rows_per_call": 4}
    shown = preview(folder, {**llm, "synthetic_conversations": 10, "max_usd": 5})
    assert openai_server.seen == []
    conversations, prompts, _, scoring, evaluation = shown.split("-" * 78)[1:]
    # 10 rows at 4 a call are 3 calls, of at most 100 tokens each.
    assert "estimate: about 3 calls and 0 answered from the cache" in conversations
    assert "up to 300 of replies; at most 0.00" in conversations
    assert "of the 5 that llm.max_usd allows" in conversations
    assert "We are Harbor Tea.\n\nExamples:\n[examples " in conversations
    assert "Write 4 new pairs" in conversations
    assert "asks no model" in prompts
    assert "5 of your replies without a score" in scoring
    assert "estimate: 5 calls and 0" in scoring
    assert "]\nBoil amber.\n[end " in scoring
    # The default of 200 prompts, twice each.
    assert "estimate: about 400 calls" in evaluation
    assert "template actor" in shown and "templates.json" in shown


@pytest.mark.parametrize(
    ("way", "calls", "sorts"),
    [
        ("self_instruct", 5, ["questions with replies"]),
        ("question_answer", 5 + 20, ["questions", "a reply"]),
        # 10 talks of 2 turns, a person and an assistant in each.
        ("personas", 10 * 2 * 2, ["the person", "the assistant"]),
    ],
)
def test_every_way_of_writing_shows_its_prompts_and_counts_its_calls(
    folder: Path, way: str, calls: int, sorts: list[str]
) -> None:
    llm = {**PRICED, "synthetic_conversations": 20, "conversations_by": way, "turns": 2}
    shown = preview(folder, llm).split("-" * 78)[1]
    assert f"estimate: about {calls} calls" in shown
    for sort in sorts:
        assert f"[the first request for {sort}]" in shown


def test_completions_are_counted_with_the_prompts_that_they_need(folder: Path) -> None:
    shown = preview(folder, {**PRICED, "synthetic_completions": 100}).split("-" * 78)[3]
    # 20 prompts of 5 qualities: 9 of the examples, 11 new ones at 4 a call.
    assert "estimate: about 103 calls" in shown
    assert "[the first request for a reply that is excellent]" in shown
    assert "[the first request for a reply that is worthless]" in shown


def test_openais_terms_are_told_where_openai_answers(folder: Path) -> None:
    assert "note: OpenAI's terms don't allow" in preview(folder, {**PRICED, "synthetic_prompts": 1})
    local = {**PRICED, "base_url": "http://127.0.0.1:9/v1"}
    assert "OpenAI's terms" not in preview(folder, {**local, "synthetic_prompts": 1})


def test_an_unknown_price_is_said(folder: Path) -> None:
    shown = preview(folder, {**PRICED, "price": "unknown", "synthetic_prompts": 1})
    assert "price unknown" in shown
    assert "llm.max_usd does not hold" in shown


def test_rules_and_none_ask_no_model(folder: Path) -> None:
    shown = preview(folder, {"provider": "none", "synthetic_prompts": 5})
    assert shown.count("asks no model") == 5


def test_a_broken_template_is_told_before_anything_else(folder: Path) -> None:
    (folder / "templates.json").write_text('{"reward": "Rate {complesion}"}')
    with pytest.raises(DataError, match=r"unknown placeholder \{complesion\}; did you mean"):
        preview(folder, PRICED)
