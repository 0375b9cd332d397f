"""hh_rlhf and shp: rows become pairs, defects are dropped and counted, places can be moved."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.sources import hh_rlhf, shp
from chatllama_pipeline.data.sources.catalog import SOURCES, build_source, source_location
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.schemas import PAIR_SCHEMA

REAL_FILES = sorted((Path(__file__).parents[4] / "shared" / "data").glob("hh_rlhf*.jsonl.gz"))

# Turns of a prompt -> rows: 439 single questions, the longest of 35 turns.
REAL_TURNS = {
    1: 439, 3: 381, 5: 375, 7: 214, 9: 50, 11: 13, 13: 11, 15: 3, 17: 5, 19: 1, 21: 1, 23: 1, 35: 1
}  # fmt: skip

OPENING = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is rust?\n\nAssistant:"


def hh_row(
    chosen: str = f"{OPENING} Iron oxide.", rejected: str = f"{OPENING} Dunno."
) -> dict[str, Any]:
    return {"chosen": chosen, "rejected": rejected}


def shp_row(**changes: Any) -> dict[str, Any]:
    row = {
        "post_id": "p1",
        "domain": "askbaking_train",
        "history": "Why is my bread flat?",
        "human_ref_A": "Old yeast.",
        "human_ref_B": "No idea.",
        "labels": 1,
        "score_A": 30,
        "score_B": 10,
        "score_ratio": 3.0,
    }
    return {**row, **changes}


def test_an_hh_row_becomes_a_pair_with_a_prompt_of_several_turns() -> None:
    assert hh_rlhf.convert(hh_row()) == {
        "prompt": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "What is rust?"},
        ],
        "chosen": "Iron oxide.",
        "rejected": "Dunno.",
        "strength": 1.0,
        "source": "hh_rlhf",
        "domain": "",
    }


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        (hh_row(chosen=OPENING), "empty_reply"),
        (hh_row(rejected=f"{OPENING}  \n"), "empty_reply"),
        (hh_row(chosen=f"{OPENING} Iron.\n\nHuman: Thanks"), "ends_on_human_turn"),
        (hh_row(chosen=f"{OPENING} Iron.\n\nAssistant: Oxide."), "several_assistant_turns"),
        (hh_row(chosen=f"{OPENING} Nul \x00."), "nul_byte"),
        (hh_row(chosen=f"{OPENING} Half a pair \ud800."), "not_utf8"),
        (hh_row(chosen=f"{OPENING.replace('rust', 'moss')} A plant."), "prompts_differ"),
        (hh_row(rejected=f"{OPENING} Iron oxide. "), "identical_replies"),
        (hh_row(chosen="What is rust? Iron oxide."), "no_transcript"),
        (hh_row(chosen=""), "no_transcript"),
        (hh_row(chosen=f"\n\nAssistant: Hi.{OPENING} Iron."), "turns_do_not_alternate"),
        (hh_row(chosen=f"{OPENING.replace(' Hello.', '')} Iron."), "empty_turn"),
        ({"chosen": None, "rejected": "x"}, "not_text"),
        ({"history": "x"}, "not_text"),
    ],
)
def test_a_defect_of_an_hh_row_is_named(row: dict[str, Any], defect: str) -> None:
    assert hh_rlhf.convert(row) == defect


def test_an_shp_row_becomes_a_pair_as_its_label_says_with_its_ratio_as_strength() -> None:
    expected = {
        "prompt": [{"role": "user", "content": "Why is my bread flat?"}],
        "chosen": "Old yeast.",
        "rejected": "No idea.",
        "strength": 3.0,
        "source": "shp",
        # Its own train and test decide nothing here.
        "domain": "askbaking",
    }
    assert shp.convert(shp_row()) == expected
    assert shp.convert(shp_row(labels=0)) == {
        **expected,
        "chosen": "No idea.",
        "rejected": "Old yeast.",
    }


@pytest.mark.parametrize(
    ("changes", "defect"),
    [
        ({"history": " "}, "empty_prompt"),
        ({"human_ref_A": ""}, "empty_reply"),
        ({"human_ref_B": "Old yeast. "}, "identical_replies"),
        ({"labels": 2}, "no_label"),
        ({"labels": None}, "no_label"),
        ({"history": None}, "not_text"),
        ({"history": 5}, "not_text"),
        ({"human_ref_A": "a\x00b"}, "nul_byte"),
        ({"score_ratio": "much"}, "no_score_ratio"),
        ({"score_ratio": float("nan")}, "no_score_ratio"),
    ],
)
def test_a_defect_of_an_shp_row_is_named(changes: dict[str, Any], defect: str) -> None:
    assert shp.convert(shp_row(**changes)) == defect


def test_a_ratio_that_is_not_given_follows_from_the_scores() -> None:
    pair = shp.convert(shp_row(score_ratio=None, score_A=30, score_B=12))
    assert isinstance(pair, dict)
    assert pair["strength"] == 2.5  # 30 / 12
    pair = shp.convert(shp_row(score_ratio=None, score_A=None))
    assert isinstance(pair, dict)
    assert pair["strength"] == 1.0


def test_several_assistant_turns_inside_a_prompt_are_joined_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = OPENING.replace("Hello.", "Hello.\n\nAssistant: Again.")
    row = {"chosen": f"{twice} Iron oxide.", "rejected": f"{twice} Dunno."}
    pair = hh_rlhf.convert(row, "harmless-base")
    assert isinstance(pair, dict)
    assert [turn["content"] for turn in pair["prompt"]] == [
        "Hi",
        "Hello.\n\nAgain.",
        "What is rust?",
    ]
    assert (pair["domain"], pair["mended"]) == ("harmless-base", "several_assistant_turns")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("CHATLLAMA_HH_RLHF", str(tmp_path / "rows.jsonl"))
    outcome = build_source("hh_rlhf", tmp_path)
    assert (outcome.rows, outcome.metrics["mended"]) == (1, {"several_assistant_turns": 1})


@pytest.mark.parametrize("file", REAL_FILES, ids=lambda file: file.name)
def test_the_1500_real_rows_convert_with_the_right_numbers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_HH_RLHF", str(file))
    outcome = build_source("hh_rlhf", tmp_path)
    assert outcome.rows == 1495
    # 1,500 rows less 4 whose reply is empty and 1 that ends on two turns of the assistant.
    assert outcome.metrics["dropped"] == {"empty_reply": 4, "several_assistant_turns": 1}
    assert outcome.metrics["mended"] == {"several_assistant_turns": 3}
    assert [check.passed for check in outcome.checks] == [True, True]
    pairs = pq.read_table(tmp_path / "data.parquet").to_pylist()
    turns = Counter(len(pair["prompt"]) for pair in pairs)
    assert turns == REAL_TURNS
    assert sum(turns.values()) == 1495
    for pair in pairs:
        roles = [turn["role"] for turn in pair["prompt"]]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert pair["chosen"] != pair["rejected"]
        assert all(turn["content"] == turn["content"].strip() != "" for turn in pair["prompt"])


@pytest.mark.parametrize("kind", ["file", "gzipped", "parquet", "folder"])
def test_a_source_is_read_from_a_local_place_and_its_defects_are_counted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [hh_row(), hh_row(chosen=OPENING), hh_row(rejected=f"{OPENING} Rust never sleeps.")]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    output.mkdir()
    place = folder / "rows.jsonl"
    if kind == "gzipped":
        place = folder / "rows.jsonl.gz"
        place.write_bytes(gzip.compress(lines.encode()))
    elif kind == "parquet":
        place = folder / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), place)
    else:
        place.write_text(lines)
    monkeypatch.setenv("CHATLLAMA_HH_RLHF", str(folder if kind == "folder" else place))

    outcome = build_source("hh_rlhf", output)

    table = pq.read_table(output / "data.parquet")
    assert table.schema.equals(PAIR_SCHEMA)
    assert sorted(table["rejected"].to_pylist()) == ["Dunno.", "Rust never sleeps."]
    assert outcome.rows == 2
    assert outcome.metrics["dropped"] == {"empty_reply": 1}
    assert [(check.name, check.passed, check.blocking) for check in outcome.checks] == [
        ("schema", True, True),
        ("not_empty", True, True),
    ]


def test_a_source_whose_rows_are_all_defects_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(shp_row(labels=7)) + "\n")
    monkeypatch.setenv("CHATLLAMA_SHP", str(tmp_path / "rows.jsonl"))
    outcome = build_source("shp", tmp_path)
    assert outcome.rows == 0
    assert outcome.metrics["dropped"] == {"no_label": 1}
    (not_empty,) = (check for check in outcome.checks if check.name == "not_empty")
    assert not not_empty.passed
    assert "CHATLLAMA_SHP" in not_empty.description


def test_a_folder_without_rows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("CHATLLAMA_SHP", str(empty))
    with pytest.raises(
        DataError, match=r"empty holds no file that ends in \.parquet.*set CHATLLAMA_SHP"
    ):
        build_source("shp", tmp_path)


def test_the_grammar_is_written_in_full_and_twice_alike(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        assert build_source("grammar", folder).rows == 4096
    first, second = ((folder / "data.parquet").read_bytes() for folder in folders)
    assert first == second


def test_a_source_is_on_the_hub_unless_a_variable_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(SOURCES) == ["shp", "hh_rlhf", "grammar"]
    for variable in ("CHATLLAMA_SHP", "CHATLLAMA_HH_RLHF"):
        monkeypatch.delenv(variable, raising=False)
    assert [source_location(name) for name in SOURCES] == [
        "stanfordnlp/SHP",
        "Anthropic/hh-rlhf",
        "",
    ]
    monkeypatch.setenv("CHATLLAMA_SHP", "/data/shp")
    assert source_location("shp") == "/data/shp"


def test_loading_data_and_llm_imports_nothing_heavy() -> None:
    program = (
        "import sys; "
        "import chatllama_pipeline.data.prepare.datasets, chatllama_pipeline.data.own.personal, "
        "chatllama_pipeline.llm.scoring, chatllama_pipeline.llm.synthetic; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
