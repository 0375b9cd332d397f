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
from chatllama_pipeline.evaluation.incumbent import Asked, Met, answer_beside_release, meet_release
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
            {"win_rate": 0.49, "win_rate_low": 0.46, "win_rate_high": 0.52},
            "it loses to the release in use: win rate 0.490 over release aa11 (95 % interval 0.460 "
            "to 0.520) on 200 test prompts",
        ),
        (
            {"win_rate": 0.51, "win_rate_low": 0.4, "win_rate_high": 0.62},
            "it may be much worse than the release in use: win rate 0.510 over release aa11 (95 % "
            "interval 0.400 to 0.620) on 200 test prompts, and the lower bound is not above 0.4 "
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
    score = over.rubric_score if over else None
    assert over == OverRelease("actor_ppo", 2, 2, 0.5, 0.5, 0.5, score, score, replies=4)
    assert outcome.metrics["over_release.win_rate"] == 0.5
    assert "Win rate over the release in use" in (folder / "report.html").read_text()


# What the judge of these tests likes, and what it doesn't.
GOOD, BAD = "short", "not as short"
JUDGE = RubricJudge([Criterion(name=GOOD, words=(0, 1))])


@pytest.fixture
def met(make_spec: Callable[..., StageSpec], tmp_path: Path) -> Callable[..., Met]:
    """Judges replies of a release and a candidate, to test prompts and to what people rated."""

    spec = make_spec("evaluation", {}, {"release": tmp_path / "aa11"})

    def call(tested: Asked, rated: Asked | None = None) -> Met:
        progress = Progress("evaluation", lambda line: None)
        return meet_release(spec, AssistantSettings(), JUDGE, tested, rated, progress)

    return call


def table(wins: int, losses: int, ties: int, named: str = "test") -> Asked:
    """Prompts of which the candidate wins so many, loses so many, and is as good on the rest."""
    replies = [(BAD, GOOD)] * wins + [(GOOD, BAD)] * losses + [(GOOD, GOOD)] * ties
    prompts = [user_prompt(f"{named} {n}") for n in range(len(replies))]
    released, candidate = ([[reply[side]] for reply in replies] for side in (0, 1))
    return Asked(prompts, released, candidate)


def test_a_prompt_counts_once_however_many_replies_it_got(met: Callable[..., Met]) -> None:
    prompts = [user_prompt(text) for text in ("wins once", "loses always", "wins always")]
    released = [[GOOD, BAD], [GOOD, GOOD], [BAD, BAD]]
    candidate = [[GOOD, GOOD], [BAD, BAD], [GOOD, GOOD]]
    over = met(Asked(prompts, released, candidate)).over
    assert over is not None
    assert (over.version, over.prompts, over.judged, over.replies) == ("aa11", 3, 3, 2)
    assert over.win_rate == pytest.approx((0.75 + 0 + 1) / 3, abs=1e-6)
    assert over.rubric_score == pytest.approx((0.5 + 1 + 0) / 3, abs=1e-6)
    assert over.candidate_score == pytest.approx((1 + 0 + 1) / 3, abs=1e-6)


def test_what_people_rated_counts_among_the_test_prompts_and_once(met: Callable[..., Met]) -> None:
    tested, rated = table(2, 0, 1), table(0, 2, 0, "rated")
    found = met(tested, Asked(*(mine + own for mine, own in zip(tested, rated, strict=True))))
    assert found.over is not None and found.on_feedback is not None
    assert (found.over.judged, found.over.win_rate) == (5, 0.5)
    assert (found.on_feedback.judged, found.on_feedback.win_rate) == (5, 0.5)
    assert (met(tested, rated).on_feedback or OVER).win_rate == 0.0


@pytest.mark.parametrize(
    ("tested", "rated", "released"),
    [
        # A hair better is released, and as good is, and a hair worse isn't, whatever is a tie.
        ((45, 44, 111), (0, 0, 39), True),
        ((44, 44, 112), (0, 0, 39), True),
        ((44, 45, 111), (0, 0, 39), False),
        ((90, 100, 10), (0, 0, 39), False),
        # Luck on few rated prompts neither saves a candidate nor holds it back.
        ((40, 60, 100), (15, 8, 16), False),
        ((60, 40, 100), (8, 12, 19), True),
        # But for one that loses there for certain.
        ((80, 20, 100), (5, 20, 14), False),
        # Of few prompts a small loss can't be told from a large one.
        ((11, 10, 0), (0, 0, 0), False),
        ((15, 5, 1), (0, 0, 0), True),
    ],
)
def test_a_candidate_is_released_by_the_judge_s_word_on_release_and_candidate(
    met: Callable[..., Met],
    make_figures: Callable[..., Figures],
    tested: tuple[int, int, int],
    rated: tuple[int, int, int],
    released: bool,
) -> None:
    found = met(table(*tested), table(*rated, "rated"))
    figures = make_figures(over_release=found.over, on_feedback=found.on_feedback)
    assert verdict(figures).released is released


def test_they_meet_on_the_prompts_that_the_release_has_room_for(
    make_spec: Callable[..., StageSpec], evaluation_inputs: dict[str, Path]
) -> None:
    inputs = {**evaluation_inputs, "release": evaluation_inputs["actor_ppo"]}
    actor = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
    spec = make_spec("evaluation", {"actor_config": actor}, inputs)
    settings = AssistantSettings.of_stage(spec)
    prompts = [user_prompt("alpha " * 200), user_prompt("alpha"), user_prompt("bravo")]
    known = ["never met", "first", "second"]
    progress = Progress("evaluation", lambda line: None)
    asked = answer_beside_release(spec, settings, JUDGE, prompts, progress, known)
    assert asked is not None and asked.prompts == prompts[1:]
    # The first replies of the candidate are those that are known, the others as the release's.
    assert [texts[0] for texts in asked.candidate] == known[1:]
    assert [texts[1:] for texts in asked.candidate] == [texts[1:] for texts in asked.released]
    assert len(asked.released[0]) == 4 and len(set(asked.released[0])) > 1


def test_without_a_release_or_a_judge_nothing_is_compared(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    _, alone = evaluate("alone", None)
    assert Evaluation.read(alone).figures.over_release is None
    assert "release in use" not in (alone / "report.html").read_text()
    nobody = {"evaluation": {"judge": "none"}}
    _, unjudged = evaluate("unjudged", evaluation_inputs["actor_ppo"], **nobody)
    assert Evaluation.read(unjudged).figures.over_release is None
