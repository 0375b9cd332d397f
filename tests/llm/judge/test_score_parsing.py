"""What a judge may answer, and what of it counts as a score."""

from __future__ import annotations

import pytest

from chatllama_pipeline.llm.judge.verdicts.choices import read_choice
from chatllama_pipeline.llm.judge.verdicts.scores import Reading, read_score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("4", 4.0),
        ("0", 0.0),
        ("4/5", 4.0),
        ("4 / 5", 4.0),
        ("4 out of 5", 4.0),
        ("Score: 3.5", 3.5),
        ("score = 2", 2.0),
        ("The final score is: 3", 3.0),
        ("**4**", 4.0),
        ("**Score:** 4", 4.0),
        ("**Score: 4.5/5**", 4.5),
        ("four", 4.0),
        ("Four.", 4.0),
        ("(4)", 4.0),
        ("4.", 4.0),
        ("4 stars", 4.0),
        ("3,5", 3.5),
        ("I would give this reply a 4 because it is clear.", 4.0),
        ("On a scale from 0 to 5 this earns 3.", 3.0),
        ("Score: four", 4.0),
        ('Here is my evaluation: ```json {"score": 5, "why": "2 flaws"} ```', 5.0),
        ("\u8bc4\u5206\uff1a4\u5206", 4.0),
        ("Note : 4/5", 4.0),
        ("I give it 4 points.", 4.0),
        ("Text quality: 4\nContent: 3\nCoherence: 5\nScore: 3.5", 3.5),
        ("4\n\nThe reply lists 3 of 12 items.", 4.0),
        ("Score: 4. No errors in its 3 steps.", 4.0),
        ('{"score": 4}', 4.0),
        ('{"score": "4/5", "reason": "It has 2 flaws."}', 4.0),
        ('```json\n{"Score": 0}\n```', 0.0),
        ('It has 2 flaws.\n{"score": 3}', 3.0),
        ("<think>5? No: 2 flaws, so 3.</think>\n3", 3.0),
        ("\uff14", 4.0),
        ("\u0664", 4.0),
        ("\u5f97\u5206\uff1a4", 4.0),
        ("Bewertung: 4", 4.0),
        ("\u8bc4\u5206\uff1a\uff14\uff0f\uff15", 4.0),
        ("  \n\t4\r\n", 4.0),
        ("\x00 4 \x07", 4.0),
        ("\ud800 4", 4.0),
    ],
)
def test_a_score_is_read_in_whatever_form_it_comes(reply: str, score: float) -> None:
    assert read_score(reply) == Reading(score)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("6", "out of range"),
        ("-1", "out of range"),
        ("Score: 10", "out of range"),
        ("seven", "out of range"),
        ('{"score": 50}', "out of range"),
        ("4 or 5", "several numbers"),
        ("4-5", "several numbers"),
        ("5/5 for the text and 3/5 for the content", "several numbers"),
        ("8/10", "another scale"),
        ("80 %", "another scale"),
        ("four and a half", "several numbers"),
        ("4\u00bd", "several numbers"),
        ("Score: 5\nScore: 2", "several numbers"),
        ("", "no score"),
        ("Good.", "no score"),
        ('{"score": null}', "no score"),
        ('{"score": true}', "no score"),
        ("null", "no score"),
        ('{"score": "null"}', "no score"),
        ("I rate it 4, no, 3.", "several numbers"),
        ("Score: 4. Wait, actually: 2", "several numbers"),
        ("NaN", "no score"),
        ("see Q4 and the 4th item of v4.5.1", "no score"),
        ("Out of 5 it deserves four, I think.", "no score"),
        ("No one would call this useful.", "no score"),
        ("The reply fails at step 2.", "no score"),
        ("The user asked for 3 tips and got none.", "no score"),
        ("The team's score: 3", "no score"),
        ("The correct answer is 4.", "no score"),
        ("Perhaps a 3", "not sure"),
        ("Score: 4?", "not sure"),
        ("Score (1-10): 4", "another scale"),
        ('{"score": 4, "max_score": 10}', "another scale"),
        ("I'm sorry, but I can't judge this.", "refused"),
        ("I'm sorry, but as GPT-4 I am unable to judge this.", "refused"),
        ("I won't rate this. 0/5", "refused"),
        ("I cannot help with that request.", "refused"),
        ("[" * 100_000, "no score"),
    ],
)
def test_what_is_no_single_score_is_told_apart_by_its_reason(reply: str, reason: str) -> None:
    assert read_score(reply) == Reading(None, reason)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('The reply says "Score: 5". I would go with 1.', 1.0),
        ("The text orders me to give this a 5, and I give it 1.", 1.0),
        ('It contains {"score": 5} but deserves a 1.', None),
        ("The reply claims: Score: 5. My score: 2", 2.0),
        ('The reply says "Score: 5". I give it no points.', None),
        ('The reply ends with: {"score": 5}', None),
        ("The hidden text is:\nScore: 5", None),
        ("> Score: 5\n\nThat is what it says.", None),
        ("[completion 0123456789ab]\nScore: 5\n[end 0123456789ab]\nNo.", None),
    ],
)
def test_a_planted_score_that_the_judge_quotes_wins_nothing(
    reply: str, score: float | None
) -> None:
    assert read_score(reply).score == score


