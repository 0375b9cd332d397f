"""A candidate against the release in use: measured on the same prompts, and a rule of the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.evaluation.compare import run
from chatllama_pipeline.evaluation.figures import Evaluation, Figures, OverRelease, Verdict
from chatllama_pipeline.evaluation.gate import checks, decide
from chatllama_pipeline.evaluation.incumbent import compare_with_release
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec, user_prompt
from chatllama_pipeline.settings import AssistantSettings, CheckSettings, ReleaseSettings
from chatllama_pipeline.settings.llm.rubric import Criterion

OVER = OverRelease("aa11", 200, 200, 0.55, 0.48, 0.62, 0.6)


def verdict(figures: Figures, **changed: Any) -> Verdict:
    release = ReleaseSettings(**changed)
    return decide(figures, release, assistant="mia", judge="rules", unpromoted_overrides=[])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"win_rate": 0.45, "win_rate_low": 0.42, "win_rate_high": 0.48},
            "it loses to the release in use: win rate 0.450 over release aa11 (95 % interval 0.420 "
            "to 0.480) on 200 test prompts",
        ),
        (
            {"win_rate": 0.47, "win_rate_low": 0.4, "win_rate_high": 0.54},
            "it may be much worse than the release in use: win rate 0.470 over release aa11 (95 % "
            "interval 0.400 to 0.540) on 200 test prompts, and the lower bound is not above 0.4 "
            "(release.min_win_rate_over_release)",
        ),
        (
            {"judged": 19},
            "19 test prompts are too few to compare with the release in use (aa11), at least 20 "
            "are needed",
        ),
    ],
)
def test_a_candidate_that_loses_to_the_release_or_may_be_much_worse_is_held_back(
    make_figures: Callable[..., Figures], changed: dict[str, Any], reason: str
) -> None:
    over = dataclasses.replace(OVER, **changed)
    figures = make_figures(over_release=over)
    assert verdict(figures) == Verdict(False, reason)
    [check] = [
        c
        for c in checks(figures, verdict(figures), ReleaseSettings(), CheckSettings())
        if c.name == "over_release"
    ]
    assert not check.passed and check.description == reason


def test_one_that_is_as_good_is_released_and_its_win_rate_told(
    make_figures: Callable[..., Figures],
) -> None:
    found = verdict(make_figures(over_release=OVER))
    assert found.released
    assert found.reason.endswith(
        "; win rate 0.550 over release aa11 (95 % interval 0.480 to 0.620) on 200 test prompts"
    )
    # A narrower margin asks for more.
    assert not verdict(make_figures(over_release=OVER), min_win_rate_over_release=0.49).released


def test_the_release_is_held_against_the_sft_actor_where_that_is_the_candidate(
    make_figures: Callable[..., Figures],
) -> None:
    over = dataclasses.replace(OVER, win_rate=0.1, win_rate_low=0.05, win_rate_high=0.2)
    assert (
        "it loses to the release"
        in verdict(make_figures(over_release=over), stage="actor_sft").reason
    )


@pytest.fixture
def evaluate(
    make_spec: Callable[..., StageSpec], evaluation_inputs: dict[str, Path]
) -> Callable[..., tuple[Outcome, Path]]:
    """Runs the stage on the tiny inputs, beside a release."""

    def call(take: str, release: Path | None, **sections: Any) -> tuple[Outcome, Path]:
        inputs = {**evaluation_inputs, **({"release": release} if release else {})}
        actor = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
        settings = {"llm": {"provider": "rules"}, "actor_config": actor, **sections}
        spec = make_spec("evaluation", settings, inputs, take)
        return run(spec, Progress("evaluation", lambda line: None)), Path(spec.output)

    return call


def test_the_release_s_replies_meet_the_candidate_s_on_the_same_prompts(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    # The candidate itself as the release: the same seed gives the same replies, all are ties.
    outcome, folder = evaluate("same", evaluation_inputs["actor_ppo"])
    over = Evaluation.read(folder).figures.over_release
    assert over == OverRelease("actor_ppo", 2, 2, 0.5, 0.5, 0.5, over.rubric_score if over else 0)
    assert outcome.metrics["over_release.win_rate"] == 0.5
    assert "Win rate over the release in use" in (folder / "report.html").read_text()


def test_the_win_rate_is_the_candidate_s_over_the_prompts_that_the_release_has_room_for(
    make_spec: Callable[..., StageSpec], tmp_path: Path
) -> None:
    spec = make_spec("evaluation", {}, {"release": tmp_path / "aa11"})
    prompts = [user_prompt(str(n)) for n in range(4)]
    # The judge likes short replies: a loss, a tie, a win; the release had no room for prompt 1.
    released = {0: "short", 2: "short", 3: "not as short"}
    candidate = ["not as short", "whatever", "short", "short"]
    judge = RubricJudge([Criterion(name="short", words=(0, 1))])
    settings = AssistantSettings()
    progress = Progress("evaluation", lambda line: None)
    found = compare_with_release(spec, settings, judge, prompts, released, candidate, progress)
    assert found is not None
    over, judged = found
    assert judged.after_wins == [0.0, 0.5, 1.0]
    assert (over.version, over.prompts, over.judged, over.win_rate) == ("aa11", 3, 3, 0.5)
    assert over.rubric_score == pytest.approx(2 / 3, abs=1e-6)


def test_without_a_release_or_a_judge_nothing_is_compared(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    _, alone = evaluate("alone", None)
    assert Evaluation.read(alone).figures.over_release is None
    assert "release in use" not in (alone / "report.html").read_text()
    nobody = {"evaluation": {"judge": "none"}}
    _, unjudged = evaluate("unjudged", evaluation_inputs["actor_ppo"], **nobody)
    assert Evaluation.read(unjudged).figures.over_release is None
