from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.template import Example, conversation
from chatllama_pipeline.models.heads import RewardScorer, load_reward, score_rows
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, REWARD_SCHEMA, REWARD_SCHEMA_WITH_THUMBS
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.reward.items import Pair, Scored, read_pair
from chatllama_pipeline.training.reward.stage import (
    collate_items,
    prepare,
    reward_loss_sum,
    run,
)
from tests.tiny import QUIET, WORDS, MakeSpec, pair, row

TRAINING = {
    "model": "local",
    "max_sequence_length": 64,
    "batch_size": 8,
    "lr": 0.01,
    "max_steps": 30,
    "evaluations": 2,
}
SPLITS = ["train"] * 6 + ["validation"] * 2


def pairs() -> list[dict[str, Any]]:
    return [
        pair(word, f"{word} kilo", f"{word} lima", split)
        for word, split in zip(WORDS, SPLITS, strict=True)
    ]


def scores() -> list[dict[str, Any]]:
    return [
        row(word, split, completion=f"{word} {ending}", score=score)
        for word, split in zip(WORDS, SPLITS, strict=True)
        for ending, score in (("kilo", 5.0), ("lima", 0.0), ("juliet", None))
    ]


@pytest.fixture
def make_inputs(
    tmp_path: Path, tiny_base_folder: Path, write_table: Any
) -> Callable[..., dict[str, Path]]:
    def make(pair_rows: list[Any], score_rows: list[Any]) -> dict[str, Path]:
        return {
            "reward_base": tiny_base_folder,
            "preference_data": write_table(tmp_path / "pairs", pair_rows, PREFERENCE_SCHEMA),
            "reward_training_data": write_table(
                tmp_path / "scores",
                score_rows,
                REWARD_SCHEMA_WITH_THUMBS if "thumb" in str(score_rows[:1]) else REWARD_SCHEMA,
            ),
        }

    return make


@pytest.mark.parametrize("objective", ["both", "pairwise", "scores"])
def test_every_objective_learns_what_people_prefer(
    make_spec: MakeSpec, make_inputs: Any, objective: str
) -> None:
    spec = make_spec(
        "reward_model",
        {"reward_config": {**TRAINING, "objective": objective}},
        make_inputs(pairs(), scores()),
    )
    outcome = run(spec, QUIET)
    assert outcome.rows == {"both": 6 + 12, "pairwise": 6, "scores": 12}[objective]
    assert outcome.metrics["validation_accuracy"] == 1.0
    assert outcome.warnings == []
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("memory_plan", True),
        ("finite_loss", True),
    ]
    assert set(json.loads((Path(spec.output) / "curves.json").read_text())) == {
        "loss",
        "validation_accuracy",
    }


def test_what_ratings_became_is_read_as_often_as_is_set(
    make_spec: MakeSpec, make_inputs: Any
) -> None:
    rated = [
        [{**row, "source": "feedback"} for row in rows if row["prompt"][0]["content"] == "alpha"]
        for rows in (pairs(), scores())
    ]
    inputs = make_inputs(pairs() + rated[0], scores() + rated[1])
    sections = {"reward_config": TRAINING, "feedback": {"weight": 3}}
    spec = make_spec("reward_model", sections, inputs)
    settings = AssistantSettings.of_stage(spec)
    plan, rows = prepare(spec, settings, QUIET)
    # Of 18 rows nobody rated, 9 more are half as many.
    assert plan.steps == 45
    items = [*rows.items.pairs, *rows.items.scored]
    counts = Counter((type(item).__name__, item.source) for item in items)
    # A reply that nobody scored teaches nothing.
    assert counts == {
        ("Pair", "test"): 6,
        ("Pair", "feedback"): 3,
        ("Scored", "test"): 12,
        ("Scored", "feedback"): 6,
    }
    assert {item.source for item in rows.held_out.pairs} == {"test"}


