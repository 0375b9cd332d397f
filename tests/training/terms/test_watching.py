"""The gate's judge looks on while a policy climbs its reward: rule, best policy, resume, cost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatllama_pipeline.errors import BudgetError
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.settings import AssistantSettings, PpoSettings
from chatllama_pipeline.training.ppo.stage import run
from chatllama_pipeline.training.watching.looks import (
    QUANTILE_999,
    Answers,
    Look,
    Watched,
    has_fallen,
)
from chatllama_pipeline.training.watching.report import WatchReport
from chatllama_pipeline.training.watching.watch import interval
from tests.llm.loopback.server import KEY, MODEL, OpenAiServer
from tests.tiny import QUIET, MakeSpec, curves, hashes, row
from tests.training.paid import TRAINER
from tests.training.resume.kills import run_killed, run_on

LIKED, DISLIKED = [0.8, 0.6, 1.0, 0.8], [0.2, 0.2, 0.4, 0.2]
NEARLY = [0.8, 0.6, 0.9, 0.8]


def look(iteration: int, judged: list[float | None], reward: float = 0.0) -> Look:
    count = len(judged)
    answers = Answers(["so"] * count, [True] * count, [2] * count, [0.5] * count, 0.5, 0.0)
    return Look(iteration, answers, [[reward]] * count, judged)


def paid(one: Look) -> list[float]:
    return [row[0] or 0.0 for row in one.scores]


def watched(*looks: Look, falls: int | None = 2) -> Watched:
    found = Watched()
    for one in looks:
        found.record(one, paid, falls)
    return found


def test_a_judge_that_falls_while_the_reward_rises_ends_the_training() -> None:
    found = watched(look(0, LIKED, 0.0), look(3, DISLIKED, 0.5))
    assert (found.falls, found.stopped) == (1, None)
    found.record(look(6, DISLIKED, 1.5), paid, 2)
    assert found.stopped == (
        "since iteration 0 the judge has fallen from 0.800 to 0.250 at iteration 6, 2 looks in a "
        "row, while the reward rose from 0.000 to 1.500"
    )
    check = found.check("rubric", None)
    assert (check.passed, check.blocking, check.value) == (False, False, 2.0)
    assert "the policy of iteration 0 is published" in check.description


def test_a_judge_that_stands_still_while_the_reward_rises_ends_it_too() -> None:
    found = watched(look(0, NEARLY), look(3, LIKED, 0.1), look(6, NEARLY, 0.5), look(9, NEARLY, 1))
    assert found.stopped is not None and found.stopped.startswith("since iteration 3 the judge")


@pytest.mark.parametrize(
    ("looks", "falls"),
    [
        # The reward fell as well: that is no hacking.
        ([look(0, LIKED, 1.0), look(1, DISLIKED, 0.5), look(2, DISLIKED, 0.5)], 2),
        # One of two looks is no fall in a row.
        ([look(0, LIKED), look(1, DISLIKED, 1.0), look(2, LIKED, 1.0), look(3, DISLIKED, 2.0)], 2),
        # Within what chance would show, far above where it began.
        ([look(0, DISLIKED), look(1, LIKED), look(2, NEARLY, 1.0), look(3, NEARLY, 2.0)], 2),
        # Unread.
        ([look(0, LIKED), look(1, [None, None, None, 0.0], 1), look(2, [None] * 4, 1)], 2),
        # Nothing ends it.
        ([look(0, LIKED), look(1, DISLIKED, 1.0), look(2, DISLIKED, 2.0)], None),
    ],
)
def test_nothing_else_does(looks: list[Look], falls: int | None) -> None:
    found = watched(*looks, falls=falls)
    assert found.stopped is None
    assert found.check("rubric", None).passed


def test_the_policy_that_the_judge_likes_best_is_the_best_of_equals_the_later() -> None:
    found = watched(look(0, DISLIKED), look(3, LIKED), look(6, LIKED), look(9, DISLIKED))
    assert found.best_look is not None and found.best_look.iteration == 6
    assert found.metrics() == {"published_iteration": 6}
    assert watched(look(0, [None] * 4)).best_look is None


def test_a_fall_is_one_that_chance_would_not_show() -> None:
    assert has_fallen([1.0] * 9, [0.9] * 9)
    assert not has_fallen([1.0] * 9, [0.0, *[1.0] * 8])
    assert not has_fallen([0.5] * 9, [0.9] * 9)
    assert not has_fallen([1.0, None], [0.0, 0.0])
    # Five of 64 replies lost a point: surer than 95 %, and not than 99.9 %.
    before, after = [0.8] * 64, [0.6] * 5 + [0.8] * 59
    assert has_fallen(before, after) and not has_fallen(before, after, QUANTILE_999)


def test_what_was_seen_comes_back_from_a_state_as_it_was() -> None:
    found = watched(look(0, [0.1, None]), look(1, [1 / 3, 0.7], 0.1))
    assert Watched.read(json.loads(json.dumps(dataclasses.asdict(found)))) == found


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nobody plays evaluation.judge"),
        ({"evaluation": {"judge": "rubric"}, "trainer_config": {"watch_every": 0}}, "is 0"),
        ({"evaluation": {"judge": "rubric"}, "improve_by": "dpo"}, "dpo climbs no reward"),
        (
            {"llm": {"provider": "openai", "model": "m", "price": "free", "batch": True}},
            "llm.batch is true, which answers within a day",
        ),
        ({"llm": {"provider": "transformers", "model": "/m"}}, "is a local model"),
        (
            {
                "llm": {"provider": "transformers", "model": "/m"},
                "trainer_config": {"watch_every": 5},
            },
            None,
        ),
        ({"evaluation": {"judge": "rubric"}}, None),
    ],
)
def test_who_does_not_look_on_is_told(settings: dict[str, Any], told: str | None) -> None:
    rubric = {"rubric": [{"name": "a", "says": "a"}]}
    fault = AssistantSettings.model_validate({**rubric, **settings}).watch_fault()
    assert fault is None if told is None else told in (fault or "")


def test_looks_are_as_many_as_cost_little_beside_what_training_writes() -> None:
    def ppo(**given: Any) -> PpoSettings:
        shape = {"num_episodes": 20, "max_timesteps": 16, "update_timesteps": 16, "batch_size": 8}
        return AssistantSettings.model_validate(
            {"trainer_config": {**shape, **given}}
        ).trainer_config

    assert interval(ppo(), prompts=8) == 2  # a tenth of 20 iterations, of 16 replies each
    assert interval(ppo(), prompts=47) == 6  # which write 96 replies meanwhile
    assert interval(ppo(replies_per_prompt=4), prompts=47) == 2
    assert interval(ppo(watch_every=1), prompts=47) == 1


@pytest.fixture(scope="session")
def held_out_prompts(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> Path:
    texts = [("alpha bravo", "train"), ("charlie", "train"), ("delta echo", "train")]
    texts += [("golf hotel", "train"), ("india", "validation"), ("kilo lima", "validation")]
    texts += [(f"{word} {word}", "validation") for word in ("juliet", "echo", "bravo", "golf")]
    rows = [row(text, split) for text, split in texts]
    folder: Path = write_table(tmp_path_factory.mktemp("held_out"), rows, PROMPT_SCHEMA)
    return folder


LETTERS = "def letters(prompt, reply):\n    return sum(map(str.isalpha, reply))\n"


@pytest.fixture
def climbing(paid_spec: MakeSpec, held_out_prompts: Path) -> MakeSpec:
    """A training that is paid for letters, and a judge that wants none."""

    def make(take: str = "a", trainer: dict[str, Any] | None = None, **more: Any) -> StageSpec:
        settings = {
            "evaluation": {"judge": "rubric"},
            "rubric": [
                {"name": f"{most}", "avoids": f"(?s)(\\p{{L}}.*){{{most}}}"}
                for most in range(1, 13)
            ],
            "trainer_config": {
                **TRAINER,
                **{"num_episodes": 10, "update_timesteps": 32, "max_timesteps": 32},
                **{"batch_size": 8, "epochs": 2, "actor_lr": 3e-2, "kl_beta": 0.0},
                **{"watch_every": 1, "checkpoint_steps": 32},
                **(trainer or {}),
            },
            **more,
        }
        job = paid_spec({"reward_model": 0.0, "letters": 1.0}, LETTERS, take, **settings)
        job.inputs["rlhf_training_data"] = str(held_out_prompts)
        return job

    return make


def report_of(job: StageSpec) -> WatchReport:
    report = WatchReport.read(Path(job.output))
    assert report is not None
    return report


def hacking(outcome: Outcome) -> Any:
    [check] = [check for check in outcome.checks if check.name == "reward_hacking"]
    return check


def test_a_policy_that_climbs_past_the_judge_is_stopped_and_the_best_one_published(
    climbing: MakeSpec, tiny_base_folder: Path
) -> None:
    lines: list[str] = []
    job = climbing()
    outcome = run(job, Progress("test", lines.append))
    report, found = report_of(job), curves(outcome)
    assert outcome.metrics["iterations"] < 10
    assert report.stopped is not None and not hacking(outcome).passed
    assert any("training ends: since iteration" in line for line in lines)
    assert any("rubric looks at the replies to 5 held-out prompts" in line for line in lines)
    assert found["watched_judge"][-1] < max(found["watched_judge"])
    assert found["watched_reward"][-1] > found["watched_reward"][0]
    assert found["watched_kl"][0] == 0 and found["watched_kl"][-1] > 0
    names = ("reply_tokens", "share_finished", "distinct_2", "repeated")
    assert {f"watched_{name}" for name in names} <= set(found)
    # What is published replies as the policy did that the judge liked best.
    best = found["watched_judge"].index(max(found["watched_judge"]))
    assert report.published == outcome.metrics["published_iteration"] == best
    first = load_actor(tiny_base_folder, torch.float32).state_dict()
    published = load_actor(job.output, torch.float32).state_dict()
    assert (best == 0) == all(torch.equal(first[name], published[name]) for name in first)
    prompt, samples = report.samples[0]
    assert prompt[0].role == "user"
    assert [sample.iteration for sample in samples] == list(range(len(found["watched_judge"])))
    assert set(samples[0].terms) == {"reward_model", "letters"}
    assert samples[0].terms["letters"] == sum(map(str.isalpha, samples[0].reply))


SHORT = {
    **{"num_episodes": 3, "update_timesteps": 8, "max_timesteps": 8, "checkpoint_steps": 8},
    "watch_falls": None,
}


@pytest.mark.parametrize("method", ["ppo", pytest.param("grpo", marks=pytest.mark.slow)])
def test_a_killed_training_is_watched_on_as_if_it_had_never_been(
    climbing: MakeSpec, method: str
) -> None:
    whole, cut = (climbing(take, SHORT, improve_by=method) for take in ("whole", "cut"))
    run(whole, QUIET)
    run_killed(run, cut, at="step 2/3")
    # Better weights that a killed run found after its last state are not those of that state.
    assert (Path(cut.run_folder) / "best.pt").exists()
    (Path(cut.run_folder) / "best.pt").unlink()
    (Path(cut.run_folder) / "best.pt").write_bytes(b"of a later look")
    run_on(run, cut, "continues after iteration 1")
    assert hashes(whole.output) == hashes(cut.output)
    assert "watched.json" in hashes(whole.output)


def test_an_adapter_is_watched_and_its_best_state_published(
    climbing: MakeSpec, adapted_folder: Path
) -> None:
    adapters = {"actor_config": {"max_sequence_length": 64, "max_tokens": 8, "peft_enable": True}}
    job = climbing("lora", SHORT, **adapters)
    job.inputs["actor_sft"] = str(adapted_folder)
    outcome = run(job, QUIET)
    found = curves(outcome)
    assert found["watched_kl"][0] == 0
    assert (Path(job.output) / "adapter_model.safetensors").is_file()
    report = report_of(job)
    judged = found["watched_judge"]
    assert judged[report.published] == max(judged)


def test_watching_changes_nothing_of_what_is_learnt(climbing: MakeSpec) -> None:
    seen, unseen = climbing("seen", SHORT), climbing("unseen", {**SHORT, "watch_every": 0})
    of_seen, of_unseen = curves(run(seen, QUIET)), curves(run(unseen, QUIET))
    assert {name: of_seen[name] for name in of_unseen} == of_unseen
    assert not (Path(unseen.output) / "watched.json").exists()


def test_without_a_judge_or_a_held_out_prompt_the_log_says_so(
    climbing: MakeSpec, paid_inputs: dict[str, Path]
) -> None:
    nobody = climbing("nobody", {**SHORT, "num_episodes": 1}, evaluation={"judge": "none"})
    nothing = climbing("nothing", {**SHORT, "num_episodes": 1})
    nothing.inputs["rlhf_training_data"] = str(paid_inputs["rlhf_training_data"])
    for job, why in ((nobody, "nobody plays evaluation.judge"), (nothing, "no validation prompt")):
        lines: list[str] = []
        check = hacking(run(job, Progress("test", lines.append)))
        assert check.passed and why in check.description
        assert any("the gate's judge doesn't look on" in line and why in line for line in lines)


def test_an_llm_is_asked_once_a_reply_within_the_budget_and_what_ends_it_loses_nothing(
    climbing: MakeSpec,
    running_server: OpenAiServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    running_server.reset()
    running_server.behaviour.reply = lambda body: json.dumps({"score": len(str(body)) % 6})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))

    def judged(take: str, max_usd: float) -> StageSpec:
        judge = {
            **{"provider": "openai", "model": MODEL, "base_url": running_server.url},
            **{"api_key_env": "OPENAI_API_KEY", "price": {"input": 0, "output": 1000}},
            **{"max_tokens": 32, "concurrency": 1},
        }
        more = {"evaluation": {"judge": judge}, "llm": {"max_usd": max_usd}}
        return climbing(take, SHORT, **more)

    whole = judged("whole", 100)
    lines: list[str] = []
    outcome = run(whole, Progress("test", lines.append))
    samples = [one for _, replies in report_of(whole).samples for one in replies]
    replies = {(str(prompt), s.reply) for prompt, found in report_of(whole).samples for s in found}
    assert len(samples) == 5 * 4
    assert len(running_server.seen) == outcome.metrics["llm_calls"] == len(replies)
    assert any("estimate: about 20 calls" in line for line in lines)
    # Of four looks one is paid for, and a part of the next; a call may cost 0.032 dollars.
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "another"))
    cut = judged("cut", outcome.metrics["llm_usd"] * 0.4 + 0.032)
    with pytest.raises(BudgetError, match=r"llm\.max_usd is .*\. What was learnt until iteration"):
        run(cut, QUIET)
    run(dataclasses.replace(cut, settings=whole.settings), QUIET)
    assert hashes(whole.output) == hashes(cut.output)
