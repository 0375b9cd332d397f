"""Best of n: which reply is best, what is imitated, its resume, its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.launch.out_of_memory import with_half
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import memory_plan
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PROMPT_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.best_of_n.sampling import Asked, choose
from chatllama_pipeline.training.best_of_n.stage import run
from chatllama_pipeline.training.sft.stage import run as run_sft
from chatllama_pipeline.training.terms.weighing import Term
from tests.tiny import QUIET, WORDS, MakeSpec, hashes, row
from tests.training.by_rows.improving import TRAINING
from tests.training.paid import BRIEF
from tests.training.resume.kills import assert_same_when_killed

BEST = {**TRAINING, "replies_per_prompt": 4, "batch_size": 4}
ACTOR = {"model": "scratch", "max_sequence_length": 64, "max_tokens": 16}


@pytest.fixture(scope="session")
def ending_actor(
    tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_table: Any
) -> Path:
    """An SFT actor that learnt to end its replies."""
    place = tmp_path_factory.mktemp("ending")
    rows = [
        row(word, completion=f"{word} {word}" if n % 2 else word) for n, word in enumerate(WORDS)
    ]
    data = write_table(place / "rows", rows, ACTOR_SCHEMA)
    output = place / "actor"
    output.mkdir()
    sft = {**ACTOR, "batch_size": 8, "lr": 1e-2, "max_steps": 40}
    spec = StageSpec(
        "actor_sft", "tiny", {"actor_config": sft},
        {"actor_base": str(tiny_base_folder), "actor_training_data": str(data)},
        str(output), str(place / "run"), str(place / "result.json"),
    )  # fmt: skip
    run_sft(spec, QUIET)
    return output


@pytest.fixture
def spec(
    make_spec: MakeSpec, ending_actor: Path, paid_inputs: dict[str, Path], tmp_path: Path,
    write_table: Any,
) -> MakeSpec:  # fmt: skip
    """Best of four by the shortest reply, to twenty training and two held-out prompts."""
    rows = [
        row(f"{first} {second}", split)
        for split, firsts in (("train", WORDS[:5]), ("validation", WORDS[5:6]))
        for first in firsts
        for second in (WORDS[:4] if split == "train" else WORDS[:2])
    ]
    prompts = write_table(tmp_path / "prompts", rows, PROMPT_SCHEMA)
    (tmp_path / "rewards.py").write_text(BRIEF)
    rewards = {"weights": {"brief": 1.0}, "trust_code": True, "file": str(tmp_path / "rewards.py")}

    def make(take: str = "a", actor: dict[str, Any] = ACTOR, **more: Any) -> StageSpec:
        settings = {
            "improve_by": "best_of_n", "actor_config": actor, "rewards": rewards,
            "best_of_n_config": {**BEST, **more},
        }  # fmt: skip
        inputs = {**paid_inputs, "actor_sft": ending_actor, "rlhf_training_data": prompts}
        return make_spec("actor_ppo", settings, inputs, take)

    return make


def test_the_best_reply_is_the_dearest_that_ends_and_of_equals_the_first() -> None:
    asked = Asked([], [[1], [2], [3]], replies=3)
    texts = list("abcdefghi")
    part = {
        "ids": [[n] for n in range(9)],
        "texts": texts,
        "finished": [True, True, False, True, True, True, False, False, False],
    }
    found = choose(asked, [part], [torch.tensor([1.0, 2, 9, 5, 5, 4, 7, 8, 9])], ())
    assert [(one.prompt, one.text, one.score, one.mean_score) for one in found] == [
        (0, "b", 2.0, 4.0),
        (1, "d", 5.0, pytest.approx(14 / 3)),
    ]
    assert found[0].example(asked).ids == [1, 1]
    # Of several terms the weighted sum decides.
    scores = torch.tensor([[1.0, 0], [2, -9]] + [[0, 0]] * 7)
    terms = [Term("reward_model", 1.0, scaled=True), Term("other", 1.0, scaled=True)]
    assert choose(asked, [part], [scores], terms)[0].text == "a"


def test_the_shortest_of_four_replies_are_imitated(spec: MakeSpec, ending_actor: Path) -> None:
    lines: list[str] = []
    job = spec(max_steps=40)
    outcome = run(job, Progress("test", lines.append))
    told = outcome.metrics
    assert any("4 replies to each of 22 prompts: 88 replies, at most 1,408" in s for s in lines)
    assert told["best_score"] > told["mean_score"]
    assert outcome.rows == 20 - told["prompts_without_an_end"] > 10
    assert all(check.passed for check in outcome.checks)
    curves = {curve.name: curve.points for curve in outcome.curves}
    losses = [loss for _, loss in curves["loss"]]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert "validation_loss" in curves
    written = (Path(job.output) / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in written]
    sampled = [
        (reply, ended)
        for file in sorted((Path(job.run_folder) / "replies/train_sampled").glob("*.json"))
        for part in [json.loads(file.read_text())]
        for reply, ended in zip(part["texts"], part["finished"], strict=True)
    ]
    groups = [sampled[n : n + 4] for n in range(0, 80, 4)]
    shortest = [min((r for r, ended in group if ended), key=len, default=None) for group in groups]
    assert [sample["reply"] for sample in samples] == [
        text for text in shortest if text is not None
    ]
    before, after = (load_actor(folder, torch.float32) for folder in (ending_actor, job.output))
    assert any(
        not torch.equal(old, new)
        for old, new in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_a_training_killed_amid_its_steps_continues_to_the_same_payload(spec: MakeSpec) -> None:
    whole, cut = spec("whole"), spec("cut")
    assert_same_when_killed(run, whole, cut, at="step 7/12", continued="after step 5")


def test_a_training_killed_amid_its_scores_samples_nothing_again(spec: MakeSpec) -> None:
    job = spec(max_steps=2)
    run(job, QUIET)
    before = hashes(job.output)
    # What a kill amid the scores leaves: all samples, a part of the scores, no state.
    home = Path(job.run_folder)
    (home / "replies/train_scored/000001.json").unlink()
    sampled = {path: path.stat().st_mtime_ns for path in home.glob("replies/*_sampled/*")}
    shutil.rmtree(home / "state")
    shutil.rmtree(job.output)
    Path(job.output).mkdir()
    run(job, QUIET)
    assert sampled == {path: path.stat().st_mtime_ns for path in home.glob("replies/*_sampled/*")}
    assert hashes(job.output) == before


def test_how_many_replies_are_sampled_at_once_changes_none(spec: MakeSpec) -> None:
    few, many = spec("few", rollout_batch_size=3, max_steps=1), spec("many", max_steps=1)
    for job in (few, many):
        run(job, QUIET)
    for name in ("replies/train_sampled/000000.json", "replies/validation_sampled/000000.json"):
        texts = [
            json.loads((Path(job.run_folder) / name).read_text())["texts"] for job in (few, many)
        ]
        assert texts[0] == texts[1]


def test_an_adapter_is_what_learns_where_it_is_asked_for(spec: MakeSpec) -> None:
    job = spec(actor={**ACTOR, "lora": {"r": 4}}, peft_enable=True, prompts=4)
    outcome = run(job, QUIET)
    assert 0 < outcome.rows <= 4
    assert (Path(job.output) / "adapter_model.safetensors").is_file()


def test_replies_of_which_none_ends_are_refused(spec: MakeSpec, tiny_base_folder: Path) -> None:
    job = spec(actor={**ACTOR, "max_tokens": 1})
    job.inputs["actor_sft"] = str(tiny_base_folder)
    with pytest.raises(DataError, match=r"none of those to 20 prompts does .*max_tokens 1: raise"):
        run(job, QUIET)


def test_what_runs_out_of_memory_samples_half_as_many_at_once(spec: MakeSpec) -> None:
    less = with_half(spec(rollout_batch_size=32), processes=1)
    assert less is not None
    changed = less.settings["best_of_n_config"]
    assert (changed["rollout_batch_size"], changed["micro_batch_size"]) == (16, 2)


def test_it_is_planned_with_the_actor_and_the_reward_model(tiny_base_folder: Path) -> None:
    settings = AssistantSettings.model_validate(
        {"improve_by": "best_of_n", "actor_config": ACTOR, "best_of_n_config": BEST}
    )
    folders = {"policy": tiny_base_folder, "reward": tiny_base_folder}
    plan = memory_plan("actor_best_of_n", folders, settings, Means(), 64)
    assert "policy gradients and Adam" in plan.held
    assert set(plan.phases) == {"training", "scoring", "rollout", "validation"}
