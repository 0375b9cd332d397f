from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from chatllama_pipeline.evaluation import CHECK_NAMES
from chatllama_pipeline.evaluation.figures import ActorFigures, Figures, Verdict
from chatllama_pipeline.evaluation.gate import checks, decide
from chatllama_pipeline.settings import CheckSettings, ReleaseSettings

SHORT = ActorFigures(0.85, 1.9, 9.0, 1.0, 0.65, 0.2)


def verdict(figures: Figures, judge: str | None = "rules", **changed: Any) -> Verdict:
    overrides = changed.pop("overrides", [])
    pays = changed.pop("reward_model_pays", True)
    return decide(
        figures,
        ReleaseSettings(**changed),
        assistant="mia",
        judge=judge,
        unpromoted_overrides=overrides,
        reward_model_pays=pays,
    )


def test_a_clear_win_near_sft_is_released_with_its_numbers(
    make_figures: Callable[..., Figures],
) -> None:
    assert verdict(make_figures()) == Verdict(
        True,
        "win rate 0.900 (95 % interval 0.860 to 0.940) on 200 test prompts is above 0.5; "
        "KL 2.25 nats per reply is within 10; replies are 1.25 times as long as SFT's",
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"reward_model_accuracy": 0.55, "reward_model_pairs": 474},
        {"reward_model_accuracy": 0.5, "reward_model_pairs": 99},
        {"reward_model_accuracy": None, "reward_model_pairs": 0},
    ],
)
def test_a_reward_model_better_than_a_coin_or_on_few_pairs_holds_nothing_back(
    make_figures: Callable[..., Figures], changed: dict[str, Any]
) -> None:
    assert verdict(make_figures(**changed)).released


def test_a_reward_model_that_pays_nothing_may_guess(make_figures: Callable[..., Figures]) -> None:
    guessing = make_figures(reward_model_accuracy=0.5, reward_model_pairs=474)
    assert verdict(guessing, reward_model_pays=False).released


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"win_rate": 0.56, "win_rate_low": 0.5},
            "win rate 0.560, its lower bound 0.500 is not above 0.5 (release.min_win_rate)",
        ),
        (
            {"reward_model_accuracy": 0.525, "reward_model_pairs": 474},
            "the reward model is right on 0.525 of 474 test pairs (95 % interval 0.480 to 0.570), "
            "which a coin may be too",
        ),
        ({"kl": 10.5}, "KL 10.50 nats per reply is above 10 (release.max_kl)"),
        ({"kl": None}, "the KL per reply was not measured"),
        (
            {"actor_ppo": SHORT},
            "replies are 0.38 times as long as SFT's, outside of 0.50 to 2 "
            "(release.max_length_ratio)",
        ),
        (
            {"judged": 19, "prompts": 19},
            "19 test prompts are too few to judge by, at least 20 are needed",
        ),
        (
            {"judged": 19},
            "19 test prompts are too few to judge by (the judge's word on 181 more was "
            "unreadable), at least 20 are needed",
        ),
    ],
)
def test_what_fails_the_gate_is_held_back_with_its_number(
    make_figures: Callable[..., Figures], changed: dict[str, Any], reason: str
) -> None:
    assert verdict(make_figures(**changed)) == Verdict(False, reason)


def test_a_judge_that_ppo_was_paid_by_releases_nothing(
    make_figures: Callable[..., Figures],
) -> None:
    held = decide(
        make_figures(),
        ReleaseSettings(),
        assistant="mia",
        judge="transformers:./reward",
        judge_in_reward=True,
        unpromoted_overrides=[],
    )
    assert held == Verdict(
        False,
        "the judge transformers:./reward is the reward model or judge that PPO was paid by; set "
        "evaluation.judge to another, or a person approves it: "
        "python -m chatllama_pipeline approve mia",
    )


def test_all_reasons_are_told_at_once(make_figures: Callable[..., Figures]) -> None:
    held = verdict(
        make_figures(win_rate=0.4, win_rate_low=0.33, kl=12.0),
        overrides=["seed", "data.label_noise"],
    )
    assert held == Verdict(
        False,
        "win rate 0.400, its lower bound 0.330 is not above 0.5 (release.min_win_rate); "
        "KL 12.00 nats per reply is above 10 (release.max_kl); the run overrides seed, "
        "data.label_noise and is released only with promote: true in run_options",
    )


def test_a_reward_that_rose_releases_nothing_where_nobody_judged(
    make_figures: Callable[..., Figures],
) -> None:
    held = verdict(make_figures(win_rate=None, win_rate_low=None, win_rate_high=None), judge=None)
    assert not held.released
    assert held.reason == (
        "no judge that is no part of PPO's reward compared the replies (evaluation.judge), so the "
        "model is released only when a person approves it: "
        "python -m chatllama_pipeline approve mia"
    )


def test_without_a_judge_too_far_a_drift_is_told_beside(
    make_figures: Callable[..., Figures],
) -> None:
    assert "KL 30.00 nats per reply is above 10" in verdict(make_figures(kl=30.0), None).reason


def test_sft_is_never_released_silently(make_figures: Callable[..., Figures]) -> None:
    assert verdict(make_figures(), stage="actor_sft") == Verdict(
        False,
        "release.stage is actor_sft, and an SFT model is released only when a person approves it: "
        "python -m chatllama_pipeline approve mia",
    )


def test_the_checks_are_those_that_are_announced_and_none_blocks(
    make_figures: Callable[..., Figures],
) -> None:
    figures = make_figures()
    found = checks(figures, verdict(figures), ReleaseSettings(), CheckSettings())
    # The judge's own, `judge_readable`, is made where it judges.
    assert [(check.name, check.blocking) for check in found] == CHECK_NAMES["evaluation"][:-1]
    assert [check.passed for check in found] == [True] * 6
    assert [check.value for check in found] == [0.86, 0.88, 2.25, 1.25, 0.0, 0.0]
    assert [check.limit for check in found] == [0.5, 0.6, 10.0, 2.0, 0.1, 0.4]


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"reward_model_accuracy": 0.59}, "reward_accuracy"),
        ({"reward_model_accuracy": None, "reward_model_pairs": 0}, "reward_accuracy"),
        ({"kl": 10.01}, "kl_per_reply"),
        ({"actor_ppo": ActorFigures(0.85, 1.9, 48.1, 1.0, 0.65, 0.2)}, "reply_length"),
        ({"actor_ppo": ActorFigures(0.85, 1.9, 11.9, 1.0, 0.65, 0.2)}, "reply_length"),
    ],
)
def test_a_check_warns_where_a_person_should_look(
    make_figures: Callable[..., Figures], changed: dict[str, Any], failed: str
) -> None:
    figures = make_figures(**changed)
    found = checks(figures, Verdict(True, ""), ReleaseSettings(), CheckSettings())
    assert [check.name for check in found if not check.passed] == [failed]


@pytest.mark.parametrize("length", [48.0, 12.0])
def test_neither_check_nor_rule_minds_a_length_at_its_limit(
    make_figures: Callable[..., Figures], length: float
) -> None:
    figures = make_figures(actor_ppo=ActorFigures(0.85, 1.9, length, 1.0, 0.65, 0.2))
    found = checks(figures, Verdict(True, ""), ReleaseSettings(), CheckSettings())
    assert all(check.passed for check in found)
    assert verdict(figures).released


def test_gate_and_curves_and_approvals_load_no_torch() -> None:
    modules = ["evaluation.gate", "evaluation.curves", "evaluation.figures", "store.approvals"]
    program = ";".join(f"import chatllama_pipeline.{module}" for module in modules)
    program += ";import sys;print(sorted({'torch','transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
