from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatllama_pipeline.evaluation.compare import run
from chatllama_pipeline.evaluation.figures import Evaluation, read_comparisons
from chatllama_pipeline.evaluation.replies import Sampled, answer, divergences
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, PROMPT_SCHEMA
from tests.models.chat.test_rendering import OPENS_A_THOUGHT

PAYLOAD = ["evaluation.json", "report.html", "table.jsonl"]


def settings(**sections: Any) -> dict[str, Any]:
    actor = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
    return {"llm": {"provider": "rules"}, "actor_config": actor, **sections}


@pytest.fixture
def evaluate(
    make_spec: Callable[..., StageSpec], evaluation_inputs: dict[str, Path]
) -> Callable[..., tuple[Outcome, Path]]:
    """Runs the stage on the tiny inputs, with what is asked for changed."""

    def call(take: str = "a", **changed: Any) -> tuple[Outcome, Path]:
        inputs = evaluation_inputs | changed.pop("inputs", {})
        spec = make_spec("evaluation", settings(**changed.pop("sections", {})), inputs, take)
        outcome = run(
            dataclasses.replace(spec, **changed), Progress("evaluation", lambda line: None)
        )
        return outcome, Path(spec.output)

    return call


def test_a_reply_whose_thought_never_ends_is_unfinished_and_has_no_text(
    tiny_base_folder: Path,
) -> None:
    tokenizer = load_tokenizer(tiny_base_folder)
    tokenizer.chat_template = OPENS_A_THOUGHT
    model = load_actor(tiny_base_folder, torch.float32)
    found = {
        thoughts: answer(
            model,
            tokenizer,
            [[3, 70, 4], [3, 75, 4]],
            max_new_tokens=200,
            temperature=2.0,
            seed=0,
            thoughts=thoughts,
        )
        for thoughts in ("drop", "keep")
    }
    assert [reply.ids for reply in found["drop"]] == [reply.ids for reply in found["keep"]]
    assert any(reply.finished for reply in found["keep"])
    assert [(reply.text, reply.finished) for reply in found["drop"]] == [("", False)] * 2
    assert all(reply.text for reply in found["keep"])


def test_an_actor_that_no_reward_model_paid_is_compared_without_one(
    make_spec: Callable[..., StageSpec], evaluation_inputs: dict[str, Path]
) -> None:
    inputs = {name: path for name, path in evaluation_inputs.items() if name != "reward_model"}
    spec = make_spec("evaluation", settings(improve_by="dpo"), inputs)
    outcome = run(spec, Progress("evaluation", lambda line: None))
    found = Evaluation.read(Path(spec.output))
    assert found.figures.actor_ppo.reward is None
    assert found.figures.actor_ppo.rubric_score is not None
    assert (found.figures.reward_model_accuracy, found.figures.reward_model_pairs) == (None, 0)
    checks = {check.name: check for check in outcome.checks}
    assert checks["reward_accuracy"].passed
    assert "needs no reward model" in checks["reward_accuracy"].description
    assert not any(curve.name.startswith("reward_model/") for curve in outcome.curves)
    page = (Path(spec.output) / "report.html").read_text()
    assert "of 5" in page and "tokens" in page and "Reward model accuracy" not in page


