"""Blind trials: what raters are shown, how their votes stand, and the figures made of them."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest

from chatllama_pipeline.data.feedback.ratings import Better
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.evaluation.trials.results import (
    agreement_with,
    preferred,
    result_lines,
    results_of,
)
from chatllama_pipeline.evaluation.trials.terminal import rate_in_terminal
from chatllama_pipeline.evaluation.trials.votes import (
    Winner,
    rater_of,
    shown,
    vote,
    votes_in,
    waiting_pairs,
)
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Pair, Side, Trial, find_trial, keep_trial, trials_of

SETTINGS = AssistantSettings()
ANN, BEN = "rater-ann-00000000001", "rater-ben-00000000001"


def trial_of(pairs: int, equal: int = 0) -> Trial:
    """So many pairs, the last `equal` of them with equal replies."""
    found = [
        Pair(user_prompt(f"ask {n}"), f"old {n}", f"new {n}" if n < pairs - equal else f"old {n} ")
        for n in range(pairs)
    ]
    first, second = Side("release", "aaaa"), Side("actor_ppo", "bbbb")
    return Trial("0" * 32, "2026-01-01T00:00:00+00:00", first, second, found)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path, "mia")


def say(trial: Trial, log: FeedbackLog, rater: str, number: int, winner: Winner) -> Better:
    """A vote for a version, on whichever side its reply stands; returns what was said."""
    sides: dict[str, Better] = {shown(trial, rater, number).left: "left"}
    sides[shown(trial, rater, number).right] = "right"
    pair = trial.pairs[number]
    texts = {"first": pair.first, "second": pair.second}
    better: Better = "tie" if winner == "tie" else "neither"
    if winner in ("first", "second"):
        better = sides[texts[winner]]
    vote(trial, log, rater, number, better)
    return better


def test_sides_are_at_random_and_stay_for_a_rater_whichever_version_is_named_first() -> None:
    trial = trial_of(200)
    seen = [shown(trial, ANN, number) for number in range(200)]
    assert seen == [shown(trial, ANN, number) for number in range(200)]
    assert seen == [shown(trial.turned(), ANN, number) for number in range(200)]
    lefts = Counter(one.left.split()[0] for one in seen)
    assert 70 < lefts["old"] < 130
    others = [shown(trial, BEN, number).left for number in range(200)]
    assert 70 < sum(one.left == other for one, other in zip(seen, others, strict=True)) < 130
    assert all({one.left, one.right} == {f"old {n}", f"new {n}"} for n, one in enumerate(seen))


def test_a_vote_stands_in_the_log_with_versions_sides_and_the_trial_s_id(log: FeedbackLog) -> None:
    trial = trial_of(3)
    better = say(trial, log, ANN, 1, "second")
    [entry] = log.entries()
    said = json.loads(entry.content)
    assert (said["trial"], said["kind"], said["better"]) == (trial.id, "preference", better)
    assert said[better] == {"text": "new 1", "version": "bbbb", "sampling": {}}
    assert said["prompt"] == [{"role": "user", "content": "ask 1"}]
    assert entry.visit == ANN
    [found] = votes_in(trial, log)
    assert (found.rater, found.pair, found.winner) == (ANN, 1, "second")
    [turned] = votes_in(trial.turned(), log)
    assert turned.winner == "first"


def test_a_vote_that_is_sent_again_stands_once_and_another_is_refused(log: FeedbackLog) -> None:
    trial = trial_of(3, equal=1)
    assert vote(trial, log, ANN, 0, "tie")
    assert not vote(trial, log, ANN, 0, "tie")
    with pytest.raises(DataError, match="never changed"):
        vote(trial, log, ANN, 0, "left")
    for number in (2, 3, -1):
        with pytest.raises(DataError, match="asks nobody about a pair"):
            vote(trial, log, ANN, number, "left")
    assert len(log.entries()) == 1


def test_who_comes_next_is_shown_what_has_the_fewest_votes_first(log: FeedbackLog) -> None:
    trial = trial_of(6, equal=1)
    first = waiting_pairs(trial, log, ANN)
    assert {one.number for one in first} == {0, 1, 2, 3, 4}
    for one in first[:3]:
        vote(trial, log, ANN, one.number, "tie")
    assert [one.number for one in waiting_pairs(trial, log, ANN)] == [
        one.number for one in first[3:]
    ]
    theirs = [one.number for one in waiting_pairs(trial, log, BEN)]
    assert set(theirs[:2]) == {one.number for one in first[3:]} and len(theirs) == 5


def test_votes_of_other_trials_and_on_other_texts_are_none_of_it(log: FeedbackLog) -> None:
    trial = trial_of(3)
    say(trial, log, ANN, 0, "first")
    other = Trial("1" * 32, trial.begun, trial.first, trial.second, trial.pairs)
    assert votes_in(other, log) == []
    changed = [Pair(pair.prompt, pair.first, "else") for pair in trial.pairs]
    assert votes_in(Trial(trial.id, "", trial.first, trial.second, changed), log) == []


def test_the_win_rate_counts_each_prompt_once_and_ties_half(log: FeedbackLog) -> None:
    trial = trial_of(6, equal=2)
    for rater in (ANN, BEN, "rater-cam-00000000001"):
        say(trial, log, rater, 0, "second")
    say(trial, log, ANN, 1, "second")
    say(trial, log, BEN, 1, "first")
    say(trial, log, ANN, 2, "neither")
    found = results_of(trial, votes_in(trial, log), SETTINGS)
    # 1 of the three that agree, .5 of the two that don't, of neither, and of two equal replies.
    assert found.win_rate == pytest.approx(3 / 5)
    assert found.low is not None and found.high is not None and found.low < 0.6 < found.high
    assert found.counts == {"first": 1, "second": 4, "tie": 0, "neither": 1}
    assert (found.raters, found.votes, found.open, found.voted) == (3, 6, 4, 3)
    assert not found.finished and found.shared == 2
    say(trial, log, ANN, 3, "tie")
    assert results_of(trial, votes_in(trial, log), SETTINGS).finished
    turned = results_of(trial.turned(), votes_in(trial.turned(), log), SETTINGS)
    assert turned.win_rate == pytest.approx(1 - 3.5 / 6, abs=1e-6)


def test_without_votes_nothing_is_measured_whatever_replies_are_equal(log: FeedbackLog) -> None:
    found = results_of(trial_of(4, equal=3), [], SETTINGS)
    assert (found.win_rate, found.alpha, found.finished) == (None, None, False)
    assert "nobody voted" in found.told_rate()


def test_results_tell_votes_rates_agreement_and_sides(log: FeedbackLog) -> None:
    trial = trial_of(12, equal=1)
    for number in range(11):
        for rater in (ANN, BEN):
            odd = rater == BEN and number == 0
            say(trial, log, rater, number, "first" if odd or number > 7 else "second")
    votes = votes_in(trial, log)
    lines = "\n".join(result_lines(results_of(trial, votes, SETTINGS)))
    assert "22 votes by 2 raters: 15 for actor_ppo bbbb, 7 for release aaaa, 0 ties" in lines
    assert "0 of 11 pairs have no vote yet" in lines
    assert "both replied the same to 1" in lines
    # (7.5 + .5) / 12
    assert "win rate 0.667 of actor_ppo bbbb over release aaaa (95 % interval 0." in lines
    # By hand: one pair of eleven differs, 2 of 22 values; 15 and 7 of them: 1 - 2 * 21 / 210.
    assert "Krippendorff's alpha 0.80 on 11 prompts with two votes or more" in lines
    assert "the left reply won" in lines and "of 22 comparisons" in lines


def test_that_a_side_decides_is_told(log: FeedbackLog) -> None:
    trial = trial_of(20)
    for number in range(20):
        vote(trial, log, ANN, number, "left")
    lines = list(result_lines(results_of(trial, votes_in(trial, log), SETTINGS)))
    assert "the left reply won 100.0% of 20 comparisons" in lines[-2]
    assert "the side decides" in lines[-1]


def test_the_judge_is_measured_where_people_prefer_one_version(log: FeedbackLog) -> None:
    trial = trial_of(4)
    for number, winner in enumerate(("second", "second", "first", "tie")):
        say(trial, log, ANN, number, winner)  # type: ignore[arg-type]
    people = preferred(votes_in(trial, log))
    assert people == {0: True, 1: True, 2: False}
    found = agreement_with("rules", people, {0: 1.0, 1: 0.5, 2: 1.0, 3: 1.0}, SETTINGS)
    assert found is not None and (found.share, found.prompts) == (0.5, 3)
    assert agreement_with("rules", people, {0: None, 3: 1.0}, SETTINGS) is None


def test_in_the_terminal_a_rater_votes_skips_and_goes_on_later(log: FeedbackLog) -> None:
    trial = trial_of(4)
    own = rater_of(trial, "ann")
    order = [one.number for one in waiting_pairs(trial, log, own)]
    sink = io.StringIO()
    typed = io.StringIO("what?\nskip\nl\nNeither\nquit\n")
    assert rate_in_terminal(trial, log, own, typed, sink) == 2
    assert [(one.pair, one.better) for one in votes_in(trial, log)] == [
        (order[1], "left"),
        (order[2], "neither"),
    ]
    told = sink.getvalue()
    assert "[user] ask " in told and "aaaa" not in told and "bbbb" not in told
    assert rate_in_terminal(trial, log, own, io.StringIO("t\nr\n"), io.StringIO()) == 0
    assert len(votes_in(trial, log)) == 4
    assert rate_in_terminal(trial, log, own, io.StringIO(""), io.StringIO()) == 0


def test_replies_steer_no_terminal(log: FeedbackLog) -> None:
    side = Side("release", "aaaa")
    evil = [Pair(user_prompt("ask\n\x1b]0;x\x07"), "\x1b[2Jold", "new\r\u202e")]
    sink = io.StringIO()
    trial = Trial("0" * 32, "", side, Side("release", "bbbb"), evil)
    rate_in_terminal(trial, log, ANN, io.StringIO(""), sink)
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(sink.getvalue())
    assert "\\x1b[2Jold" in sink.getvalue()


def test_a_trial_is_kept_and_found_from_either_side(tmp_path: Path) -> None:
    trial = trial_of(2)
    keep_trial(tmp_path, "mia", trial)
    assert trials_of(tmp_path, "mia") == [trial]
    assert find_trial([trial], "aaaa", "bbbb") == trial
    turned = find_trial([trial], "bbbb", "aaaa")
    assert turned is not None and turned.pairs[0].second == "old 0"
    assert find_trial([trial], "aaaa", "cccc") is None
    [file] = (tmp_path / "_trials" / "mia").iterdir()
    assert file.name == f"{trial.id}.json"
    assert (file.parent.stat().st_mode & 0o777) == 0o700
