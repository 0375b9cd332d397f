"""The RL stage on a tiny model: its properties, its payload, its resume, its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.chat.template import Example, stop_ids
from chatllama_pipeline.models.heads import (
    SCORE_SCALE,
    SCORE_SHIFT,
    load_actor,
    load_reward,
    pad_right,
    score_rows,
)
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import memory_plan
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.settings import ActorSettings, AssistantSettings
from chatllama_pipeline.settings.training.methods import GROUPED, MethodName
from chatllama_pipeline.training.ppo import stage as ppo
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.preparation import read_prompts
from chatllama_pipeline.training.ppo.roles import Roles
from chatllama_pipeline.training.ppo.stage import run
from tests.families.vocabulary import tokenizer_kinds
from tests.tiny import QUIET, MakeSpec, hashes, row
from tests.training.ppo.tiny import PROMPTS, TRAINER
from tests.training.resume.kills import assert_same_when_killed

SETTINGS = {
    "actor_config": {"model": "scratch", "max_sequence_length": 64, "max_tokens": 8},
    "trainer_config": TRAINER,
}


@pytest.fixture(scope="session")
def reward_folder(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    setattr(model.config, SCORE_SHIFT, 0.25)
    setattr(model.config, SCORE_SCALE, 0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts_folder(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> Path:
    texts = [(text, "train") for text in PROMPTS] + [("zulu", "validation"), ("yankee", "test")]
    rows = [row(text, split) for text, split in texts]
    folder: Path = write_table(tmp_path_factory.mktemp("prompts"), rows, PROMPT_SCHEMA)
    return folder


@pytest.fixture
def spec(
    make_spec: MakeSpec, tiny_base_folder: Path, reward_folder: Path, prompts_folder: Path
) -> Callable[..., StageSpec]:
    def make(take: str = "a", settings: dict[str, Any] = SETTINGS, **inputs: Path) -> StageSpec:
        folders = {
            "actor_sft": tiny_base_folder,
            "reward_model": reward_folder,
            "rlhf_training_data": prompts_folder,
        }
        return make_spec("actor_ppo", settings, folders | inputs, take)

    return make


def vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def with_trainer(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, "trainer_config": {**TRAINER, **changes}}


@pytest.mark.parametrize(
    ("thoughts", "texts"),
    [
        ("drop", ["bravo", None, "charlie<|im_start|>"]),
        ("keep", ["<think>\nalpha\n</think>\n\nbravo", "<think>alpha", "charlie<|im_start|>"]),
    ],
)
def test_the_reward_is_of_what_follows_the_thoughts_unless_they_are_kept(
    thoughts: str, texts: list[str | None]
) -> None:
    tokenizer = tokenizer_kinds.qwen3_thinking()
    written = [
        "<think>\nalpha\n</think>\n\nbravo<|im_end|>",
        "<think>alpha",
        "charlie<|im_start|><|im_end|>",
    ]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in written]
    actor = ActorSettings(thoughts=thoughts)
    scorer: Any = None
    task = ppo._task(ppo.Prompts([], [], 0, 0), tokenizer, stop_ids(tokenizer), scorer, actor)
    assert task.decode(ids) == texts


def test_a_critic_from_the_reward_model_starts_from_its_scores(
    tiny_base_folder: Path, reward_folder: Path
) -> None:
    reward = load_reward(reward_folder, torch.float32)
    module = ActorCritic(
        load_actor(tiny_base_folder, torch.float32), load_reward(reward_folder, torch.float32)
    )
    rows = [[7, 8, 9, 10], [11, 12, 13, 14]]
    ids, mask = pad_right(rows, 0)
    expected = (score_rows(reward, [Example(row, 3) for row in rows], pad_id=0) - 0.25) / 0.5
    response = torch.tensor([[1], [1]])
    found = module.eval()(ids, mask, response, response == 1, 1.0, False).values[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_payload_is_a_model_that_talks_a_critic_curves_and_samples(
    spec: Callable[..., StageSpec],
) -> None:
    job = spec()
    outcome = run(job, QUIET)
    output = Path(job.output)
    assert all(check.passed for check in outcome.checks)
    names = ["memory_plan", "finite_loss", "collapse", "reward_cheats", "reward_hacking"]
    assert [check.name for check in outcome.checks] == names
    assert outcome.rows == 6 and outcome.warnings == []
    reply = pipeline("text-generation", str(output))("alpha", max_new_tokens=3)
    assert reply[0]["generated_text"].startswith("alpha")
    critic = AutoModelForSequenceClassification.from_pretrained(output / "critic")
    assert critic.config.chatllama_score_scale == 0.5

    curves = json.loads((output / "curves.json").read_text())
    assert [step for step, _ in curves["score"]] == [1, 2, 3, 4, 5, 6]
    assert {curve.name for curve in outcome.curves} == set(curves)
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 24
    assert set(samples[0]) == {"iteration", "prompt", "reply", "score", "finished"}
    assert samples[0]["prompt"][0]["content"] in PROMPTS
    mean = sum(sample["score"] for sample in samples[:4]) / 4
    assert curves["score"][0][1] == pytest.approx(mean, abs=1e-5)
    assert {"seconds_rollout", "seconds_update", "tokens_per_second"} <= set(outcome.metrics)


@pytest.mark.parametrize("method", GROUPED)
def test_a_method_without_a_critic_loads_plans_and_writes_none(
    spec: Callable[..., StageSpec], loaded: list[Roles], method: MethodName
) -> None:
    job = spec(settings={**with_trainer(num_episodes=2), "improve_by": method})
    outcome = run(job, QUIET)
    assert loaded[0].critic is None
    assert loaded[0].sharing == [["reference"], ["policy"], ["reward"]]
    folders = {role: Path(job.inputs["actor_sft"]) for role in ("policy", "reference", "reward")}
    whole = memory_plan(
        "actor_ppo", folders | {"critic": folders["policy"]}, AssistantSettings(), Means()
    )
    plan = memory_plan("actor_ppo", folders, AssistantSettings(), Means())
    assert set(whole.held) - set(plan.held) == {"critic weights", "critic gradients and Adam"}
    assert "the critic's update" in set(whole.phases) - set(plan.phases)

    assert not (Path(job.output) / "critic").exists()
    curves = {curve.name: curve.points for curve in outcome.curves}
    assert not {"value_loss", "value_clip_fraction", "explained_variance"} & set(curves)
    assert {"score", "kl", "policy_loss", "score_std_per_prompt"} <= set(curves)
    # Four prompts an iteration, with four replies each where nothing is set, side by side.
    samples = [
        json.loads(line) for line in (Path(job.output) / "samples.jsonl").read_text().splitlines()
    ]
    asked = [sample["prompt"][0]["content"] for sample in samples]
    assert len(asked) == 2 * 4 * 4
    groups = [asked[i : i + 4] for i in range(0, 32, 4)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups[:4]}) == 4
    assert len({sample["reply"] for sample in samples[:4]}) > 1


def test_every_part_of_an_iteration_says_how_far_it_is(spec: Callable[..., StageSpec]) -> None:
    lines: list[str] = []
    with listening(Progress("actor_ppo", lines.append, every_seconds=0, first_seconds=0)):
        run(spec(settings=with_trainer(num_episodes=1)), QUIET)
    parts = ("tokenizes prompts", "writes 4 replies", "reads what was written", "scores 4 replies")
    for part in (*parts, "learns from it"):
        said = [line for line in lines if f"actor_ppo: {part}: " in line]
        assert said and "left" in said[-1], part


@pytest.mark.parametrize(
    ("method", "trunk"), [("ppo", "own"), ("ppo", "shared"), *((name, "own") for name in GROUPED)]
)
def test_a_killed_training_continues_to_the_same_payload(
    spec: Callable[..., StageSpec], method: MethodName, trunk: str
) -> None:
    settings = {**with_trainer(num_episodes=4, checkpoint_steps=4), "improve_by": method}
    settings["critic_config"] = {"trunk": trunk}
    whole, cut = spec("whole", settings), spec("cut", settings)
    # Saved every 4 timesteps, an iteration: two of the three are not done again.
    assert_same_when_killed(run, whole, cut, at="step 3/4", continued="continues after iteration 2")
    assert "model.safetensors" in hashes(whole.output)


def test_what_follows_the_last_iteration_is_done_again_without_any(
    spec: Callable[..., StageSpec],
) -> None:
    settings = with_trainer(num_episodes=3)
    whole, cut = spec("whole", settings), spec("cut", settings)
    run(whole, QUIET)
    output = Path(cut.output)
    output.rmdir()
    output.write_text("a file where the payload would stand")
    with pytest.raises(OSError, match=r"exists|directory"):
        run(cut, QUIET)
    output.unlink()
    output.mkdir()
    lines: list[str] = []
    run(cut, Progress("test", lines.append))
    assert any("continues after iteration 3" in line for line in lines)
    assert not any(": step " in line for line in lines)
    assert hashes(whole.output) == hashes(cut.output)


def test_a_reward_model_with_other_tokens_leaves_the_critic_to_the_sft_weights(
    spec: Callable[..., StageSpec], tiny_base_folder: Path, tmp_path: Path
) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    size = ScratchSize(hidden_size=32, layers=2, heads=2, vocabulary=310, max_length=64)
    make_scratch_model(
        ["mike november oscar papa quebec romeo sierra tango"] * 8, size, seed=0, folder=base
    )
    torch.manual_seed(0)
    load_reward(base, torch.float32).save_pretrained(other)
    AutoTokenizer.from_pretrained(base).save_pretrained(other)
    job = spec(settings=with_trainer(num_episodes=1), reward_model=other)
    outcome = run(job, QUIET)
    assert [line for line in outcome.warnings if "fresh head" in line] == [
        "the reward model reads other tokens than the actor: the critic starts from the SFT "
        "weights with a fresh head, not from the reward model"
    ]
    critic = AutoModelForSequenceClassification.from_pretrained(Path(job.output) / "critic")
    assert critic.config.vocab_size == vocabulary(tiny_base_folder) != vocabulary(other)


def test_prompts_without_room_for_a_reply_are_dropped_and_counted(
    prompts_folder: Path, tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    read = partial(read_prompts, prompts_folder, tmp_path, tokenizer)
    settings = AssistantSettings.model_validate(SETTINGS)
    lengths = [len(ids) for ids in read(64, settings).ids]
    limit = sorted(lengths)[2]
    found = read(limit, settings)
    assert len(found.ids) == sum(length <= limit for length in lengths) < 6
    assert found.dropped == 6 - len(found.ids)
    with pytest.raises(DataError, match="none of the 6 train prompts fits in 1 tokens"):
        read(1, settings)


def test_a_prompt_begins_with_one_bos(
    prompts_folder: Path, tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    tokenizer.add_special_tokens({"bos_token": "<|system|>"})
    found = read_prompts(
        prompts_folder, tmp_path, tokenizer, 64, AssistantSettings.model_validate(SETTINGS)
    ).ids
    assert [ids.count(tokenizer.bos_token_id) for ids in found] == [1] * 6
    assert all(ids[0] == tokenizer.bos_token_id for ids in found)