def test_an_evaluation_measures_both_actors_and_draws_their_curves(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    outcome, folder = evaluate()
    found = Evaluation.read(folder)
    figures = found.figures
    assert sorted(path.name for path in folder.iterdir()) == PAYLOAD
    assert (figures.prompts, figures.sft_validation_loss) == (2, 3.25)
    # Two test pairs: one is a tie, one is right or wrong.
    assert figures.reward_model_pairs == 2
    assert figures.reward_model_accuracy in (0.25, 0.75)
    assert figures.kl is not None and figures.kl != 0
    assert figures.actor_sft.rubric_score is not None
    assert figures.actor_sft.names_item == 0.0
    assert outcome.rows == 2
    assert outcome.metrics["actor_ppo.reply_tokens"] == figures.actor_ppo.reply_tokens
    curves = {curve.name: curve.points for curve in outcome.curves}
    # Iteration 1: two replies worth 0; iteration 2: one worth 0 and one worth 5 of 5.
    assert curves["actor_ppo/rubric"] == [(1.0, 0.0), (2.0, 0.5)]
    assert curves["reward_model/validation_accuracy"] == [(1, 0.5), (2, 0.75)]


def test_a_rubric_of_ones_own_decides_who_wins(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    rubric = [{"name": "lucky", "says": "Good luck"}, {"name": "short", "words": [0, 2]}]
    outcome, folder = evaluate(sections={"rubric": rubric, "evaluation": {"judge": "rubric"}})
    rows = read_comparisons(folder)
    assert {reply.score for row in rows for reply in (row.actor_sft, row.actor_ppo)} <= {0.0, 2.5}
    assert Evaluation.read(folder).figures.judged == 2
    # Each sample of PPO meets one of the two: "no" is short, the perfect reply wishes luck.
    curves = {curve.name: curve.points for curve in outcome.curves}
    assert curves["actor_ppo/rubric"] == [(1.0, 0.5), (2.0, 0.5)]
    assert "Judge: rubric." in (folder / "report.html").read_text()


def test_the_figures_are_the_means_of_the_replies_in_the_table(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    figures = Evaluation.read(evaluate()[1]).figures
    rows = read_comparisons(evaluate("b")[1])
    assert figures.kl == pytest.approx(sum(row.kl for row in rows) / 2, abs=2e-6)
    for actor in ("actor_sft", "actor_ppo"):
        replies = [getattr(row, actor) for row in rows]
        mine = getattr(figures, actor)
        assert mine.reply_tokens == sum(reply.tokens for reply in replies) / 2
        assert mine.reward == pytest.approx(sum(r.reward for r in replies) / 2, abs=2e-6)
        assert mine.share_finished == sum(reply.finished for reply in replies) / 2


def test_the_same_evaluation_twice_gives_the_same_bytes(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    first, second = evaluate("a")[1], evaluate("b")[1]
    for name in PAYLOAD:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_payload_tells_no_folder_and_no_time(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    _, folder = evaluate()
    for name in PAYLOAD:
        text = (folder / name).read_text()
        assert str(folder.parent) not in text
        assert str(evaluation_inputs["actor_sft"].parent) not in text
        assert re.findall(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text) == []


def test_an_actor_against_itself_has_no_kl(
    evaluate: Callable[..., tuple[Outcome, Path]],
    evaluation_inputs: dict[str, Path],
    tmp_path: Path,
) -> None:
    same = tmp_path / "same"
    same.mkdir()
    for path in evaluation_inputs["actor_ppo"].iterdir():
        source = evaluation_inputs["actor_sft"] / path.name
        (same / path.name).write_bytes((source if source.exists() else path).read_bytes())
    figures = Evaluation.read(evaluate(inputs={"actor_ppo": same})[1]).figures
    assert figures.kl == 0.0


def test_without_a_judge_nothing_is_judged_and_the_release_is_held(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    outcome, folder = evaluate(sections={"evaluation": {"judge": "none"}})
    found = Evaluation.read(folder)
    assert found.figures.win_rate is None
    assert found.figures.actor_ppo.rubric_score is None
    assert found.figures.actor_ppo.names_item is None
    assert found.figures.actor_ppo.reward is not None
    assert not found.verdict.released
    assert "python -m chatllama_pipeline approve tiny" in found.verdict.reason
    assert outcome.checks[0].name == "release_gate"
    assert not outcome.checks[0].passed
    assert "rubric" not in " ".join(curve.name for curve in outcome.curves)


def test_unpromoted_overrides_hold_a_release_back(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    _, folder = evaluate(unpromoted_overrides=["seed"])
    assert "the run overrides seed" in Evaluation.read(folder).verdict.reason


def test_without_test_rows_nothing_is_measured_and_the_release_is_held(
    evaluate: Callable[..., tuple[Outcome, Path]], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    empty = {
        "rlhf_training_data": write_table(tmp_path / "prompts", [], PROMPT_SCHEMA),
        "preference_data": write_table(tmp_path / "pairs", [], PREFERENCE_SCHEMA),
    }
    outcome, folder = evaluate(inputs=empty)
    found = Evaluation.read(folder)
    assert (found.figures.prompts, found.figures.reward_model_pairs) == (0, 0)
    assert (found.figures.win_rate, found.figures.reward_model_accuracy) == (None, None)
    assert found.verdict.reason.startswith("0 test prompts are too few to judge by")
    # There are no questions with known answers: nothing was lost.
    assert [check.passed for check in outcome.checks] == [False] * 4 + [True] * 3


def test_fewer_prompts_can_be_asked_for_and_those_chosen_stay_the_same(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    both = read_comparisons(evaluate("a")[1])
    one = read_comparisons(evaluate("b", sections={"evaluation": {"prompts": 1}})[1])
    assert [row.prompt for row in one] == [row.prompt for row in both[:1]]


def test_test_prompts_that_leave_no_room_for_a_reply_are_left_out_with_a_warning(
    evaluate: Callable[..., tuple[Outcome, Path]], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": text}], "source": "grammar", "split": "test"}
        for text in ("Can you help me cook noodles?", "Can you help me cook noodles? " * 9)
    ]
    table = write_table(tmp_path / "prompts", rows, PROMPT_SCHEMA)
    outcome, _ = evaluate(inputs={"rlhf_training_data": table})
    assert outcome.rows == 1
    assert outcome.warnings == [
        "1 test prompts are longer than 116 tokens, which is what actor_config.max_tokens 12 "
        "leaves of max_sequence_length 128, and were left out"
    ]


def test_kl_is_the_difference_of_plain_log_probabilities_whatever_the_padding(
    evaluation_inputs: dict[str, Path],
) -> None:
    policy, reference = (
        load_actor(evaluation_inputs[actor], torch.float32) for actor in ("actor_ppo", "actor_sft")
    )
    prompts = [[3, 70, 71, 72, 4], [3, 80, 4], [3, 90, 91, 4]]
    replies = [
        Sampled([60, 61, 1], "", True),
        Sampled([62], "", False),
        Sampled([63, 64], "", True),
    ]
    expected = []
    for prompt, reply in zip(prompts, replies, strict=True):
        total = 0.0
        for model, sign in ((policy, 1), (reference, -1)):
            ids = torch.tensor([prompt + reply.ids])
            with torch.no_grad():
                logp = (model(ids).logits[0] / 0.5).log_softmax(-1)
            total += sign * sum(
                float(logp[len(prompt) - 1 + t, token]) for t, token in enumerate(reply.ids)
            )
        expected.append(total)
    assert divergences(policy, reference, 0, prompts, replies, 0.5) == pytest.approx(
        expected, abs=1e-4
    )


def test_replies_come_in_the_order_of_their_prompts_and_hold_no_special_tokens(
    tiny_base_folder: Path,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    # With its own input as its only wish the model repeats the last token of the prompt.
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1e4)
    prompts = [[3, 75, 76, 70], [3, 75, 71], [72]]
    replies = answer(model, tokenizer, prompts, max_new_tokens=3, temperature=1.0, seed=0)
    assert [reply.ids for reply in replies] == [[70] * 3, [71] * 3, [72] * 3]
    assert [reply.finished for reply in replies] == [False] * 3
    ended = answer(model, tokenizer, [[3, 75, 1]], max_new_tokens=3, temperature=1.0, seed=0)
    assert ended == [Sampled([1], "", True)]


def test_another_seed_samples_other_replies(tiny_base_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)

    def sample(seed: int) -> list[Sampled]:
        return answer(model, tokenizer, [[3, 70, 4]], max_new_tokens=8, temperature=1.0, seed=seed)

    assert sample(0) == sample(0)
    assert sample(0) != sample(1)


def test_the_win_rate_comes_from_the_judge_and_not_from_the_reward(
    evaluate: Callable[..., tuple[Outcome, Path]],
) -> None:
    _, folder = evaluate()
    figures = Evaluation.read(folder).figures
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    # Random models say nothing the judge gives points for: all ties, while the rewards differ.
    assert [row["actor_ppo"]["score"] for row in rows] == [0.0, 0.0]
    assert (figures.win_rate, figures.win_rate_low, figures.win_rate_high) == (0.5, 0.5, 0.5)
    assert not math.isclose(figures.actor_sft.reward or 0, figures.actor_ppo.reward or 0)
