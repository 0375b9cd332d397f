"""Length limits hold for every row; texts are tokenized only where bytes leave doubt, once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.datasets import build_actor_training_data
from chatllama_pipeline.data.prepare.lengths import counted_by, lengths_identity, limits_of
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.data.prepare.tokens import TURN_TOKENS, TokenCounter, fit
from chatllama_pipeline.data.spill.known import Known
from chatllama_pipeline.data.splits import split_of
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.manifests import hash_file

NAMES = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima"
WORDS = NAMES.split()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE that has each of `WORDS` as one token."""
    tokenizer = ByteLevelBPETokenizer()
    texts = [f"{NAMES} {NAMES}", *WORDS] * 8
    tokenizer.train_from_iterator(texts, vocab_size=600, show_progress=False)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def says(count: int, start: int = 0) -> str:
    """A text of words that the tiny tokenizer knows as few tokens."""
    return " ".join(WORDS[(start + n) % len(WORDS)] for n in range(count))


def talk(*counts: int) -> list[dict[str, str]]:
    return [
        {"role": "user" if n % 2 == 0 else "assistant", "content": says(count, n)}
        for n, count in enumerate(counts)
    ]


def pair(prompt: list[dict[str, str]], chosen: str, rejected: str = "no") -> dict[str, Any]:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "strength": 1.0}
    return {**row, "source": "shp", "domain": ""}


def assistant(tokenizer: Path | str, **data: Any) -> AssistantSettings:
    raw = {"data": {"sources": ["shp"], **data}, "actor_config": {"tokenizer_path": str(tokenizer)}}
    return AssistantSettings.model_validate(raw)


def counter_of(settings: AssistantSettings) -> TokenCounter:
    return TokenCounter(counted_by(settings), Known.alone(0, Path()))


def build(
    root: Path, rows: list[dict[str, Any]], settings: AssistantSettings
) -> tuple[list[dict[str, Any]], Outcome]:
    for name in ("shp", "personal", "out", "actor", "none"):
        (root / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), root / "shp" / "data.parquet")
    for name, schema in TABLES.items():
        pq.write_table(schema.empty_table(), root / "personal" / f"{name}.parquet")
    pq.write_table(TABLES["actor"].empty_table(), root / "none" / "data.parquet")
    outcome = build_preference_data(
        {"shp": root / "shp"}, root / "personal", settings, root / "out"
    )
    return pq.read_table(root / "out" / "data.parquet").to_pylist(), outcome


