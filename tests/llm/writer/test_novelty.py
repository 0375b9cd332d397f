"""Texts are held against each other alike in every script."""

from __future__ import annotations

import pytest

from chatllama_pipeline.llm.writer.novelty import Pool, diversity, fault_of, similarity, tokens

CHINESE = "\u600e\u4e48\u79cd\u7f57\u52d2\uff1f"  # How does one grow basil?


def test_tokens_are_words_or_characters_where_no_spaces_stand_between_words() -> None:
    assert tokens("How do I GROW basil?") == ["how", "do", "i", "grow", "basil"]
    assert tokens(CHINESE) == list(CHINESE[:-1])
    assert len(tokens("\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902")) == 2  # Hindi
    assert len(tokens("\u043a\u0430\u043a \u0434\u0435\u043b\u0430")) == 2  # Cyrillic
    assert len(tokens("\u0645\u0631\u062d\u0628\u0627 \u0628\u0643")) == 2  # Arabic
    assert len(tokens("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35")) == 4  # Thai, vowels on their letters
    assert tokens("\U0001f375\U0001f375 !") == ["\U0001f375", "\U0001f375", "!"]
    assert tokens("") == []


def test_similarity_is_rouge_l() -> None:
    # LCS "how do i grow" = 4 of 5 and 5 tokens: 2 * 4 / 10.
    assert similarity("How do I grow basil?", "how do I grow mint") == 0.8
    assert similarity("a b c d", "d c b a") == 0.25
    assert similarity(CHINESE, CHINESE[:2] + "\uff1f") == pytest.approx(2 * 2 / 7)


def test_a_pool_takes_what_is_new_and_says_whom_the_rest_repeats() -> None:
    pool = Pool(["How do I grow basil in a pot?"])
    assert pool.add("How do I grow basil in a small pot?") == "like_an_example"
    assert pool.add("When is the best time of the year to prune roses?") is None
    assert pool.add("WHEN is the best time of year to prune roses!") == "like_another"
    assert pool.add(CHINESE) is None
    assert pool.add(CHINESE + "\u5462") == "like_another"
    assert len(pool) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \n\u3000", "empty"),
        ("a\x00b", "garbled"),
        ("half a pair \ud83d", "garbled"),
        ("lost \ufffd bytes", "garbled"),
        ("word " * 1501, "too_long"),
        ("I am happy to help you. " * 20, "repetitive"),
        ("no " * 9, "repetitive"),
        (CHINESE * 30, "repetitive"),
        ("ok", "too_short"),
    ],
)
def test_unfit_texts_are_refused_with_their_reason(text: str, fault: str) -> None:
    assert fault_of(text, fewest_tokens=2) == fault


@pytest.mark.parametrize(
    "text",
    [
        "Water it in the morning,\n\tand never at noon.\r\n",
        CHINESE,
        "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645",  # Persian with its joiner
        "\U0001f469\u200d\U0001f373 tea \U0001f375",
        "Yes.",
        # A list of like sentences is no loop.
        "First boil the water. Then warm the pot. Then add one spoon of leaves for each cup, and "
        "one for the pot. Pour the water over the leaves, wait four minutes, and stir it once.",
    ],
)
def test_fit_texts_pass_in_every_script(text: str) -> None:
    assert fault_of(text) is None


def test_diversity_counts_distinct_words_and_pairs_and_the_nearest_other() -> None:
    # 9 tokens, 7 of them different; 6 pairs, 5 different; nearest: 2/3, 2/3 and 0.
    found = diversity(["a b c", "a b d", "x y z"])
    assert found == {"distinct_1": 0.7778, "distinct_2": 0.8333, "self_similarity": 0.4444}
    assert diversity(["same words", "same words"])["self_similarity"] == 1.0
    assert diversity([]) == {}
    assert diversity(["only one"])["self_similarity"] == 0.0