def test_thumbs_lie_on_two_sides_of_the_middle_of_what_was_scored(
    make_spec: MakeSpec, make_inputs: Any
) -> None:
    takes = itertools.count()

    def items(rows: list[dict[str, Any]]) -> list[Scored]:
        inputs = make_inputs(pairs(), rows)
        spec = make_spec("reward_model", {"reward_config": TRAINING}, inputs, f"{next(takes)}")
        _, found = prepare(spec, AssistantSettings.of_stage(spec), QUIET)
        return list(found.items.scored)

    scored = items(scores())
    thumbs = [{**scores()[0], "source": "feedback", "score": score} for score in (5.0, 0.0)]
    both = items([*scores(), *thumbs])
    # A thumb is no score: the scale of those that were given stays.
    assert [item for item in both if item.source == "test"] == scored
    assert {item.midpoint for item in scored} == {None}
    up, down = (
        next(i for i in both if i.midpoint is not None and i.score * s > 0) for s in (1, -1)
    )
    assert up.midpoint == down.midpoint == pytest.approx(0.0, abs=1e-6)
    # Those of the user's own files are the same, and don't count as ratings.
    own = [{**thumb, "source": "personal", "thumb": True} for thumb in thumbs]
    told = [{"thumb": False, **row} for row in [*scores(), *own]]
    of_files = [item for item in items(told) if item.source == "personal"]
    assert [(item.midpoint, item.score) for item in of_files] == [
        (up.midpoint, up.score),
        (down.midpoint, down.score),
    ]
    [alone, *_] = items(thumbs[:1])
    assert alone.midpoint == -2.5 and alone.score == 0.0