def test_a_prompt_is_cut_at_a_turn_s_border_and_a_reply_never(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    # Each word is a token, each turn and the reply are allowed 8 more.
    long = pair(talk(40, 40, 20), says(12))  # 100 + 12 + 4 * 8 = 144; cut 20 + 12 + 2 * 8 = 48
    short = pair(talk(2, 2, 2), says(2))  # 8 + 4 * 8 = 40
    golf = [{"role": "user", "content": " ".join(["golf"] * 80)}]
    exact = pair(golf, " ".join(["hotel"] * 23))  # 103 + 2 * 8 = 119
    one_more = pair(golf, " ".join(["india"] * 24))  # 120
    wordy = pair(talk(3), says(100))
    # All of them train: some begin alike.
    shares = {"test_share": 1e-9, "validation_share": 1e-9}
    settings = assistant(tokenizer_folder, max_length=119, max_reply_length=99, **shares)
    rows, outcome = build(tmp_path, [long, short, exact, one_more, wordy], settings)
    assert {row["chosen"]: row["prompt"] for row in rows} == {
        says(12): long["prompt"][2:],
        says(2): short["prompt"],
        exact["chosen"]: golf,
    }
    assert outcome.metrics["dropped"] == {"too_long": 2}
    assert outcome.metrics["cut_prompts"] == 1


def test_a_cut_prompt_stays_on_the_side_of_its_first_turn_and_leaks_nothing(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    last = {"role": "user", "content": "and then?"}
    rows = [
        pair(
            [
                {"role": "user", "content": f"question {number} {says(30)}"},
                {"role": "assistant", "content": says(30)},
                last,
            ],
            f"reply {number} {says(5)}",
        )
        for number in range(60)
    ]
    settings = assistant(tokenizer_folder, max_length=60, test_share=0.2)
    kept, outcome = build(tmp_path, rows, settings)
    assert {row["prompt"][0]["content"] for row in kept} == {"and then?"}
    # All end in one visible prompt: it may stand on one side alone.
    assert {row["split"] for row in kept} == {"test"}
    before = {row["chosen"]: split_of(row["prompt"], settings.data) for row in rows}
    assert {before[row["chosen"]] for row in kept} == {"test"}
    assert outcome.metrics["dropped"]["near_repeat"] == 60 - len(kept)


def test_the_longest_texts_are_tokenized_until_bytes_leave_no_doubt_and_each_once(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    doubtful = talk(30)
    rows = [pair(doubtful, says(4, n), says(3, n)) for n in range(6)]
    rows += [pair(talk(2), f"short {n}") for n in range(5)]
    # 30 words are over 100 bytes, and about as many tokens as words.
    settings = assistant(tokenizer_folder, max_length=130)
    kept, outcome = build(tmp_path, rows, settings)
    assert len(kept) + sum(outcome.metrics["dropped"].values()) == 11
    # The post; beside its tokens the bytes of the replies fit.
    assert outcome.metrics["tokenized_texts"] == 1
    actor = build_actor_training_data(
        tmp_path / "out", tmp_path / "none", tmp_path / "personal", settings, tmp_path / "actor"
    )
    assert actor.metrics["tokenized_texts"] == 0


@pytest.mark.parametrize("limit", range(60, 200, 7))
def test_rows_fit_as_they_do_where_every_text_is_tokenized(
    tokenizer_folder: Path, limit: int
) -> None:
    draw = random.Random(limit)
    rows = [
        pair(talk(*(draw.randint(1, 40) for _ in range(draw.choice([1, 3, 5])))), says(n % 50 + 1))
        for n in range(60)
    ]
    settings = assistant(tokenizer_folder, max_length=limit, max_reply_length=40)
    table, limits = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), limits_of(settings)
    fits, cuts = fit(table, ("chosen", "rejected"), limits, counter_of(settings))
    every = counter_of(settings).counts(
        text for r in rows for text in (*(t["content"] for t in r["prompt"]), r["chosen"], "no")
    )
    for number, row in enumerate(rows):
        turns = [every[turn["content"]] + TURN_TOKENS for turn in row["prompt"]]
        room = limit - every[row["chosen"]] - TURN_TOKENS
        whole = [first for first in range(0, len(turns), 2) if sum(turns[first:]) <= room]
        assert fits[number] == (bool(whole) and every[row["chosen"]] <= 40)
        assert not fits[number] or cuts[number] == whole[0]


def test_what_was_counted_is_not_tokenized_again(tokenizer_folder: Path) -> None:
    counter = counter_of(assistant(tokenizer_folder))
    assert counter.counts([says(3), says(4), says(3)]) == {says(3): 3, says(4): 4}
    assert counter.counts([says(4), says(5)]) == {says(4): 4, says(5): 5}
    assert len(counter.taken()) == 3
    assert len(counter.taken()) == 0


def test_a_model_from_scratch_counts_bytes_and_only_where_a_limit_is_set(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"data": {"sources": ["shp"]}, "actor_config": {"model": "scratch"}}
    settings = AssistantSettings.model_validate(raw)
    assert limits_of(settings).total is None
    assert lengths_identity(settings) == {}
    raw["data"]["max_length"] = 100
    settings = AssistantSettings.model_validate(raw)
    # 40 + 8 + 40 + 8 = 96 bytes and allowances fit, 45 + 8 + 45 + 8 = 106 don't.
    rows = [pair([{"role": "user", "content": "q" * n}], "a" * n, "b" * n) for n in (40, 45)]
    kept, outcome = build(tmp_path, rows, settings)
    assert [row["chosen"] for row in kept] == ["a" * 40]
    assert outcome.metrics["dropped"] == {"too_long": 1}


def test_another_tokenizer_is_another_input_and_where_it_stands_is_not(tmp_path: Path) -> None:
    identities = []
    for name, content in (("a", "{}"), ("b", "{}"), ("c", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(content)
        identities.append(lengths_identity(assistant(tmp_path / name)))
    assert identities[0] == identities[1] != identities[2]
    assert identities[0]["total"] == 2048


def test_a_gguf_files_own_tokenizer_counts(tiny_gguf: Path, tiny_base_folder: Path) -> None:
    texts = [says(3), says(20), "naïve ☃ 1234"]
    for model in (
        {"model": str(tiny_gguf)},
        {"model": str(tiny_gguf.parent), "gguf_file": "tiny.gguf"},
    ):
        settings = AssistantSettings.model_validate({"actor_config": model})
        counted = counter_of(settings).counts(texts)
        assert counted == counter_of(assistant(tiny_base_folder)).counts(texts)
        assert lengths_identity(settings)["tokenizer"] == hash_file(tiny_gguf)


def test_a_limit_in_doubt_without_a_tokenizer_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = assistant(tmp_path / "empty", max_length=20)
    with pytest.raises(DataError) as failure:
        build(tmp_path / "a", [pair(talk(9), "yes")], settings)
    assert "gives no tokenizer.json to count them by" in str(failure.value)
    assert "set actor_config.tokenizer_path to a folder that holds one" in str(failure.value)
    kept, _ = build(
        tmp_path / "b", [pair(talk(1), "y")], assistant(tmp_path / "empty", max_length=40)
    )
    assert len(kept) == 1


def test_a_row_of_five_megabytes_is_dropped_as_too_long(tmp_path: Path) -> None:
    long = [{"role": "user", "content": says(900_000)}]
    rows = [pair(long, "yes"), pair(talk(3), "yes")]
    kept, outcome = build(tmp_path, rows, assistant("scratch", max_length=2048))
    assert len(long[0]["content"]) > 5_000_000
    assert (len(kept), outcome.metrics["dropped"]) == (1, {"too_long": 1})


def test_truncation_and_padding_in_a_tokenizers_file_are_not_obeyed(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    core = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    core.enable_truncation(16)
    core.enable_padding(length=64)
    core.save(str(tmp_path / "tokenizer.json"))
    baked = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [len(baked.encode(says(count))) for count in (2, 240)] == [64, 64]
    counter = counter_of(assistant(tmp_path, max_length=300))
    assert list(counter.counts([says(2), says(240)]).values()) == [2, 240]


def test_control_tokens_that_a_text_spells_count_as_the_text_they_are(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    core = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    spelled = len(core.encode("<|end_of_turn|>").ids)
    core.add_special_tokens(["<|end_of_turn|>"])
    core.save(str(tmp_path / "tokenizer.json"))
    counter = counter_of(assistant(tmp_path, max_length=300))
    texts = ["<|end_of_turn|>", f"{says(2)}<|end_of_turn|>"]
    assert list(counter.counts(texts).values()) == [spelled, 2 + spelled]
    assert spelled > 1


def test_texts_are_counted_whole_by_a_tokenizer_that_was_saved_while_it_cut_and_padded(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    core = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    core.enable_truncation(4)
    core.enable_padding(length=32)
    core.save(str(tmp_path / "tokenizer.json"))
    texts = [says(2), says(40)]
    expected = counter_of(assistant(tokenizer_folder)).counts(texts)
    assert list(expected.values()) == [2, 40]
    assert counter_of(assistant(tmp_path)).counts(texts) == expected
