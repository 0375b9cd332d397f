"""What a reward pays for replies that deserve nothing, tried before a policy finds out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, StageSpec, user_prompt
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.training.ppo.stage import run
from chatllama_pipeline.training.terms.cheats import (
    Answered,
    CheatsReport,
    Tried,
    cheats_check,
    held_out_and_training,
    repeated,
    try_cheats,
)
from chatllama_pipeline.training.terms.weighing import Term
from tests.tiny import QUIET, hashes

HELD_OUT = Answered(
    [user_prompt("why tea"), user_prompt("how to bake bread")],
    ["it calms", "knead the dough, then wait"],
)
TRAINING = Answered([user_prompt("who"), user_prompt("when")], ["a b c d e f g h", "i j"])


def tried(
    paid: Callable[[list[Prompt], list[str]], Tensor], *terms: Term, penalty: float = 1.0
) -> CheatsReport:
    return try_cheats(
        HELD_OUT,
        TRAINING,
        paid,
        terms,
        missing_eos_penalty=penalty,
        endless=lambda reply: repeated(reply, 20),
    )


def named(report: CheatsReport) -> dict[str, Tried]:
    return {each.name: each for each in report.cheats}


def by_length(prompts: list[Prompt], replies: list[str]) -> Tensor:
    return torch.tensor([float(len(reply.split())) for reply in replies])


def test_a_reward_of_length_is_cheated_by_whatever_is_long() -> None:
    report = tried(by_length)
    found = named(report)
    assert report.good.paid == 3.5 and report.prompts == 2
    assert found["empty"].paid == 0 and found["empty"].wins == 0
    # 20 words each, less what a reply costs that doesn't end.
    assert found["endless"].paid == 19 and found["endless"].wins == 1
    # It ties with the good reply of two words, and loses against that of five.
    assert named(tried(by_length, penalty=18))["endless"].wins == 0.25
    assert found["the prompt echoed"].paid == 3 and found["the prompt echoed"].wins == 0.25
    assert found["one word repeated"].example == "calms calms"
    assert found["one word repeated"].wins == 0.5
    assert found["the best reply to another prompt"].example == "a b c d e f g h"
    assert report.best.name == "flattery"
    check = cheats_check(report, 0.5)
    assert (check.passed, check.blocking, check.value, check.limit) == (False, False, 1.0, 0.5)
    assert "'flattery' is paid more than the data's good reply on 100% of 2" in check.description
    assert "add pairs whose rejected reply is such a one" in check.description


def test_a_reward_that_knows_good_replies_is_cheated_by_none() -> None:
    def knows(prompts: list[Prompt], replies: list[str]) -> Tensor:
        right = dict(zip(map(str, HELD_OUT.prompts), HELD_OUT.replies, strict=True))
        pairs = zip(prompts, replies, strict=True)
        return torch.tensor([float(right.get(str(prompt)) == reply) for prompt, reply in pairs])

    report = tried(knows)
    assert {each.wins for each in report.cheats} == {0.0}
    assert cheats_check(report, 0.5).passed


def test_all_terms_are_tried_on_the_scale_that_good_replies_give() -> None:
    def two(prompts: list[Prompt], replies: list[str]) -> Tensor:
        thanks = torch.tensor([float("Thank" in reply) for reply in replies])
        thanks[thanks == 1] = float("nan")
        return torch.stack([by_length(prompts, replies), thanks], dim=1)

    report = tried(two, Term("length", 2.0), Term("judge", 1.0))
    # 2, 5, 8 and 2 words: mean 4.25, standard deviation 2.487.
    assert report.good.terms == {"length": 3.5, "judge": 0.0}
    assert report.good.paid == pytest.approx(2 * (3.5 - 4.25) / 2.487469, abs=1e-5)
    thanks = named(report)["thanks"]
    assert thanks.terms == {"length": 2.0, "judge": None}
    assert thanks.paid == pytest.approx(2 * (2 - 4.25) / 2.487469, abs=1e-5)


def test_a_report_reads_back_as_it_was(tmp_path: Path) -> None:
    report = tried(by_length)
    assert CheatsReport.read(tmp_path) is None
    report.write(tmp_path)
    assert CheatsReport.read(tmp_path) == report


def test_nothing_to_try_with_passes_and_says_why() -> None:
    check = cheats_check(None, 0.5)
    assert check.passed and check.description.startswith("not tried: rewards.cheat_prompts is 0")


Tables = Callable[[list[str], str], dict[str, str]]


@pytest.fixture
def tables(tmp_path: Path, write_table: Any) -> Tables:
    """Inputs with a pair, or a reply of that score, for each split that is named."""

    def make(splits: list[str], kind: str = "pairs", score: float = 5.0) -> dict[str, str]:
        rows = [
            {
                "prompt": [{"role": "user", "content": f"ask {number}"}],
                **{"source": "test", "split": split, "strength": 1.0, "domain": ""},
                **{"chosen": f"yes {number}", "rejected": "no", "completion": f"so {number}"},
                "score": score,
            }
            for number, split in enumerate(splits)
        ]
        pairs, scores = (rows, []) if kind == "pairs" else ([], rows)
        root = tmp_path / f"{kind}{score}{len(splits)}"
        return {
            "preference_data": str(write_table(root / "pairs", pairs, PREFERENCE_SCHEMA)),
            "reward_training_data": str(write_table(root / "scores", scores, REWARD_SCHEMA)),
        }

    return make


def test_good_replies_are_those_preferred_else_those_that_scored_well(tables: Any) -> None:
    splits = ["train", "validation", "test", "train", "validation"]
    held_out, training = held_out_and_training(tables(splits), 1)
    assert held_out.replies[0] in ("yes 1", "yes 4") and training.replies == ["yes 0"]
    held_out, training = held_out_and_training(tables(splits, "scores"), 9)
    assert sorted(held_out.replies) == ["so 1", "so 4"] and training.replies == ["so 0", "so 3"]
    for nothing in ((tables(splits, "scores", 3.0), 9), (tables(splits), 0), ({}, 9)):
        assert held_out_and_training(*nothing)[0].prompts == []


def test_where_nothing_is_held_out_training_prompts_are_tested_and_others_lend_their_reply(
    tables: Any,
) -> None:
    held_out, training = held_out_and_training(tables(["train"] * 5), 2)
    assert (held_out.replies, training.replies) == (["yes 0", "yes 1"], ["yes 2", "yes 3"])


def test_ppo_tries_what_it_will_pay_and_publishes_the_table(
    paid_spec: Callable[..., StageSpec], tables: Any
) -> None:
    inputs = tables(["train", "validation", "validation"])
    job = paid_spec({"reward_model": 0.0, "brief": 1.0})
    job.inputs.update(inputs)
    lines: list[str] = []
    outcome = run(job, Progress("test", lines.append))
    report = CheatsReport.read(Path(job.output))
    assert report is not None and report.prompts == 2
    # Paid by brevity, nothing is dearer than silence.
    assert report.best.name == "empty" and report.best.wins == 1
    assert set(report.good.terms) == {"reward_model", "brief"}
    assert report.good.terms["brief"] == -5.0
    [check] = [check for check in outcome.checks if check.name == "reward_cheats"]
    assert not check.passed and not check.blocking
    assert any("tried cheats on the reward: 'empty' is paid more" in line for line in lines)
    tokenizer = AutoTokenizer.from_pretrained(job.inputs["actor_sft"])
    [endless] = [each.example for each in report.cheats if each.name == "endless"]
    assert len(tokenizer.encode(endless)) == 8  # actor_config.max_tokens
    # What was tried changes nothing of what is learnt.
    again = paid_spec({"reward_model": 0.0, "brief": 1.0}, take="b")
    run(again, QUIET)
    assert set(hashes(job.output)) - set(hashes(again.output)) == {"cheats.json"}
    assert hashes(again.output).items() <= hashes(job.output).items()
