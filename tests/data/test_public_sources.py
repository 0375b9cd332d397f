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

from chatllama_pipeline.data import hh_rlhf, shp
from chatllama_pipeline.data.sources import SOURCES, build_source, source_location
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import PAIR_SCHEMA

REAL_FILES = sorted((Path(__file__).parents[3] / "shared" / "data").glob("hh_rlhf*.jsonl.gz"))

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
        "domain": "askbaking_train",
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
    ],
)
def test_a_defect_of_an_shp_row_is_named(changes: dict[str, Any], defect: str) -> None:
    assert shp.convert(shp_row(**changes)) == defect


@pytest.mark.parametrize("file", REAL_FILES, ids=lambda file: file.name)
def test_real_hh_rows_become_pairs_whose_prompts_alternate_and_end_with_the_user(
    file: Path,
) -> None:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        converted = [hh_rlhf.convert(json.loads(line)) for line in lines]
    pairs = [row for row in converted if isinstance(row, dict)]
    assert len(pairs) > 0.95 * len(converted)
    for pair in pairs:
        roles = [turn["role"] for turn in pair["prompt"]]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert roles[-1] == "user"
        assert pair["chosen"] != pair["rejected"]
        assert all(turn["content"] for turn in pair["prompt"])
    defects = Counter(row for row in converted if isinstance(row, str))
    assert defects.total() + len(pairs) == len(converted)


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
    assert table["rejected"].to_pylist() == ["Dunno.", "Rust never sleeps."]
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


def test_a_failed_download_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_SHP", "nobody/there-is-no-such-dataset@main")
    with pytest.raises(DataError) as failure:
        build_source("shp", tmp_path)
    assert "'nobody/there-is-no-such-dataset@main' could not be read" in str(failure.value)
    assert "set CHATLLAMA_SHP" in str(failure.value)


def test_a_folder_without_rows_and_a_broken_file_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("CHATLLAMA_SHP", str(empty))
    with pytest.raises(
        DataError, match=r"CHATLLAMA_SHP=.*empty holds no file that ends in \.jsonl"
    ):
        build_source("shp", tmp_path)
    (empty / "rows.jsonl").write_text("{no json")
    with pytest.raises(DataError, match=r"could not be read.*set CHATLLAMA_SHP"):
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
        "import sys; import chatllama_pipeline.data.datasets, chatllama_pipeline.data.personal, "
        "chatllama_pipeline.llm.scoring, chatllama_pipeline.llm.synthetic; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