def test_scores_have_mean_0_and_deviation_1_on_the_training_replies(
    make_spec: MakeSpec, make_inputs: Any
) -> None:
    settings = {"reward_config": {**TRAINING, "objective": "pairwise"}}
    spec = make_spec("reward_model", settings, make_inputs(pairs(), []))
    run(spec, QUIET)
    train = [row for row in pairs() if row["split"] == "train"]
    prompts = [user_prompt(row["prompt"][0]["content"]) for row in train]
    scorer = RewardScorer(spec.output)
    replies = [row["chosen"] for row in train] + [row["rejected"] for row in train]
    result = scorer(prompts * 2, replies)
    assert float(result.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(result.std()) == pytest.approx(1.0, abs=1e-4)
    assert bool((result[:6] > result[6:]).all())


def test_a_kill_while_it_normalises_costs_no_step(make_spec: MakeSpec, make_inputs: Any) -> None:
    class Killed(BaseException):
        pass

    def die(line: str) -> None:
        if "normalises on" in line:
            raise Killed

    inputs = make_inputs(pairs(), scores()[:9])
    settings = {"reward_config": {**TRAINING, "keep_weights": "best"}}
    whole, cut = (make_spec("reward_model", settings, inputs, take) for take in ("a", "b"))
    run(whole, QUIET)
    with listening(Progress("reward", die, first_seconds=0)), pytest.raises(Killed):
        run(cut, QUIET)
    assert not any(Path(cut.output).iterdir())
    lines: list[str] = []
    with listening(Progress("reward", lines.append, every_seconds=0, first_seconds=0)):
        run(cut, Progress("reward", lines.append))
    assert any("continues from the state" in line and "after step 30" in line for line in lines)
    assert not any(": step " in line for line in lines)
    first, second = (
        {path.name: path.read_bytes() for path in Path(spec.output).iterdir()}
        for spec in (whole, cut)
    )
    assert first == second
    # Every phase that may be long speaks.
    for said in ("tokenizes train pairs", "normalises on 18 replies", "reports on"):
        assert any(said in line for line in lines), said


def test_the_same_spec_writes_the_same_bytes(make_spec: MakeSpec, make_inputs: Any) -> None:
    inputs = make_inputs(pairs(), scores())
    specs = [make_spec("reward_model", {"reward_config": TRAINING}, inputs, take) for take in "ab"]
    for spec in specs:
        run(spec, QUIET)
    first, second = (
        {path.name: path.read_bytes() for path in Path(spec.output).iterdir()} for spec in specs
    )
    assert first == second


def test_both_without_scores_learns_from_pairs_and_says_so(
    make_spec: MakeSpec, make_inputs: Any
) -> None:
    spec = make_spec("reward_model", {"reward_config": TRAINING}, make_inputs(pairs(), []))
    warnings = run(spec, QUIET).warnings
    assert len(warnings) == 1 and "there are no scored replies" in warnings[0]


@pytest.mark.parametrize(
    ("objective", "missing"),
    [("pairwise", "no preference pairs"), ("both", "no preference pairs .*and no scored replies")],
)
def test_nothing_to_learn_from_is_an_error(
    make_spec: MakeSpec, make_inputs: Any, objective: str, missing: str
) -> None:
    settings = {"reward_config": {**TRAINING, "objective": objective}}
    rows = scores() if objective == "pairwise" else []
    with pytest.raises(DataError, match=missing):
        run(make_spec("reward_model", settings, make_inputs([], rows)), QUIET)


def test_pairs_and_scores_in_one_forward_cost_what_they_cost_apart(tiny_base_folder: Path) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    pair = Pair(Example([3, 40, 4, 50, 51, 52, 1], 3), Example([3, 40, 4, 60, 1], 3), margin=0.5)
    scored = Scored(Example([3, 41, 4, 70, 1], 3), score=-1.5)
    thumb = Scored(Example([3, 42, 4, 71, 1], 3), score=-1.0, midpoint=0.25)
    together = collate_items(model, [scored, pair, thumb], pad_id=0)
    assert together.pop("weight") == 3
    rows = [pair.chosen, pair.rejected, scored.row, thumb.row]
    chosen, rejected, reply, down = score_rows(model, rows, 0)
    expected = (
        -torch.nn.functional.logsigmoid(chosen - rejected - 0.5)
        + 0.01 * (chosen + rejected) ** 2
        + (reply + 1.5) ** 2
        - torch.nn.functional.logsigmoid(0.25 - down)
    )
    loss = reward_loss_sum(model, together, centering_weight=0.01)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_both_replies_of_a_pair_follow_the_same_shortened_prompt(
    make_spec: MakeSpec, make_inputs: Any, tiny_base_folder: Path
) -> None:
    row = pairs()[0]
    row["prompt"] = [
        {"role": "user", "content": "golf"},
        {"role": "assistant", "content": "hotel"},
        {"role": "user", "content": "india"},
    ]
    row["rejected"] = "kilo kilo kilo kilo kilo kilo"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    encode = partial(conversation, tokenizer)
    pair = read_pair(encode, row, 24, with_margin=True)
    assert tokenizer.decode(pair.chosen.ids) == "<|user|>india<|end|><|assistant|>alpha kilo<|end|>"
    assert tokenizer.decode(pair.rejected.ids).startswith(
        "<|user|>india<|end|><|assistant|>kilo kilo"
    )
    assert len(pair.rejected.ids) <= 24
    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    swapped = read_pair(encode, row, 24, with_margin=True)
    assert (swapped.chosen, swapped.rejected) == (pair.rejected, pair.chosen)


def test_rows_too_long_are_left_out_and_counted(make_spec: MakeSpec, make_inputs: Any) -> None:
    long = {**pairs()[0], "chosen": "x" * 99}
    spec = make_spec(
        "reward_model",
        {"reward_config": {**TRAINING, "objective": "pairwise", "max_steps": 2}},
        make_inputs([*pairs(), long], []),
    )
    outcome = run(spec, QUIET)
    assert outcome.metrics["dropped_too_long"] == 1
    assert "1 rows are longer than reward_config.max_sequence_length" in outcome.warnings[0]


def test_a_pairs_margin_is_the_logarithm_of_its_strength_unless_it_is_set_to_none(
    tiny_base_folder: Path,
) -> None:
    encode = partial(conversation, AutoTokenizer.from_pretrained(tiny_base_folder))
    row = {**pairs()[0], "strength": 8.0}
    assert read_pair(encode, row, 64, with_margin=True).margin == pytest.approx(2.0794, abs=1e-4)
    assert read_pair(encode, row, 64, with_margin=False).margin == 0.0


def test_the_margin_setting_changes_what_is_learned(make_spec: MakeSpec, make_inputs: Any) -> None:
    strong = [{**row, "strength": 8.0} for row in pairs()]
    inputs = make_inputs(strong, [])
    losses = []
    for margin in ("strength", "none"):
        settings = {"objective": "pairwise", "max_steps": 1, "margin": margin}
        spec = make_spec(
            "reward_model", {"reward_config": {**TRAINING, **settings}}, inputs, margin
        )
        losses.append(run(spec, QUIET).metrics["loss"])
    # A fresh head tells replies apart by little: -log sigmoid(-2.08) = 2.20 against log 2 = 0.69.
    assert losses[0] > losses[1] + 1
