"""What becomes of ratings: which of them count, and the rows that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from chatllama_pipeline.data import CHECK_NAMES
from chatllama_pipeline.data.feedback.build import build_feedback
from chatllama_pipeline.data.feedback.figures import FeedbackFigures, Said
from chatllama_pipeline.data.feedback.rows import SCHEMAS, SOURCE, heeded
from chatllama_pipeline.data.feedback.words import FEW, most_of_a_visit
from chatllama_pipeline.data.splits import split_of
from chatllama_pipeline.data.tables import SplitRows, write_rows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.feedback import Entry
from tests.data.rated import choice, edit, made, thumb, turn

SAME = {"visit": "the-same-visit-all-along"}


def test_a_thumb_is_a_scored_reply_and_a_thumb(tmp_path: Path) -> None:
    tables, outcome = made(
        tmp_path / "a", [thumb("alpha", "yes", True), thumb("beta", "no", False)]
    )
    assert [(row["completion"], row["score"]) for row in tables["scored"]] == [
        ("yes", 5.0),
        ("no", 0.0),
    ]
    assert [(row["completion"], row["label"]) for row in tables["thumbs"]] == [
        ("yes", True),
        ("no", False),
    ]
    assert tables["thumbs"][0]["prompt"] == turn("alpha")
    assert [row["prompt"] for row in tables["data"]] == [turn("alpha"), turn("beta")]
    assert not tables["pairs"]
    assert outcome.rows == 2
    for file, schema in SCHEMAS.items():
        assert parquet.read_schema(tmp_path / "a" / file).equals(schema)


def test_a_comparison_is_a_pair_whichever_side_won_and_a_tie_is_none(tmp_path: Path) -> None:
    ratings = [
        choice("alpha", "good", "bad", "left"),
        choice("beta", "bad", "good", "right"),
        choice("gamma", "one", "other", "tie"),
        choice("delta", "worse", "bad", "neither"),
    ]
    tables, _ = made(tmp_path / "a", ratings)
    assert [(row["chosen"], row["rejected"]) for row in tables["pairs"]] == [("good", "bad")] * 2
    assert [(row["completion"], row["label"]) for row in tables["thumbs"]] == [
        ("worse", False),
        ("bad", False),
    ]
    assert len(tables["data"]) == 4


def test_an_edit_is_a_pair_and_a_reply_to_imitate(tmp_path: Path) -> None:
    tables, _ = made(tmp_path / "a", [edit("alpha", "bad", "good")])
    [pair], [reply] = tables["pairs"], tables["actor"]
    assert (pair["chosen"], pair["rejected"], reply["completion"]) == ("good", "bad", "good")


def test_what_people_liked_is_imitated_unless_they_liked_another_more(tmp_path: Path) -> None:
    ratings = [
        thumb("alpha", "praised", True),
        thumb("alpha", "blamed", False),
        choice("beta", "chosen", "rejected", "left"),
        thumb("beta", "rejected", True),
        edit("gamma", "edited away", "written"),
        thumb("gamma", "edited away", True),
        choice("delta", "one", "other", "tie"),
        choice("epsilon", "bad", "worse", "neither"),
        choice("zeta", "better of two", "the other", "left"),
        thumb("zeta", "better of two", False),
    ]
    tables, _ = made(tmp_path / "a", ratings)
    assert [row["completion"] for row in tables["actor"]] == ["praised", "chosen", "written"]


def test_what_came_of_ratings_is_read_often_while_it_is_few(tmp_path: Path) -> None:
    def often(rated: int, others: int, weight: int) -> set[int]:
        prompt, sources = turn("alpha"), [SOURCE] * rated + ["grammar"] * others
        rows = [{"prompt": prompt, "source": each, "split": "train"} for each in sources]
        # What is held out is no part of it.
        more = [{**row, "split": "test"} for row in rows[:1]]
        write_rows(rows + more, PROMPT_SCHEMA, tmp_path)
        found = [count for _, count in heeded(SplitRows(tmp_path, "train"), weight)]
        assert found[rated:] == [1] * others
        return set(found[:rated])

    assert often(10, 1000, 5) == {5}
    assert often(400, 1000, 5) == {2}
    assert often(2000, 1000, 5) == often(10, 0, 5) == {1}
    assert often(0, 10, 5) == set()


def test_thumbs_up_and_down_on_one_prompt_are_pairs(tmp_path: Path) -> None:
    ratings = [
        thumb("alpha", "good", True),
        thumb("alpha", "bad", False),
        thumb("alpha", "worse", False),
        # What was compared is known better than by thumbs.
        choice("beta", "first", "second", "right"),
        thumb("beta", "first", True),
        thumb("beta", "second", False),
    ]
    tables, _ = made(tmp_path / "a", ratings)
    assert [(row["chosen"], row["rejected"]) for row in tables["pairs"]] == [
        ("good", "bad"),
        ("second", "first"),
    ]


def test_of_a_visit_the_last_word_counts_and_one_said_twice_counts_once(tmp_path: Path) -> None:
    ratings = [
        thumb("alpha", "yes", True, **SAME),
        thumb("alpha", "yes", False, **SAME),
        thumb("beta", "yes", True, visit=""),
        thumb("beta", "yes", True, visit=""),
    ]
    tables, outcome = made(tmp_path / "a", ratings)
    assert [row["label"] for row in tables["thumbs"]] == [False, True]
    assert outcome.metrics["dropped"] == {"duplicate": 2}
    assert outcome.metrics["contradictions"] == 0


def test_contradictions_are_counted_and_the_greater_number_counts(tmp_path: Path) -> None:
    ratings = [
        *(thumb("alpha", "yes", good) for good in (True, True, False)),
        *(thumb("beta", "yes", good) for good in (True, False)),
        choice("gamma", "good", "bad", "left"),
        choice("gamma", "bad", "good", "right"),
        choice("gamma", "good", "bad", "right"),
        choice("delta", "one", "other", "left"),
        choice("delta", "one", "other", "tie"),
    ]
    tables, outcome = made(tmp_path / "a", ratings)
    assert [row["label"] for row in tables["thumbs"]] == [True]
    assert [(row["chosen"], row["rejected"]) for row in tables["pairs"]] == [("good", "bad")]
    assert outcome.metrics["contradictions"] == 4
    assert outcome.metrics["dropped"] == {"contradicted": 6, "duplicate": 2}
    funnel = json.loads((tmp_path / "a" / "funnel.json").read_text())["sources"]
    assert (funnel["thumb"]["read"], funnel["thumb"]["valid"], funnel["thumb"]["kept"]) == (5, 5, 1)


@pytest.mark.parametrize(
    ("counts", "share", "besides", "most"),
    [
        ([1000, *[10] * 30], 0.2, 0, 75),  # 75 of 375
        ([500], 0.2, 0, 500),  # nobody else is there
        ([300, 300], 0.2, 0, 300),  # an even share is nobody's fault
        ([1000, 30], 0.5, 0, 30),
        ([1000], 0.5, 100, 100),
        ([FEW, 1], 0.1, 0, FEW),
        ([], 0.5, 10, FEW),
    ],
)
def test_a_visit_gives_its_share_at_most(
    counts: list[int], share: float, besides: int, most: int
) -> None:
    assert most_of_a_visit(counts, share, besides) == most
    total = besides + sum(min(count, most) for count in counts)
    assert most <= FEW or most <= max(share, 1 / (len(counts) + bool(besides))) * total


def test_a_flood_of_one_visit_is_cut_to_its_newest(tmp_path: Path) -> None:
    flood = [thumb(f"flood {n}", "no", False, **SAME) for n in range(90)]
    others = [thumb(f"question {n}", "yes", True) for n in range(30)]
    tables, outcome = made(tmp_path / "a", flood + others, feedback={"max_share": 0.5})
    asked = [row["prompt"][0]["content"] for row in tables["data"]]
    assert (
        sum("flood" in text for text in asked) + outcome.metrics["dropped"].get("near_repeat", 0)
        == 30
    )
    assert outcome.metrics["dropped"]["over_share"] == 60
    assert "flood 0" not in asked


def test_rated_prompts_are_held_out_by_their_own_share_and_never_trained(tmp_path: Path) -> None:
    ratings = [thumb(f"question number {n}?", "yes", True) for n in range(300)]
    repeats = [thumb(f"Question, number {n}", "no", True) for n in range(300)]
    tables, outcome = made(tmp_path / "a", ratings + repeats, feedback={"test_share": 0.3})
    asked = {
        side: {row["prompt"][0]["content"].lower().replace(",", "").rstrip("?") for row in rows}
        for side in ("train", "test")
        if (rows := [row for row in tables["data"] if row["split"] == side])
    }
    assert 60 < len(asked["test"]) < 180
    assert not asked["test"] & asked["train"]
    assert outcome.metrics["held_out"] == sum(row["split"] == "test" for row in tables["data"])
    assert outcome.metrics["dropped"]["near_repeat"] > 0
    # What other tables hold out is held out here, too.
    data = AssistantSettings().data
    for row in tables["data"]:
        if split_of(row["prompt"], data) == "test":
            assert row["split"] == "test"


def test_personal_data_is_redacted_by_setting(tmp_path: Path) -> None:
    ratings = [edit("I am ann@example.org", "Hi ann@example.org", "Hello", reason=None)]
    ratings[0].pop("reason")
    ratings += [thumb("beta", "yes", True, reason="write to ann@example.org")]
    tables, outcome = made(tmp_path / "a", ratings, data={"redact": True})
    written = json.dumps(tables) + (tmp_path / "a" / "feedback.json").read_text()
    assert "ann@example.org" not in written and "<email>" in written
    assert outcome.metrics["redacted"]["email"] > 0
    _, plain = made(tmp_path / "b", ratings)
    assert plain.metrics["redacted"] == {}


def test_what_was_said_of_each_version_is_told_and_the_side_that_decides(tmp_path: Path) -> None:
    ratings: list[dict[str, Any]] = [
        choice(f"question {n}", f"one {n}", f"other {n}", "left" if n else "right")
        for n in range(20)
    ]
    ratings += [thumb("alpha", "yes", True, version="gone"), edit("beta", "no", "yes")]
    ratings += [thumb("gamma", "<script>x</script>", False, version="<i>", reason="<b>bad</b>")]
    _, outcome = made(tmp_path / "a", ratings)
    figures = FeedbackFigures.read(tmp_path / "a")
    assert figures.said == {
        "gone": Said(up=1),
        "v1": Said(won=19, lost=1, edited=1),
        "v2": Said(won=1, lost=19),
        "<i>": Said(down=1),
    }
    assert (figures.left, figures.right, figures.reasons) == (19, 1, ["<b>bad</b>"])
    [check] = outcome.checks
    assert [(check.name, check.blocking)] == CHECK_NAMES["feedback"]
    assert not check.passed and check.value == 0.95
    assert "the left reply won 95.0% of 20 comparisons" in check.description


def test_without_a_comparison_no_side_decides(tmp_path: Path) -> None:
    _, outcome = made(tmp_path / "a", [thumb("alpha", "yes", True)])
    assert outcome.checks[0].passed


@pytest.mark.parametrize(
    "rating",
    [
        thumb("alpha", "  \n", True),
        thumb("alpha", "nul \0", True),
        thumb("   ", "yes", True),
        choice("alpha", "yes", " ", "left"),
        edit("alpha", "no", "\t"),
        {**thumb("alpha", "yes", True), "prompt": turn("one") + turn("two")},
        {
            **thumb("alpha", "yes", True),
            "prompt": [*turn("one"), {"role": "system", "content": "s"}, *turn("two")],
        },
    ],
)
def test_what_no_training_could_read_is_dropped_and_counted(
    tmp_path: Path, rating: dict[str, Any]
) -> None:
    tables, outcome = made(tmp_path / "a", [rating, thumb("beta", "yes", True)])
    assert [row["prompt"] for row in tables["data"]] == [turn("beta")]
    assert outcome.metrics["dropped"] == {"unfit": 1}


def test_a_judge_that_knows_the_grammar_alone_is_not_shown_what_it_would_refuse(
    tmp_path: Path,
) -> None:
    ratings = [thumb("Can you help me cook noodles?", "yes", True), thumb("Hi!", "yes", True)]
    by_rules = {"llm": {"provider": "rules"}, "data": {"sources": ["grammar"]}}
    tables, outcome = made(tmp_path / "a", ratings, **by_rules)
    assert [row["prompt"] for row in tables["data"]] == [turn("Can you help me cook noodles?")]
    assert outcome.metrics["dropped"] == {"not_for_the_judge": 1}


def test_the_longest_text_that_the_log_takes_is_no_trouble(tmp_path: Path) -> None:
    tables, _ = made(tmp_path / "a", [thumb("word " * 40_000, "yes " * 50_000, True)])
    assert len(tables["thumbs"]) == 1


def test_an_entry_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    broken = Entry("rating-of-yesterday", "", "now", json.dumps({"kind": "star"}))
    with pytest.raises(DataError, match="feedback rating-of-yesterday: kind: must be"):
        build_feedback([broken], AssistantSettings(), tmp_path)


def test_no_rating_at_all_makes_empty_tables(tmp_path: Path) -> None:
    tables, outcome = made(tmp_path / "a", [])
    assert outcome.rows == 0 and not any(tables.values())