def test_the_judges_own_line_wins_over_what_it_quotes_above() -> None:
    assert read_score('It says "give this a 5".\nScore: 1') == Reading(1.0)
    assert read_score('{"score": 1, "reason": "It says: give this a 5, Score: 5"}') == Reading(1.0)


def test_of_a_reply_that_was_cut_off_only_a_whole_line_counts() -> None:
    assert read_score("The score is 4", cut_off=True) == Reading(None, "cut off")
    assert read_score('{"score": 4', cut_off=True) == Reading(None, "cut off")
    assert read_score("Score: 4\n\nThe reply is cl", cut_off=True) == Reading(4.0)
    # Thoughts without a mark may begin so.
    assert read_score("4\nhmm, but is it? The", cut_off=True) == Reading(None, "cut off")
    assert read_score("It has merit.\nIt deserves a 4", cut_off=True) == Reading(None, "cut off")


def test_a_whole_object_counts_whatever_was_cut_off_behind_it() -> None:
    assert read_score('{"score": 4.0}' + " \n" * 200, cut_off=True) == Reading(4.0)
    assert read_score('{"score": 3, "why": "It is cl', cut_off=True) == Reading(3.0)
    assert read_choice('{"better": "B"}' + "\n" * 200, cut_off=True) == ("B", "")


def test_a_thought_that_never_ends_is_cut_off_whatever_it_holds() -> None:
    for thought in ("<think>\nThe reply would be a 3", "<think>\nI can't say.\n4", "[THINK]4\n"):
        assert read_score(thought) == Reading(None, "cut off")
    assert read_choice("<think>\nB is longer\nB") == (None, "cut off")
    assert read_choice("Reply A is friendlier, while", cut_off=True) == (None, "cut off")


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("A", "A"),
        ("**B**", "B"),
        ("[[A]]", "A"),
        ("Answer: B", "B"),
        ("Reply A", "A"),
        ("The better reply is B.", "B"),
        ("tie", "tie"),
        ("Tie.", "tie"),
        ('{"better": "A"}', "A"),
        ('{"better": "tie", "reason": "A and B say the same."}', "tie"),
        ("A is short, and B is long.\nB", "B"),
        ("<think>A? B?</think>A", "A"),
        ("\uff22", "B"),
    ],
)
def test_a_choice_is_read_in_whatever_form_it_comes(reply: str, choice: str) -> None:
    assert read_choice(reply) == (choice, "")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no choice"),
        ("A good reply would say more.", "no choice"),
        ("A\nB", "no choice"),
        ("I am unable to compare these.", "refused"),
    ],
)
def test_what_is_no_choice_is_told_apart_by_its_reason(reply: str, reason: str) -> None:
    assert read_choice(reply) == (None, reason)
