"""An LLM as the gate's judge: it compares in both orders, by the assistant's own template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.evaluation import compare
from chatllama_pipeline.evaluation.figures import Evaluation, read_comparisons
from chatllama_pipeline.evaluation.judging import judge_replies
from chatllama_pipeline.llm.client.requests import LlmRequest
from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.templates import Template
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.watching.judges import is_reward_term
from tests.llm.answering import Answering, asked
from tests.llm.loopback.server import KEY, MODEL, OpenAiServer, prompt_text
from tests.llm.loopback.small_talk import reply, words_between

SILENT = Progress("evaluation", lambda line: None)
PROMPTS = [user_prompt(f"question {n}?") for n in range(4)]


def longer(request: LlmRequest) -> str:
    """Prefers the longer reply; has nothing to say of question 3."""
    text = asked(request)
    lengths = [len(words_between(text, name)) for name in "AB"]
    return "no idea" if "question 3" in text else "AB"[lengths[1] > lengths[0]]


def test_the_win_rate_is_over_the_prompts_that_the_judge_could_tell() -> None:
    client = Answering(longer)
    judge = LlmJudge(client, Template("reward", "Be fair."), temperature=0, max_tokens=9)
    before, after = ["a b", "a b c d", "same", "x"], ["a b c", "a b", "same", "y z"]
    judged = judge_replies(judge, PROMPTS, before, after, SILENT)
    assert judged.after_wins == [1.0, 0.0, 0.5, None]
    assert judged.wins == [1.0, 0.0, 0.5]
    assert judged.flip_rate == 0.0
    assert judged.unread == {"no choice": 1}
    assert judged.warnings() == [
        "1 of 4 comparisons by the judge were unreadable and count for neither side: no choice 1"
    ]
    # Equal replies are not asked about.
    assert not any("question 2" in asked(request) for request in client.seen)
    assert judged.before == judged.after == [None] * 4
    assert judged.ledger["llm_calls"] == len(client.seen)


def test_a_judge_that_prefers_what_stands_first_gives_ties_and_its_flips_are_told() -> None:
    judge = LlmJudge(
        Answering(lambda request: "A"), Template("reward", "Be fair."), temperature=0, max_tokens=9
    )
    judged = judge_replies(judge, PROMPTS, ["a"] * 4, ["b"] * 4, SILENT)
    assert (judged.wins, judged.flip_rate) == ([0.5] * 4, 1.0)


def test_the_reward_model_is_found_out_as_judge_wherever_it_is_copied(
    evaluation_inputs: dict[str, Path], tmp_path: Path
) -> None:
    paying = evaluation_inputs["reward_model"]

    def is_term(model: Path | str, provider: str = "transformers") -> bool:
        llm = {"provider": provider, "model": str(model), "price": "free"}
        role = AssistantSettings.model_validate({"llm": llm}).role("evaluation_judge")
        return is_reward_term(role, paying)

    assert is_term(paying)
    assert is_term(shutil.copytree(paying, tmp_path / "copy"))
    assert not is_term(evaluation_inputs["actor_sft"])
    assert not is_term("some/model")
    assert not is_term("big", "openai")


@pytest.fixture
def spec(
    running_server: OpenAiServer,
    evaluation_inputs: dict[str, Path],
    make_spec: Callable[..., StageSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> StageSpec:
    """An evaluation whose judge asks the server, with a template of the assistant's own."""
    running_server.reset()
    running_server.behaviour.reply = reply
    monkeypatch.setenv("GATE_KEY", KEY)
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    personal = tmp_path / "personal"
    personal.mkdir()
    (personal / "templates.json").write_text('{"reward": "We are Harbor Tea: brief."}')
    judge = {
        **{"provider": "openai", "model": MODEL, "base_url": running_server.url},
        **{"api_key_env": "GATE_KEY", "price": {"input": 1, "output": 1}},
    }
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"max_tokens": 12, "max_sequence_length": 128},
            "evaluation": {"judge": judge, "bootstrap_samples": 100},
        }
    )
    inputs = {**evaluation_inputs, "personal_data": personal}
    return make_spec("evaluation", settings.model_dump(mode="json"), inputs)


def test_the_gate_asks_an_llm_by_the_assistants_own_template(
    spec: StageSpec, running_server: OpenAiServer
) -> None:
    outcome = compare.run(spec, SILENT)
    output = Path(spec.output)
    figures = Evaluation.read(output).figures
    rows = read_comparisons(output)
    expected = [
        0.5 * (1 + (new > old) - (new < old))
        for old, new in (
            (len(row.actor_sft.text.split()), len(row.actor_ppo.text.split())) for row in rows
        )
    ]
    assert [row.ppo_wins for row in rows] == expected
    assert figures.win_rate == sum(expected) / 2
    assert (figures.judged, figures.prompts) == (2, 2)
    assert (rows[0].actor_ppo.score, figures.actor_ppo.rubric_score) == (None, None)
    # Two prompts in two orders.
    assert len(running_server.seen) == 4
    assert all("We are Harbor Tea: brief." in prompt_text(s.body) for s in running_server.seen)
    assert outcome.metrics["llm_calls"] == 4
    assert outcome.metrics["llm_usd"] > 0
    page = (output / "report.html").read_text()
    assert f"openai:{MODEL}" in page
    assert "It compared the replies in both orders" in page
    assert KEY not in page


def test_a_missing_key_is_told_before_anything_is_sampled(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATE_KEY")
    said: list[str] = []
    with pytest.raises(ProviderError, match="GATE_KEY holds no key"):
        compare.run(spec, Progress("evaluation", said.append))
    assert said == []


def test_the_spec_that_a_child_reads_holds_no_key(spec: StageSpec, tmp_path: Path) -> None:
    spec.write(tmp_path / "spec.json")
    content: dict[str, Any] = json.loads((tmp_path / "spec.json").read_text())
    assert content["settings"]["evaluation"]["judge"]["api_key_env"] == "GATE_KEY"
    assert KEY not in (tmp_path / "spec.json").read_text()
