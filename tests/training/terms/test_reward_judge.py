"""A judge as a term of PPO's reward: asked in batches, from the cache, within its budget."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from chatllama_pipeline.errors import BudgetError, ProviderError
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.training.ppo import collect
from chatllama_pipeline.training.ppo.stage import run
from tests.llm.loopback.server import KEY, MODEL, Body, OpenAiServer, prompt_text
from tests.llm.loopback.small_talk import words_between
from tests.tiny import QUIET, MakeSpec, curves, hashes
from tests.waiting import PATIENCE


def by_letters(body: Body) -> str:
    """A point for each a, up to 5."""
    return json.dumps({"score": points(" ".join(words_between(prompt_text(body), "completion")))})


def points(reply: str) -> int:
    return min(5, reply.count("a"))


@pytest.fixture
def server(
    running_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> OpenAiServer:
    """The server as judge, with a store of the test's own."""
    running_server.reset()
    running_server.behaviour.reply = by_letters
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    return running_server


@pytest.fixture
def judged(paid_spec: MakeSpec, server: OpenAiServer) -> MakeSpec:
    """A PPO that a judge alone pays, at a dollar a thousand tokens of its replies."""

    def make(take: str = "a", **llm: Any) -> StageSpec:
        judge = {
            **{"provider": "openai", "model": MODEL, "base_url": server.url},
            **{"api_key_env": "OPENAI_API_KEY", "price": {"input": 0, "output": 1000}},
            **{"max_tokens": 32, "concurrency": 1},
        }
        more = {"llm": {"judge": judge, "max_usd": 100, **llm}, "evaluation": {"judge": "none"}}
        return paid_spec({"judge": 1.0}, take=take, **more)

    return make


def test_a_judge_is_asked_once_for_each_reply_and_its_points_are_the_reward(
    judged: MakeSpec, server: OpenAiServer
) -> None:
    job = judged()
    outcome = run(job, QUIET)
    lines = (Path(job.output) / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    expected = [points(sample["reply"]) for sample in samples]
    assert [sample["rewards"]["judge"] for sample in samples] == expected
    found = curves(outcome)
    assert found["raw_reward/judge"] == [sum(expected[n : n + 4]) / 4 for n in (0, 4, 8)]
    assert found["score"] == pytest.approx(found["reward/judge"])
    asked = {(str(s["prompt"]), s["reply"]) for s in samples}
    assert len(server.seen) == outcome.metrics["llm_calls"] == len(asked)
    # Again, all of it is answered from the cache.
    again = judged("again")
    run(again, QUIET)
    assert len(server.seen) == len(asked)
    assert hashes(job.output) == hashes(again.output)


def test_a_judge_is_asked_while_the_reference_reads(
    judged: MakeSpec, server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def answer(body: Body) -> str:
        asked.set()
        return by_letters(body)

    server.behaviour.reply = answer
    reads, waited = collect.reference_pass, list[bool]()

    def reads_once_the_judge_is_asked(loop: collect.Loop, written: collect.Written) -> Tensor:
        waited.append(asked.wait(PATIENCE))
        return reads(loop, written)

    monkeypatch.setattr(collect, "reference_pass", reads_once_the_judge_is_asked)
    outcome = run(judged(), QUIET)
    assert waited == [True] * 3
    assert len(curves(outcome)["raw_reward/judge"]) == 3


def test_a_budget_that_ends_amid_ppo_is_told_saved_and_continued(
    judged: MakeSpec, server: OpenAiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judged("whole")
    paid = run(whole, QUIET).metrics["llm_usd"]
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "another"))
    # Of three iterations one is paid for, and a part of the next; a call may cost 0.032 dollars.
    cut = judged("cut", max_usd=paid / 2 + 0.032)
    with pytest.raises(
        BudgetError, match=r"llm\.max_usd is .*\. What was learnt until iteration 1"
    ):
        run(cut, QUIET)
    settings = {**cut.settings, "llm": {**cut.settings["llm"], "max_usd": 100}}
    lines: list[str] = []
    run(dataclasses.replace(cut, settings=settings), Progress("test", lines.append))
    assert any("continues after iteration 1" in line for line in lines)
    assert hashes(whole.output) == hashes(cut.output)


def test_single_verdicts_that_cannot_be_read_count_as_neither_and_are_told(
    judged: MakeSpec, server: OpenAiServer
) -> None:
    def sometimes(body: Body) -> str:
        return "no idea" if "delta" in prompt_text(body) else by_letters(body)

    server.behaviour.reply = sometimes
    outcome = run(judged(), QUIET)
    assert curves(outcome)["unread/judge"] == [0.25] * 3
    [told] = [line for line in outcome.warnings if "could not be read" in line]
    assert told.startswith("3 of 12 verdicts of llm.judge could not be read, and count as neither")


def test_a_judge_that_nobody_can_read_ends_ppo(judged: MakeSpec, server: OpenAiServer) -> None:
    server.behaviour.reply = lambda body: "no idea"
    with pytest.raises(ProviderError, match="4 of 4 verdicts on PPO's replies could not be read"):
        run(judged(), QUIET)


def test_a_judge_without_a_key_is_told_before_models_are_loaded(
    judged: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = judged()
    job.inputs["reward_model"] = "nowhere"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        run(job, QUIET)
