"""A candidate against the release in use on what people rated, and what they said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.data.grammar.rows import fresh_questions
from chatllama_pipeline.evaluation.compare import run
from chatllama_pipeline.evaluation.figures import (
    Agreement,
    Evaluation,
    Figures,
    OverRelease,
    Verdict,
)
from chatllama_pipeline.evaluation.gate import decide
from chatllama_pipeline.evaluation.people import judge_beside_people
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings, ReleaseSettings
from chatllama_pipeline.settings.llm.rubric import Criterion
from tests.data.rated import choice, edit, made, thumb

RATED = OverRelease("aa11", 40, 40, 0.55, 0.45, 0.65, 0.6)
LOST = dataclasses.replace(RATED, win_rate=0.3, win_rate_low=0.2, win_rate_high=0.4)
EVIL = "<script>alert(1)</script>"
ASKED = [question.text for question in islice(fresh_questions(), 12)]


def verdict(figures: Figures, **changed: Any) -> Verdict:
    release = ReleaseSettings(**changed)
    return decide(figures, release, assistant="mia", judge="rules", unpromoted_overrides=[])


def test_a_candidate_that_loses_on_what_people_rated_is_held_back(
    make_figures: Callable[..., Figures],
) -> None:
    found = verdict(make_figures(on_feedback=LOST))
    assert found == Verdict(
        False,
        "it loses to the release in use: win rate 0.300 over release aa11 (95 % interval 0.200 to "
        "0.400) on 40 held-out prompts that people rated",
    )


def test_what_may_be_luck_on_what_people_rated_holds_nobody_back(
    make_figures: Callable[..., Figures],
) -> None:
    wide = dataclasses.replace(RATED, win_rate=0.45, win_rate_low=0.3, win_rate_high=0.6)
    assert verdict(make_figures(on_feedback=wide)).released


def test_a_few_rated_prompts_hold_nobody_back(make_figures: Callable[..., Figures]) -> None:
    assert verdict(make_figures(on_feedback=dataclasses.replace(LOST, judged=19))).released
    unread = OverRelease("aa11", 40, 0, None, None, None, None)
    assert verdict(make_figures(on_feedback=unread)).released


@pytest.mark.parametrize(
    ("people", "released"),
    [
        (Agreement(40, 0.2, 0.1, 0.33), False),
        (Agreement(40, 0.4, 0.25, 0.55), True),  # which chance may be, too
        (Agreement(19, 0.0, 0.0, 0.0), True),  # too few to say so
        (Agreement(40, 0.9, 0.8, 0.98), True),
        (Agreement(0, None, None, None), True),
    ],
)
def test_where_the_judge_says_the_opposite_of_people_a_person_is_asked(
    make_figures: Callable[..., Figures], people: Agreement, released: bool
) -> None:
    found = verdict(make_figures(with_people=people))
    assert found.released is released
    if not released:
        assert found.reason == (
            "the judge rules and people contradict each other: it says the same as 0.200 of 40 "
            "votes for one reply over another (95 % interval 0.100 to 0.330); see who rated what "
            "(chatllama feedback list) and delete what isn't meant so, or a person approves it: "
            "python -m chatllama_pipeline approve mia"
        )


@pytest.mark.parametrize("turned", [False, True])
def test_the_judge_is_held_beside_comparisons_edits_and_thumbs(
    make_spec: Callable[..., StageSpec], tmp_path: Path, turned: bool
) -> None:
    ratings = [choice("one", "yes", "not at all", "right" if turned else "left")]
    ratings += [thumb("two", "yes", not turned), thumb("three", "no, not that", turned)]
    ratings += [edit("four", *(("yes", "not so short") if turned else ("not so short", "yes")))]
    # A tie says nothing, nor does a thumb that stands alone.
    ratings += [choice("five", "yes", "no", "tie"), thumb("six", "yes", not turned)]
    made(tmp_path / "feedback", ratings)
    spec = make_spec("evaluation", {}, {"feedback": tmp_path / "feedback"})
    judge = RubricJudge([Criterion(name="short", words=(0, 1))])
    progress = Progress("evaluation", lambda line: None)
    found, judged = judge_beside_people(spec, AssistantSettings(), judge, progress)
    share = 0.0 if turned else 1.0
    assert (found, judged) == (Agreement(3, share, share, share), [])
    assert judge_beside_people(spec, AssistantSettings(), None, progress) == (None, [])


def test_one_that_is_as_good_there_is_released_and_told(
    make_figures: Callable[..., Figures],
) -> None:
    found = verdict(make_figures(on_feedback=RATED))
    assert found.released
    assert found.reason.endswith("on 40 held-out prompts that people rated")


@pytest.fixture
def evaluate(
    make_spec: Callable[..., StageSpec], evaluation_inputs: dict[str, Path], tmp_path: Path
) -> Callable[..., tuple[Outcome, Path]]:
    """Runs the stage on the tiny inputs, beside a release, with what people said of it."""

    def call(
        take: str, ratings: list[dict[str, Any]] | None, release: Path | None
    ) -> tuple[Outcome, Path]:
        inputs = {**evaluation_inputs, **({"release": release} if release else {})}
        if ratings is not None:
            # Half of what is asked is held out.
            made(tmp_path / f"feedback_{take}", ratings, feedback={"test_share": 0.4999})
            inputs["feedback"] = tmp_path / f"feedback_{take}"
        actor = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
        spec = make_spec(
            "evaluation", {"llm": {"provider": "rules"}, "actor_config": actor}, inputs, take
        )
        return run(spec, Progress("evaluation", lambda line: None)), Path(spec.output)

    return call


def test_release_and_candidate_answer_what_people_rated(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    ratings = [thumb(text, EVIL, True, version="actor_ppo") for text in ASKED]
    ratings += [thumb(text, "no", False, version="actor_ppo") for text in ASKED]
    ratings += [choice(ASKED[0], "one", "other", "left"), edit(ASKED[1], "one", EVIL)]
    ratings += [thumb(ASKED[2], "far", True, version="gone-long-ago")]
    # The candidate itself as the release: the same seed gives the same replies, all are ties.
    outcome, folder = evaluate("same", ratings, evaluation_inputs["actor_ppo"])
    found = Evaluation.read(folder).figures.on_feedback
    assert found is not None and 0 < found.judged < len(ASKED)
    assert (found.version, found.win_rate, found.win_rate_low) == ("actor_ppo", 0.5, 0.5)
    assert outcome.metrics["on_feedback.win_rate"] == 0.5
    page = (folder / "report.html").read_text()
    assert "there no difference shows" in page
    assert "<dt>Thumbs up, and down</dt><dd>12, 12</dd>" in page
    assert "<script" not in page
    # Every prompt has a thumb up and one down, and two have a pair beside.
    people = Evaluation.read(folder).figures.with_people
    assert people is not None and people.votes == 2 * len(ASKED) + 2
    assert f"The judge says what people say, of {people.votes} votes" in page


def test_without_feedback_or_a_release_not_a_word_is_said_of_it(
    evaluate: Callable[..., tuple[Outcome, Path]], evaluation_inputs: dict[str, Path]
) -> None:
    _, plain = evaluate("plain", None, evaluation_inputs["actor_ppo"])
    assert Evaluation.read(plain).figures.on_feedback is None
    assert "on_feedback" not in (plain / "evaluation.json").read_text()
    assert "people" not in (plain / "report.html").read_text()
    ratings = [thumb(ASKED[0], "yes", True)]
    _, first = evaluate("first", ratings, None)
    assert Evaluation.read(first).figures.on_feedback is None
    assert "people" not in (first / "report.html").read_text()
